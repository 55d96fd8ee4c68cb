"""A client of Ollama's HTTP API: exactly the calls that tunesmith makes.

Facts about the API are those of Ollama 0.33: `files` and `adapters` in a creation
since 0.5.5, the rendered prompt (`_debug_render_only`) since 0.11.5.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import NotFound, NotSupported, ServiceFailed, Unreachable
from tunesmith.machine.hosts import is_loopback, ollama_url, refuse_hidden_address
from tunesmith.machine.ollama_names import check_digest, check_model_name
from tunesmith.machine.ollama_reply import (
    clean,
    error_text,
    installed_model,
    json_object,
    list_field,
    loaded_model,
    not_ollama,
    number_field,
    read_limited,
    service_failed,
    text_field,
    unreachable,
)
from tunesmith.machine.ollama_request import chat_messages, check_parameters, creation
from tunesmith.machine.ollama_upload import OnProgress, OnRetry, Pause, Upload
from tunesmith.machine.records import ChatReply, InstalledModel, LoadedModel

CREATE_SINCE = (0, 5, 5)
RENDER_SINCE = (0, 11, 5)
# Every architecture takes an adapter since llama.cpp's own server runs them all.
ADAPTERS_SINCE = (0, 30, 0)


class OllamaClient:
    """One Ollama server.

    Args:
        host: its address; default: OLLAMA_HOST, else http://127.0.0.1:11434.
        connect_timeout_s: how long to wait for a connection.
        timeout_s: how long to wait for a short answer (lists, descriptions).
        work_timeout_s: how long to wait for the next piece of a long one (creation, chat, upload).

    Raises:
        InvalidArgument: `host` is not an address that may be called.

    Every method raises `Unreachable` when nothing answers and `ServiceFailed`
    with the server's message when it answers with an error.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        connect_timeout_s: float = 3.0,
        timeout_s: float = 30.0,
        work_timeout_s: float = 600.0,
    ) -> None:
        import httpx2

        self.host = ollama_url(host)
        self._timeout = httpx2.Timeout(timeout_s, connect=connect_timeout_s)
        self._work_timeout = httpx2.Timeout(work_timeout_s, connect=connect_timeout_s)
        self._looked_up = False
        self._http = httpx2.Client(
            base_url=self.host,
            timeout=self._timeout,
            # A proxy for the outside world has no way to this machine's own port.
            trust_env=not is_loopback(self.host),
            # Without TLS there is nothing to verify, and loading the certificates takes longer than the request.
            verify=self.host.startswith("https://"),
            follow_redirects=False,
        )

    def __enter__(self) -> OllamaClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def version(self) -> str:
        """The server's version, for example "0.33.0"."""
        return text_field(self._json("GET", "/api/version"), "version", self.host)

    def loaded(self) -> list[LoadedModel]:
        """The models that are in memory now."""
        return [loaded_model(model) for model in list_field(self._json("GET", "/api/ps"), "models", self.host)]

    def tags(self) -> list[InstalledModel]:
        """The models that are installed."""
        return [installed_model(model) for model in list_field(self._json("GET", "/api/tags"), "models", self.host)]

    def show(self, name: str) -> dict[str, Any]:
        """A model's description as Ollama gives it: template, system, parameters, details, model_info, ….

        Raises:
            NotFound: there is no such model.
        """
        return self._json("POST", "/api/show", {"model": check_model_name(name)})

    def exists(self, name: str) -> bool:
        """Whether a model of that name is installed."""
        try:
            self.show(name)
        except NotFound:
            return False
        return True

    def has_blob(self, digest: str) -> bool:
        """Whether the server already has the file with that digest (`sha256:…`)."""
        check_digest(digest)
        with self._talking(during="asking for a file"):
            return self._is_there(digest)

    def push_blob(
        self,
        path: Path,
        digest: str,
        on_progress: OnProgress | None = None,
        *,
        on_retry: OnRetry | None = None,
        pause: Pause = time.sleep,
    ) -> bool:
        """Upload `path` unless the server has it; False when there was nothing to send.

        A connection that breaks is tried again, five times within 40 s; then the file is sent from its beginning.

        Args:
            digest: `sha256:…` of the file; the server computes its own and refuses another one.
            on_progress: called with (bytes sent, bytes in total), once per MiB.
            on_retry: called with one line before each repetition.
            pause: waits that many seconds before it; may raise to give up.

        Raises:
            BadInput: the file changed while it was being sent, or has another digest.
        """
        if self.has_blob(digest):
            return False
        upload = Upload(
            self._http, self.host, path, digest, self._work_timeout, self._is_there, on_progress, on_retry, pause
        )
        with self._talking(during=f"the upload of {path.name}"):
            upload.perform()
        return True

    def create(
        self,
        name: str,
        *,
        files: Mapping[str, str] | None = None,
        adapters: Mapping[str, str] | None = None,
        from_model: str | None = None,
        template: str | None = None,
        system: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        stop: Sequence[str] = (),
        license: str | None = None,
        on_status: Callable[[str], None] | None = None,
    ) -> list[str]:
        """Make a model, or replace the one of that name, from files that were pushed before.

        Args:
            files: file name → digest of the GGUF (`from_model` instead builds on an installed model).
            adapters: file name → digest of one GGUF LoRA.
            template: Ollama's TEMPLATE, Go syntax. Left out, Ollama guesses it from the file.
            parameters: see `check_parameters`; `stop` may be given here or by its own argument.
            on_status: called with each status line as it arrives.

        Returns:
            The status lines; the last one is "success".

        Raises:
            NotSupported: the server is older than 0.5.5.
        """
        body = creation(name, files=files, adapters=adapters, from_model=from_model, parameters=parameters, stop=stop)
        body |= {key: text for key, text in (("template", template), ("system", system), ("license", license)) if text}
        self.require_version(CREATE_SINCE, "create a model from uploaded files")
        lines: list[str] = []
        for event in self._stream("/api/create", body, f"creating {name}"):
            status = str(event.get("status", ""))
            # The same line comes again and again with a byte count while Ollama verifies the file.
            if status and (not lines or lines[-1] != status):
                lines.append(status)
                if on_status:
                    on_status(status)
        if not lines or lines[-1] != "success":
            last = f" after {lines[-1]!r}" if lines else ""
            raise ServiceFailed(
                f"Ollama at {self.host} ended the creation of {name}{last} without saying that it succeeded.",
                next="Look at Ollama's own log, then call again: files that were uploaded are not sent twice.",
            )
        return lines

    def chat(
        self,
        name: str,
        messages: Sequence[Mapping[str, str]],
        *,
        options: Mapping[str, Any] | None = None,
        keep_alive: str | int | None = None,
    ) -> ChatReply:
        """The model's answer to `messages` ({role, content}); blocks until it is complete.

        Args:
            options: see `check_parameters`; they override the model's own.
            keep_alive: how long the model stays in memory: seconds, or text such as "5m".
        """
        body = {"model": check_model_name(name), "messages": chat_messages(messages), "stream": False}
        body["options"] = check_parameters(options or {})
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        reply = self._json("POST", "/api/chat", body, work=f"asking {name}")
        message = reply.get("message")
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise not_ollama(self.host)
        return ChatReply(
            content=message["content"],
            done_reason=str(reply.get("done_reason", "")),
            prompt_tokens=int(number_field(reply, "prompt_eval_count")),
            tokens=int(number_field(reply, "eval_count")),
            thinking=str(message.get("thinking") or ""),
            seconds=round(number_field(reply, "total_duration") / 1e9, 3),
        )

    def render(self, name: str, messages: Sequence[Mapping[str, str]]) -> str:
        """The exact prompt that Ollama makes of `messages`, without asking the model.

        Raises:
            NotSupported: the server is older than 0.11.5, or what stands before it drops the request to show it.
        """
        body = {
            "model": check_model_name(name),
            "messages": chat_messages(messages),
            "stream": False,
            "_debug_render_only": True,
            # Otherwise Ollama drops the oldest messages of a long dialogue before it renders.
            "truncate": False,
            # An older server ignores the flag above and answers: then let it be short.
            "options": {"num_predict": 1},
        }
        info = self._json("POST", "/api/chat", body, work=f"rendering a prompt of {name}").get("_debug_info")
        if not isinstance(info, dict) or not isinstance(info.get("rendered_template"), str):
            self.require_version(RENDER_SINCE, "show the prompt that it sends to a model")
            raise NotSupported(
                f"Ollama {self.version()[:40]} at {self.host} answered without showing the prompt, as if it had not "
                "been asked to: a proxy before it may drop what it does not know.",
                next="Call Ollama's own address, on the machine it runs on.",
            )
        return info["rendered_template"]

    def copy(self, source: str, destination: str) -> None:
        """Give a model a second name, or the name of another one, which that one loses. No file is copied.

        Raises:
            NotFound: there is no model `source`.
        """
        body = {"source": check_model_name(source), "destination": check_model_name(destination)}
        self._json("POST", "/api/copy", body, empty=True)

    def unload(self, name: str) -> None:
        """Take a model out of memory; it stays installed."""
        body = {"model": check_model_name(name), "keep_alive": 0, "stream": False}
        self._json("POST", "/api/generate", body, work=f"unloading {name}")

    def delete(self, name: str) -> None:
        """Remove a model from the disk.

        Raises:
            NotFound: there is no such model.
        """
        self._json("DELETE", "/api/delete", {"model": check_model_name(name)}, empty=True)

    def require_version(self, minimum: tuple[int, int, int], purpose: str) -> None:
        """Refuse a server older than `minimum`.

        Raises:
            NotSupported: it is older; says which version is needed to do what.
        """
        version = self.version()
        if is_older(version, minimum):
            wanted = ".".join(map(str, minimum))
            raise NotSupported(
                f"Ollama {version[:40]} at {self.host} is too old to {purpose}; that came with {wanted}.",
                next="Update Ollama, start it again and call again.",
            )

    def _is_there(self, digest: str) -> bool:
        reply = self._http.head(f"/api/blobs/{digest}")
        if reply.status_code in (200, 404):
            return reply.status_code == 200
        raise service_failed(self.host, reply.status_code, "", "asking for a file")

    def _json(
        self, method: str, path: str, body: Any = None, *, work: str | None = None, empty: bool = False
    ) -> dict[str, Any]:
        """One request, one JSON object. `work` names what takes long, and allows it the time.

        `empty`: the answer to a request that went well has no body.
        """
        timeout = self._work_timeout if work else self._timeout
        doing = work or f"{method} {path}"
        with self._talking(during=doing), self._http.stream(method, path, json=body, timeout=timeout) as reply:
            content = read_limited(reply, self.host)
        if reply.status_code == 404:
            raise self._not_found(error_text(content), body)
        if reply.status_code != 200:
            raise service_failed(self.host, reply.status_code, error_text(content), doing)
        if empty and not content.strip():
            return {}
        return json_object(content, self.host)

    def _stream(self, path: str, body: Any, doing: str) -> Iterator[dict[str, Any]]:
        """The objects of an NDJSON answer; an error inside it is raised."""
        request = self._http.stream("POST", path, json=body, timeout=self._work_timeout)
        with self._talking(during=doing), request as reply:
            if reply.status_code != 200:
                raise service_failed(self.host, reply.status_code, error_text(read_limited(reply, self.host)), doing)
            for line in reply.iter_lines():
                if line.strip():
                    event = json_object(line.encode(), self.host)
                    if "error" in event:
                        raise service_failed(self.host, 200, clean(str(event["error"])), doing)
                    yield event

    @contextmanager
    def _talking(self, during: str = "") -> Iterator[None]:
        """Turn what can go wrong on the way into errors that say what to do."""
        import httpx2

        if not self._looked_up:
            refuse_hidden_address(self.host)
            self._looked_up = True
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol) as error:
            raise unreachable(self.host) from error
        except httpx2.TimeoutException as error:
            raise Unreachable(
                f"Ollama at {self.host} did not answer in time{f' during {during}' if during else ''}.",
                next="See whether it is busy with `ollama ps`, then call again.",
            ) from error
        except (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError, httpx2.CloseError) as error:
            raise ServiceFailed(
                f"Ollama at {self.host} broke the connection{f' during {during}' if during else ''}"
                f" ({type(error).__name__}).",
                next="See whether it still runs (`ollama ps`) and has disk space left, then call again.",
            ) from error
        except httpx2.DecodingError as error:
            raise not_ollama(self.host) from error

    def _not_found(self, message: str, body: Any) -> NotFound | ServiceFailed:
        name = body.get("model") or body.get("source") or "" if isinstance(body, dict) else ""
        if not name or "not found" not in message or "page not found" in message:
            return not_ollama(self.host)
        return NotFound(
            f"Ollama at {self.host} has no model {name!r}.", next="Call list_models to see the models it has."
        )


def is_older(version: str, minimum: tuple[int, int, int]) -> bool:
    """Whether a server of that version is older than `minimum`."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    found = tuple(int(number) for number in numbers.groups()) if numbers else (0, 0, 0)
    # 0.0.0 is a build from source without a version: newer than any release, as far as anyone can tell.
    return found != (0, 0, 0) and found < minimum
