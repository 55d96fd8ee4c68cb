"""A scripted OpenAI-compatible endpoint on a real loopback socket.

    with EndpointDouble(lambda request: Said("Paris.")) as endpoint:
        f"openai:some-model@{endpoint.url}"

The script sees each parsed request and returns what to do: `Said`, `Status`,
`Raw` bytes, `Stall` or `Trickle`. Requests and their headers are kept.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Said:
    text: str
    finish_reason: str = "stop"
    tokens: int = 5


@dataclass
class Status:
    code: int
    body: str = "{}"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Raw:
    body: bytes


@dataclass
class Trickle:
    """A blank every 50 ms, for so long."""

    seconds: float


@dataclass
class Stall:
    seconds: float


Script = Callable[[dict[str, Any]], Said | Status | Raw | Stall | Trickle]


class EndpointDouble:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> EndpointDouble:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else the body waits 40 ms for the headers to be acknowledged

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with double._lock:
                    double.requests.append(body)
                    double.headers.append({name.lower(): value for name, value in self.headers.items()})
                    double._now += 1
                    double.most_at_once = max(double.most_at_once, double._now)
                try:
                    self._do(double.script(body) if self.path == "/v1/chat/completions" else Status(404))
                finally:
                    with double._lock:
                        double._now -= 1

            def _do(self, step: Said | Status | Raw | Stall | Trickle) -> None:
                if isinstance(step, Stall):
                    double._ended.wait(step.seconds)
                    self.close_connection = True
                elif isinstance(step, Trickle):
                    self._trickle(step.seconds)
                elif isinstance(step, Status):
                    self._send(step.code, step.body.encode(), step.headers)
                elif isinstance(step, Raw):
                    self._send(200, step.body, {})
                else:
                    choice = {
                        "index": 0,
                        "finish_reason": step.finish_reason,
                        "message": {"role": "assistant", "content": step.text},
                    }
                    usage = {"prompt_tokens": 9, "completion_tokens": step.tokens, "total_tokens": 9 + step.tokens}
                    reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
                    self._send(200, json.dumps({**reply, "choices": [choice], "usage": usage}).encode(), {})

            def _trickle(self, seconds: float) -> None:
                self.close_connection = True
                end = time.monotonic() + seconds
                try:
                    self.send_response(200)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", "100000")
                    self.end_headers()
                    while time.monotonic() < end and not double._ended.wait(0.05):
                        self.wfile.write(b" ")
                except OSError:
                    return  # the client has gone

            def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
                try:
                    self.send_response(code)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(body)))
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True  # the client has gone

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may go while it waits
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def asked(self) -> list[str]:
        """The last message of every request."""
        return [request["messages"][-1]["content"] for request in self.requests]
