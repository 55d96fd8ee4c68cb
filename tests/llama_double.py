"""A llama.cpp server as far as `/completion` goes, scripted, on a real loopback socket; strict about what it is sent.

    with LlamaDouble(["Hel", "lo"]) as llama:
        llama.url

Built from the documentation of llama.cpp's server. The script is a list of texts to
send one by one, or a `Refusal`, or texts with a `Failure` or `Hangup` in the middle.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

KNOWN = {
    "prompt", "stream", "n_predict", "stop", "temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_penalty",
    "presence_penalty", "frequency_penalty", "seed", "logit_bias", "json_schema",
}  # fmt: skip
CONTEXT = 512


@dataclass(frozen=True)
class Refusal:
    """The request is answered with an error."""

    status: int
    message: str


@dataclass(frozen=True)
class Failure:
    """The stream ends with an error of its own."""

    message: str


@dataclass(frozen=True)
class Hangup:
    """The connection ends in the middle of the stream."""


class LlamaDouble:
    def __init__(self, script: Sequence[str | Failure | Hangup] | Refusal, *, stop_type: str = "eos") -> None:
        self.script = script
        self.stop_type = stop_type
        self.requests: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                assert self.path == "/props", self.path
                self._json(200, {"default_generation_settings": {"n_ctx": CONTEXT}})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                double.requests.append(body)
                if self.path != "/completion" or body.keys() - KNOWN:
                    self._json(400, {"error": {"message": f"unknown: {self.path} {sorted(body.keys() - KNOWN)}"}})
                elif isinstance(double.script, Refusal):
                    self._json(double.script.status, {"error": {"message": double.script.message}})
                else:
                    self._stream(body, double.script)

            def _stream(self, body: dict[str, Any], script: Sequence[str | Failure | Hangup]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                for part in script:
                    if isinstance(part, Hangup):
                        return
                    if isinstance(part, Failure):
                        self._event({"error": {"code": 500, "message": part.message}})
                        return
                    self._event({"content": part, "stop": False})
                self._event(
                    {
                        "content": "",
                        "stop": True,
                        "stop_type": double.stop_type,
                        "tokens_evaluated": len(body["prompt"]),
                        "tokens_predicted": len(script),
                        "timings": {"cache_n": 1},
                    }
                )

            def _event(self, content: dict[str, Any]) -> None:
                self.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")

            def _json(self, status: int, content: dict[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
