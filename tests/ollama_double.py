"""A strict stand-in for an Ollama server, on a real loopback socket.

It keeps blobs and models, checks digests, streams creations and answers chats,
with the statuses, bodies and orders of Ollama 0.33. It is stricter in one way:
a field that Ollama would ignore is an error here, so that a misspelt one shows.

    with OllamaDouble(tmp_path) as ollama:
        OllamaClient(ollama.url).version()

Faults: `version="0.4.0"` (behaves as that version did), `disk_bytes=1000` (an
upload beyond it dies with "no space left on device"), `delay_s=5` (slow),
`break_create_after="parsing GGUF"` (the connection ends there), and
`refused_url()` for a server that is down.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
NAME = re.compile(r"([\w][\w.:-]*/)?([\w][\w-]*/)?[\w][\w.-]{0,79}(:[\w][\w.-]{0,79})?", re.ASCII)
CREATED_AT = "2026-11-24T09:00:00Z"
FIELDS = {
    "/api/show": {"model", "verbose"},
    "/api/create": {
        "model", "stream", "from", "files", "adapters", "template", "license", "system", "parameters", "quantize",
    },
    "/api/chat": {"model", "messages", "stream", "options", "keep_alive", "truncate", "think", "_debug_render_only"},
    "/api/generate": {"model", "prompt", "stream", "options", "keep_alive"},
    "/api/delete": {"model"},
}  # fmt: skip
INTEGERS = {
    "num_ctx",
    "num_predict",
    "num_batch",
    "num_gpu",
    "num_thread",
    "num_keep",
    "seed",
    "top_k",
    "repeat_last_n",
}
NUMBERS = {"temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"}

Message = dict[str, str]


@dataclass
class DoubleModel:
    """A model as it was created."""

    name: str
    files: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    template: str = "{{ .Prompt }}"
    system: str = ""
    license: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    size: int = 0
    digest: str = ""


@dataclass
class Recorded:
    """A request as it arrived. `body` is parsed JSON, or the number of bytes of an upload."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Refusal(Exception):
    """An error reply."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def plain_render(template: str, messages: list[Message]) -> str:
    """The default rendering: ChatML, whatever the template. Give `render` to look at the template."""
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return turns + "<|im_start|>assistant\n"


class OllamaDouble:
    """The server. Use it as a context manager.

    Args:
        folder: where blobs are kept.
        render: (template, messages) -> prompt, for `_debug_render_only`; the messages include the model's
            own system prompt where Ollama would put it in front.
        gguf_template: rendered instead of the model's own TEMPLATE, as recent Ollama does where the chat template
            inside the GGUF can do more (tools) than the TEMPLATE.
        reply: (model, messages, options) -> answer of a chat; options are the model's with the request's over them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        version: str = "0.33.0",
        render: Callable[[str, list[Message]], str] = plain_render,
        reply: Callable[[DoubleModel, list[Message], dict[str, Any]], str] = lambda model, messages, options: "Fine.",
        disk_bytes: int | None = None,
        delay_s: float = 0.0,
        break_create_after: str | None = None,
        gguf_template: str | None = None,
    ) -> None:
        self.folder = folder
        self.version = version
        self.render = render
        self.reply = reply
        self.disk_bytes = disk_bytes
        self.delay_s = delay_s
        self.break_create_after = break_create_after
        self.gguf_template = gguf_template
        self.models: dict[str, DoubleModel] = {}
        self.loaded: dict[str, DoubleModel] = {}
        self.gpu_share = 1.0
        self.requests: list[Recorded] = []
        self.lock = threading.Lock()
        self._stopping = threading.Event()
        (folder / "blobs").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> OllamaDouble:
        handler = type("Handler", (_Handler,), {"double": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host}:{port}"

    def install(self, name: str, **facts: Any) -> DoubleModel:
        """Put a model there without an upload."""
        model = DoubleModel(name=full_name(name), **facts)
        model.digest = hashlib.sha256(repr(model).encode()).hexdigest()
        self.models[model.name] = model
        return model

    def load(self, name: str) -> None:
        """Have a model in memory, as after a chat."""
        self.loaded[full_name(name)] = self.models[full_name(name)]

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest.replace(":", "-")

    def paths(self) -> list[str]:
        """ "METHOD /path" of every request so far."""
        return [f"{request.method} {request.path}" for request in self.requests]

    def older_than(self, *version: int) -> bool:
        return tuple(int(number) for number in re.findall(r"\d+", self.version)[:3]) < version

    def wait(self) -> None:
        if self.delay_s:
            self._stopping.wait(self.delay_s)

    def find(self, name: Any, missing_status: int = 404) -> DoubleModel:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise Refusal(400, "invalid model name")
        with self.lock:
            model = self.models.get(full_name(name))
        if model is None:
            raise Refusal(missing_status, f"model '{name}' not found")
        return model

    # What each path answers.

    def tags(self) -> dict[str, Any]:
        return {
            "models": [
                {
                    "name": model.name,
                    "model": model.name,
                    "modified_at": CREATED_AT,
                    "size": model.size,
                    "digest": model.digest,
                    "details": {
                        "parent_model": "",
                        "format": "gguf",
                        "family": "llama",
                        "families": ["llama"],
                        "parameter_size": "134.5M",
                        "quantization_level": "Q4_K_M",
                    },
                }
                for model in self.models.values()
            ]
        }

    def ps(self) -> dict[str, Any]:
        return {
            "models": [
                {
                    "name": model.name,
                    "model": model.name,
                    "size": model.size,
                    "size_vram": int(model.size * self.gpu_share),
                    "digest": model.digest,
                    "expires_at": "2026-11-24T09:05:00Z",
                    "context_length": model.parameters.get("num_ctx", 4096),
                }
                for model in self.loaded.values()
            ]
        }

    def show(self, body: dict[str, Any]) -> dict[str, Any]:
        model = self.find(body.get("model"))
        lines = []
        for key, value in model.parameters.items():
            lines += [f"{key:<30} {json.dumps(item)}" for item in (value if isinstance(value, list) else [value])]
        return {
            "modelfile": f"FROM {self.blob(next(iter(model.files.values()), 'none'))}\nTEMPLATE {model.template}\n",
            "parameters": "\n".join(lines),
            "template": model.template,
            "system": model.system,
            "license": model.license,
            "details": self.tags()["models"][0]["details"],
            "model_info": {"general.architecture": "llama"},
            "capabilities": ["completion"],
            "modified_at": CREATED_AT,
        }

    def creation(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Status lines; a Refusal raised before the first one is an HTTP status, later it is a line."""
        name = body.get("model")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise Refusal(400, "invalid model name")
        files, adapters = body.get("files") or {}, body.get("adapters") or {}
        if self.older_than(0, 5, 5):
            raise Refusal(400, "path or Modelfile are required")
        for file, digest in {**files, **adapters}.items():
            if file.startswith("/") or ".." in file.split("/"):
                raise Refusal(400, "file path must be relative")
            if not digest:
                raise Refusal(400, "invalid digest format")
        model = DoubleModel(name=full_name(name), files=dict(files), adapters=dict(adapters))
        if body.get("from"):
            base = self.find(body["from"])
            model = DoubleModel(**{**vars(base), "name": full_name(name), "adapters": dict(adapters)})
        elif not files:
            raise Refusal(400, "neither 'from' or 'files' was specified")
        for digest in (*files.values(), *adapters.values()):
            yield {"status": "parsing GGUF"}
            model.size += self._gguf_size(digest)
        if body.get("quantize"):
            raise Refusal(500, "quantization is only supported for F16, BF16 and F32 models")
        template = body.get("template", "")
        if template.count("{{") != template.count("}}"):
            raise Refusal(400, "template error: unclosed action")
        model.template = template or model.template
        model.system, model.license = body.get("system", ""), body.get("license", "")
        model.parameters = body.get("parameters", {})
        model.digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        for digest in model.files.values():
            yield {"status": "validating GGUF model", "digest": "0", "total": model.size, "completed": model.size // 2}
            yield {"status": "validating GGUF model", "digest": "0", "total": model.size, "completed": model.size}
            yield {"status": "verifying conversion"}
            yield {"status": f"using existing layer {digest}"}
        yield {"status": f"creating new layer sha256:{model.digest}"}
        yield {"status": "writing manifest"}
        with self.lock:
            self.models[model.name] = model
        yield {"status": "success"}

    def _gguf_size(self, digest: str) -> int:
        if not DIGEST.fullmatch(digest):
            raise Refusal(500, "invalid digest format")
        path = self.blob(digest)
        if not path.exists():
            raise Refusal(500, f"open /root/.ollama/models/blobs/{path.name}: no such file or directory")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise Refusal(400, "supplied file was not in GGUF format")
        return path.stat().st_size

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        model = self.find(body.get("model"))
        messages = body.get("messages") or []
        answer: dict[str, Any] = {"model": body["model"], "created_at": CREATED_AT}
        if not messages:
            reason = "unload" if body.get("keep_alive") == 0 else "load"
            self.loaded.pop(model.name, None) if reason == "unload" else self.load(model.name)
            return answer | {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason}
        for message in messages:
            if message.get("role") not in ("system", "user", "assistant", "tool"):
                raise Refusal(400, f"invalid role: {message.get('role')}")
        options = model.parameters | (body.get("options") or {})
        _check_options(options)
        if messages[0]["role"] != "system" and model.system:
            messages = [{"role": "system", "content": model.system}, *messages]
        self.load(model.name)
        if body.get("_debug_render_only") and not self.older_than(0, 11, 5):
            rendered = self.render(self.gguf_template or model.template, messages)
            return answer | {
                "message": {"role": "", "content": ""},
                "done": False,
                "_debug_info": {"rendered_template": rendered},
            }
        content = self.reply(model, messages, options)
        words = len(content.split())
        limit = options.get("num_predict", -1)
        cut = 0 <= limit < words
        return answer | {
            "message": {"role": "assistant", "content": " ".join(content.split()[:limit]) if cut else content},
            "done": True,
            "done_reason": "length" if cut else "stop",
            "total_duration": 1_500_000_000,
            "prompt_eval_count": sum(len(message["content"].split()) for message in messages),
            "eval_count": limit if cut else words,
        }

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        model = self.find(body.get("model"))
        answer = {"model": body["model"], "created_at": CREATED_AT, "response": "", "done": True}
        if not body.get("prompt") and body.get("keep_alive") == 0:
            self.loaded.pop(model.name, None)
            return answer | {"done_reason": "unload"}
        raise Refusal(500, "the double does not generate; use /api/chat")

    def delete(self, body: dict[str, Any]) -> None:
        model = self.find(body.get("model"))
        with self.lock:
            del self.models[model.name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    double: OllamaDouble

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._record(None)
        answers = {"/api/version": lambda: {"version": self.double.version}, "/api/tags": self.double.tags}
        answers["/api/ps"] = self.double.ps
        self._answer(answers.get(self.path))

    def do_HEAD(self) -> None:
        self._record(None)
        self.double.wait()
        digest = self._digest()
        self._send(400 if digest is None else 200 if self.double.blob(digest).exists() else 404, b"")

    def do_POST(self) -> None:
        if self.path.startswith("/api/blobs/"):
            self._take_blob()
            return
        body = self._body()
        if body is None:
            return
        if self.path == "/api/create":
            self._create(body)
            return
        answers = {"/api/show": self.double.show, "/api/chat": self.double.chat, "/api/generate": self.double.generate}
        answer = answers.get(self.path)
        self._answer(answer and (lambda: answer(body)), stream=self.path != "/api/show" and body.get("stream", True))

    def do_DELETE(self) -> None:
        body = self._body()
        if body is not None:
            self._answer((lambda: self.double.delete(body)) if self.path == "/api/delete" else None)

    def _record(self, body: Any) -> None:
        with self.double.lock:
            self.double.requests.append(Recorded(self.command, self.path, dict(self.headers), body))

    def _digest(self) -> str | None:
        digest = self.path.removeprefix("/api/blobs/")
        return digest if DIGEST.fullmatch(digest) else None

    def _body(self) -> dict[str, Any] | None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw) if raw else None
        except ValueError as error:
            body = None
            self._record(raw)
            self._error(400, str(error))
            return None
        self._record(body)
        if not isinstance(body, dict):
            self._error(400, "missing request body")
            return None
        unknown = set(body) - FIELDS.get(self.path, set(body))
        if unknown:
            self._error(400, f"the double knows no field {sorted(unknown)} of {self.path}")
            return None
        return body

    def _answer(self, answer: Callable[[], Any] | None, stream: bool = False) -> None:
        self.double.wait()
        if answer is None:
            self._send(404, b"404 page not found", "text/plain")
            return
        try:
            result = answer()
        except Refusal as refusal:
            self._error(refusal.status, refusal.message)
            return
        kind = "application/x-ndjson" if stream else "application/json; charset=utf-8"
        self._send(200, b"" if result is None else json.dumps(result).encode() + b"\n" * stream, kind)

    def _create(self, body: dict[str, Any]) -> None:
        self.double.wait()
        lines = self.double.creation(body)
        try:
            first = next(lines)
        except Refusal as refusal:
            self._error(refusal.status, refusal.message)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._line(first)
            for line in lines:
                if self.double.break_create_after == first["status"]:
                    self.close_connection = True
                    return  # without the closing chunk
                first = line
                self._line(line)
        except Refusal as refusal:
            self._line({"error": refusal.message})
        self.wfile.write(b"0\r\n\r\n")

    def _line(self, record: dict[str, Any]) -> None:
        data = json.dumps(record).encode() + b"\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _take_blob(self) -> None:
        self.double.wait()
        digest = self._digest()
        if digest is None:
            self._record(0)
            self.close_connection = True
            self._error(400, "invalid digest format")
            return
        temporary = self.double.blob(f"{digest}.{threading.get_ident()}")
        try:
            received, actual = self._store(temporary)
            self._record(received)
            if actual is None:
                self.close_connection = True
                name = f"/root/.ollama/models/blobs/sha256-{threading.get_ident()}"
                self._error(500, f"write {name}: no space left on device")
            elif actual != digest:
                self._error(400, f'digest mismatch, expected "{digest}", got "{actual}"')
            else:
                temporary.replace(self.double.blob(digest))
                self._send(201, b"")
        finally:
            temporary.unlink(missing_ok=True)

    def _store(self, path: Path) -> tuple[int, str | None]:
        """(bytes received, digest), or (…, None) when the disk was full before the end."""
        sha, received = hashlib.sha256(), 0
        with path.open("wb") as file:
            for chunk in self._upload():
                received += len(chunk)
                if self.double.disk_bytes is not None and received > self.double.disk_bytes:
                    return received, None
                sha.update(chunk)
                file.write(chunk)
        return received, f"sha256:{sha.hexdigest()}"

    def _upload(self) -> Iterator[bytes]:
        if "Content-Length" in self.headers:
            left = int(self.headers["Content-Length"])
            while left > 0 and (chunk := self.rfile.read(min(left, 1 << 16))):
                left -= len(chunk)
                yield chunk
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _error(self, status: int, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode())

    def _send(self, status: int, content: bytes, kind: str = "application/json; charset=utf-8") -> None:
        # A client that timed out is gone, and that is its business.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)


def full_name(name: str) -> str:
    """The name with its tag, as Ollama lists it."""
    return name if name.rfind(":") > name.rfind("/") else f"{name}:latest"


def refused_url() -> str:
    """The address of a server that is down: a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def _check_options(options: dict[str, Any]) -> None:
    for key, value in options.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in INTEGERS and not number:
            raise Refusal(500, f'option "{key}" must be of type integer')
        if key in NUMBERS and not number:
            raise Refusal(500, f'option "{key}" must be of type float32')
        if key == "stop" and not isinstance(value, list):
            raise Refusal(500, 'option "stop" must be of type array')
