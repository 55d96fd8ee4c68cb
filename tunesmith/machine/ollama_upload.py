"""Sending a file to Ollama by its digest, again when the connection broke.

Ollama knows no upload in parts: of one that broke off it keeps nothing, so a
repetition sends the file from its beginning. What arrived whole is kept, and is
not sent again, until the server is started anew without a model that uses it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import BadInput
from tunesmith.machine.ollama_reply import error_text, service_failed

if TYPE_CHECKING:
    import httpx2

CHUNK = 1 << 20  # bytes between two reports of progress
RETRY_AFTER_S = (1.0, 2.0, 5.0, 10.0, 20.0)  # a server that is started anew needs some seconds
_AWAY = (502, 503, 504)  # a proxy answers for a server that is not there

OnProgress = Callable[[int, int], None]  # bytes sent, bytes in total
OnRetry = Callable[[str], None]  # what happened, and when it is tried again
Pause = Callable[[float], None]  # seconds


@dataclass(frozen=True)
class Upload:
    """One file on its way to one server.

    Attributes:
        http: the connection, with the server's address.
        host: that address, for messages.
        path, digest: the file, and `sha256:…` of it.
        timeout: for each piece.
        is_there: whether the server has a file of that digest.
        on_progress: called once per MiB.
        on_retry: called before each repetition.
        pause: waits; may raise to give up.
    """

    http: httpx2.Client
    host: str
    path: Path
    digest: str
    timeout: httpx2.Timeout
    is_there: Callable[[str], bool]
    on_progress: OnProgress | None = None
    on_retry: OnRetry | None = None
    pause: Pause = time.sleep

    def perform(self) -> None:
        """Send it; what the connection does at last is raised as httpx2 has it.

        Raises:
            BadInput: the file changed while it was being sent, or has another digest.
            ServiceFailed: the server refused it, for example for lack of space.
        """
        import httpx2

        for number, delay in enumerate((*RETRY_AFTER_S, None)):
            try:
                # What broke off last may have been the answer only.
                if number and self.is_there(self.digest):
                    return
                reply = self._send()
            except httpx2.LocalProtocolError as error:  # fewer or more bytes than announced
                raise BadInput(
                    f"{self.path.name} changed while it was being sent to Ollama.",
                    next="Call again once the file is complete.",
                ) from error
            except httpx2.TransportError as error:
                if delay is None:
                    raise
                self._wait(f"The connection broke ({type(error).__name__})", delay)
                continue
            if reply.status_code in _AWAY and delay is not None:
                self._wait(f"The server is away (HTTP status {reply.status_code})", delay)
                continue
            self._judge(reply)
            return

    def _send(self) -> httpx2.Response:
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # With the length in front Ollama can refuse early, and no proxy has to buffer the whole file.
            headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
            return self.http.post(
                f"/api/blobs/{self.digest}", content=self._chunks(file, size), headers=headers, timeout=self.timeout
            )

    def _chunks(self, file: Any, size: int) -> Iterator[bytes]:
        sent = 0
        while chunk := file.read(CHUNK):
            yield chunk
            sent += len(chunk)
            if self.on_progress:
                self.on_progress(sent, size)

    def _judge(self, reply: httpx2.Response) -> None:
        if reply.status_code in (200, 201):
            return
        said = error_text(reply.content)
        if reply.status_code == 400 and "digest mismatch" in said:
            raise BadInput(
                f"{self.path.name} is not the file that was recorded: Ollama found another SHA-256 ({said}).",
                next="Call export_gguf again to make the file anew, then this.",
            )
        raise service_failed(self.host, reply.status_code, said, f"uploading {self.path.name}")

    def _wait(self, why: str, seconds: float) -> None:
        if self.on_retry:
            self.on_retry(f"{why} while sending {self.path.name}; trying again in {seconds:.0f} s")
        self.pause(seconds)
