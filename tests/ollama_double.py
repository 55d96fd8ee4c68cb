"""A strict stand-in for an Ollama server, on a real loopback socket.

It keeps blobs and models, checks digests, streams creations and answers chats,
with the statuses, bodies and orders of Ollama 0.33. It is stricter in one way:
a field that Ollama would ignore is an error here, so that a misspelt one shows.

    with OllamaDouble(tmp_path) as ollama:
        OllamaClient(ollama.url).version()

Faults: `version="0.4.0"` (behaves as that version did), `disk_bytes=1000` (what
does not fit dies with "no space left on device"), `delay_s=5` (slow),
`break_create_after="parsing GGUF"` (the connection ends there), `drop_uploads=2`
(the next two end at 60 %, without an answer), `stop()` and `start()` (it dies and
comes back, with its blobs and models), `instead` (a proxy answers in its place),
`drops={"_debug_render_only"}` (a proxy lets that field fall), and `refused_url()`
for a server that is down.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.ollama_store import (
    DIGEST,
    OWN_ENGINE,
    DoubleModel,
    Refusal,
    Store,
    full_name,
    prefers_chat_template,
    thinks,
)

CREATED_AT = "2026-11-24T09:00:00Z"
DROPPED_AT = 0.6  # of a file's bytes
FIELDS = {
    "/api/show": {"model", "verbose"},
    "/api/create": {
        "model", "stream", "from", "files", "adapters", "template", "license", "system", "parameters", "messages",
        "quantize", "renderer", "parser", "requires", "info",
    },
    "/api/chat": {"model", "messages", "stream", "options", "keep_alive", "truncate", "think", "_debug_render_only"},
    "/api/generate": {"model", "prompt", "stream", "options", "keep_alive"},
    "/api/copy": {"source", "destination"},
    "/api/delete": {"model"},
}  # fmt: skip
INTEGERS = {
    "num_ctx", "num_predict", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed", "top_k",
    "repeat_last_n", "draft_num_predict",
}  # fmt: skip
NUMBERS = {"temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"}

Message = dict[str, str]
Instead = Callable[[str, str], tuple[int, bytes, str] | None]  # (method, path) → status, body, content type


@dataclass
class Recorded:
    """A request as it arrived. `body` is parsed JSON, or the number of bytes of an upload."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


def plain_render(template: str, messages: list[Message]) -> str:
    """The default rendering: ChatML, whatever the template. Give `render` to look at the template."""
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return turns + "<|im_start|>assistant\n"


class OllamaDouble:
    """The server. Use it as a context manager.

    Args:
        folder: where blobs are kept.
        render: (template, messages) -> prompt, for `_debug_render_only`; the template is Go's, or Jinja where Ollama
            would take the one inside the GGUF; the messages include the model's own system prompt and messages where
            Ollama would put them in front.
        gguf_template: taken for the chat template inside every GGUF, where those uploaded are no real ones.
        reply: (model, messages, options) -> answer of a chat; options are the model's with the request's over them.
            It ends at the first stop in it.
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
        self.store = Store(folder, disk_bytes)
        self.version = version
        self.render = render
        self.reply = reply
        self.delay_s = delay_s
        self.break_create_after = break_create_after
        self.gguf_template = gguf_template
        self.drop_uploads = 0
        self.on_drop: Callable[[], None] = lambda: None
        self.instead: Instead = lambda method, path: None
        self.drops: frozenset[str] = frozenset()
        self.loaded: dict[str, DoubleModel] = {}
        self.gpu_share = 1.0
        self.requests: list[Recorded] = []
        self.lock = threading.Lock()
        self._stopping = threading.Event()
        self._address = ("127.0.0.1", 0)
        self._server: ThreadingHTTPServer | None = None

    @property
    def models(self) -> dict[str, DoubleModel]:
        return self.store.models

    @property
    def disk_bytes(self) -> int | None:
        return self.store.disk_bytes

    @disk_bytes.setter
    def disk_bytes(self, size: int | None) -> None:
        self.store.disk_bytes = size

    def __enter__(self) -> OllamaDouble:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.stop()

    def start(self) -> None:
        """Begin to answer; after `stop`, at the same address."""
        handler = type("Handler", (_Handler,), {"double": self})
        server = ThreadingHTTPServer(self._address, handler)
        server.daemon_threads = True
        self._server, self._address = server, (server.server_address[0], server.server_address[1])
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections. What it kept stays; no model is in memory any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(timeout=5)
            self._server = None
            self.loaded.clear()

    @property
    def url(self) -> str:
        host, port = self._address
        return f"http://{host}:{port}"

    def install(self, name: str, **facts: Any) -> DoubleModel:
        """Put a model there without an upload."""
        model = DoubleModel(name=full_name(name), **facts)
        model.stamp()
        self.models[model.name] = model
        return model

    def load(self, name: str) -> None:
        """Have a model in memory, as after a chat."""
        model = self.store.find(name)
        self.loaded[model.name] = model

    def blob(self, digest: str) -> Path:
        return self.store.blob(digest)

    def paths(self) -> list[str]:
        """ "METHOD /path" of every request so far."""
        return [f"{request.method} {request.path}" for request in self.requests]

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(number) for number in re.findall(r"\d+", self.version)[:3])

    def wait(self) -> None:
        if self.delay_s:
            self._stopping.wait(self.delay_s)

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
                    "details": _details(model),
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
        model = self.store.find(body.get("model"))
        lines = []
        for key, value in model.parameters.items():
            lines += [f"{key:<30} {json.dumps(item)}" for item in (value if isinstance(value, list) else [value])]
        hidden = {"general.name", "tokenizer.chat_template"}
        # Long lists are left out unless they are asked for.
        info = {key: [] if isinstance(value, list) and len(value) > 5 else value for key, value in model.info.items()}
        return {
            "modelfile": model.modelfile(self.store.blobs),
            "parameters": "\n".join(lines),
            "template": model.chat_template if self.renders_chat_template(model) else model.template,
            "system": model.system,
            "license": model.license,
            "messages": model.messages,
            "details": _details(model),
            "model_info": {"general.architecture": "llama"} | {k: v for k, v in info.items() if k not in hidden},
            "capabilities": ["completion"],
            "modified_at": CREATED_AT,
        }

    def creation(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        return self.store.creation(body, self.numbers)

    def renders_chat_template(self, model: DoubleModel) -> bool:
        if self.gguf_template:
            model.info["tokenizer.chat_template"] = self.gguf_template
        return self.numbers >= (0, 30, 0) and prefers_chat_template(model)

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        model = self.store.find(body.get("model"))
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
        self._check_adapter(model)
        own = [{"role": "system", "content": model.system}] if model.system and messages[0]["role"] != "system" else []
        messages = [*own, *model.messages, *messages]
        self.load(model.name)
        template = model.template or "{{ .Prompt }}"
        if self.renders_chat_template(model):
            template = model.chat_template
        if body.get("_debug_render_only") and self.numbers >= (0, 11, 5):
            rendered = f"[{model.renderer}]" if model.renderer else self.render(template, messages)
            return answer | {
                "message": {"role": "", "content": ""},
                "done": False,
                "_debug_info": {"rendered_template": rendered},
            }
        if body.get("keep_alive") == 0:
            self.loaded.pop(model.name, None)
        return answer | self._reply(model, messages, options, thinking=thinks(template))

    def _reply(
        self, model: DoubleModel, messages: list[Message], options: dict[str, Any], *, thinking: bool
    ) -> dict[str, Any]:
        content = self.reply(model, messages, options)
        ends = [content.index(stop) for stop in options.get("stop", []) if stop in content]
        content = content[: min(ends)] if ends else content
        limit = options.get("num_predict", -1)
        words = len(content.split())
        cut = 0 <= limit < words
        message = {"role": "assistant", "content": " ".join(content.split()[:limit]) if cut else content}
        if thinking and "</think>" in message["content"]:
            thought, _, message["content"] = message["content"].partition("</think>")
            message["thinking"] = thought.removeprefix("<think>")
        return {
            "message": message,
            "done": True,
            "done_reason": "length" if cut else "stop",
            "total_duration": 1_500_000_000,
            "prompt_eval_count": sum(len(message["content"].split()) for message in messages),
            "eval_count": limit if cut else words,
        }

    def _check_adapter(self, model: DoubleModel) -> None:
        """A model with an adapter is refused when it is loaded, not when it is made."""
        if model.adapters and self.numbers < (0, 30, 0) and model.family in OWN_ENGINE:
            raise Refusal(500, "error loading model: loras are not yet implemented")
        if model.adapter_architecture not in (None, model.family):
            raise Refusal(500, "llama-server process has terminated: model arch and LoRA arch mismatch")

    def copy(self, body: dict[str, Any]) -> None:
        try:
            self.store.copy(body["source"], body["destination"])
        except Refusal as refusal:
            raise Refusal(refusal.status, refusal.message.replace("'", '"')) from refusal

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        model = self.store.find(body.get("model"))
        answer = {"model": body["model"], "created_at": CREATED_AT, "response": "", "done": True}
        if not body.get("prompt") and body.get("keep_alive") == 0:
            self.loaded.pop(model.name, None)
            return answer | {"done_reason": "unload"}
        raise Refusal(500, "the double does not generate; use /api/chat")

    def delete(self, body: dict[str, Any]) -> None:
        self.store.delete(body.get("model", ""))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two small packets; otherwise each reply waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True
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
        if self._stood_in():
            return
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
        double = self.double
        answers = {"/api/show": double.show, "/api/chat": double.chat, "/api/generate": double.generate}
        answer = {**answers, "/api/copy": double.copy}.get(self.path)
        streams = self.path in ("/api/chat", "/api/generate") and body.get("stream", True)
        self._answer(answer and (lambda: answer(body)), stream=streams)

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
        return {key: value for key, value in body.items() if key not in self.double.drops}

    def _stood_in(self) -> bool:
        """Whether a proxy answered in Ollama's place."""
        answer = self.double.instead(self.command, self.path)
        if answer is not None:
            self._send(*answer)
        return answer is not None

    def _answer(self, answer: Callable[[], Any] | None, stream: bool = False) -> None:
        self.double.wait()
        if self._stood_in():
            return
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
        if self._stood_in():
            return
        try:
            lines = self.double.creation(body)
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
        if self._stood_in():
            self.close_connection = True
            return
        if digest is None:
            self._record(0)
            self.close_connection = True
            self._error(400, "invalid digest format")
            return
        if self.double.blob(digest).exists():
            self._record(0)
            self.close_connection = True  # the file that comes is not read
            self._send(200, b"")
            return
        temporary = self.double.blob(f"{digest}.{threading.get_ident()}")
        try:
            received, actual = self._store(temporary)
            self._record(received)
            if actual == "dropped":
                self._vanish()
            elif actual is None:
                self.close_connection = True
                name = f"/root/.ollama/models/blobs/sha256-{threading.get_ident()}"
                self._error(500, f"write {name}: no space left on device")
            elif actual != digest:
                # What came is kept, under the digest that it has.
                temporary.replace(self.double.blob(actual))
                self._error(400, f'digest mismatch, expected "{digest}", got "{actual}"')
            else:
                temporary.replace(self.double.blob(digest))
                self._send(201, b"")
        finally:
            temporary.unlink(missing_ok=True)

    def _store(self, path: Path) -> tuple[int, str | None]:
        """(bytes received, digest), or (…, None) when the disk was full and (…, "dropped") when it broke off."""
        sha, received = hashlib.sha256(), 0
        with self.double.lock:
            dropping = self.double.drop_uploads > 0
            self.double.drop_uploads -= dropping
        enough = DROPPED_AT * int(self.headers.get("Content-Length") or 0)
        with path.open("wb") as file:
            for chunk in self._upload():
                received += len(chunk)
                if dropping and received >= enough:
                    return received, "dropped"
                if self.double.store.full(received):
                    return received, None
                sha.update(chunk)
                file.write(chunk)
        return received, f"sha256:{sha.hexdigest()}"

    def _vanish(self) -> None:
        """End the connection as a process that dies does: with a reset."""
        self.double.on_drop()
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

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


def refused_url() -> str:
    """The address of a server that is down: a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def _details(model: DoubleModel) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": "134.5M",
        "quantization_level": "Q4_K_M",
    }


def _check_options(options: dict[str, Any]) -> None:
    for key, value in options.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in INTEGERS and not number:
            raise Refusal(500, f'option "{key}" must be of type integer')
        if key in NUMBERS and not number:
            raise Refusal(500, f'option "{key}" must be of type float32')
        if key == "stop" and not isinstance(value, list):
            raise Refusal(500, 'option "stop" must be of type array')
