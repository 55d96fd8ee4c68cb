"""Servers that stay for a while after they answered: loading a model again takes longer than most answers.

Only one is kept, as each holds a model in memory, and whoever begins work that
needs the memory lets it go first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.models.serving import START_DEADLINE_S, Served

IDLE_S = 60.0
CONTEXT_STEP = 2048  # rounded up to it, so that the next question, which may be longer, fits as well


class WarmServers:
    """Safe to use from several threads.

    Args:
        idle_s: seconds for which a server is kept after its last answer; 0: none is kept.
    """

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self.idle_s = idle_s
        self._lock = threading.Lock()
        self._idle: tuple[tuple[object, ...], Served] | None = None
        self._timer: threading.Timer | None = None

    @contextmanager
    def serving(self, gguf: Path, *, context: int, deadline_s: float = START_DEADLINE_S) -> Iterator[Served]:
        """A server of that file, for this block alone: the one that is kept, or a new one.

        Args:
            context: tokens of prompt and answer together.
            deadline_s: seconds a new one may take to load.

        Raises: as `Served`.
        """
        key = _identity(gguf)
        served = self._take(key, context)
        if served is None:
            served = Served(gguf, context=-(-context // CONTEXT_STEP) * CONTEXT_STEP, deadline_s=deadline_s).__enter__()
        try:
            yield served
        except BaseException:
            served.close()  # it may still be busy with what failed
            raise
        self._keep(key, served)

    def release(self) -> None:
        """End the one that is kept."""
        with self._lock:
            kept, self._idle = self._idle, None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if kept is not None:
            kept[1].close()

    def _take(self, key: tuple[object, ...], context: int) -> Served | None:
        """The kept server, if it is of that file, lives and is large enough; another is ended, to make room."""
        with self._lock:
            kept = self._idle
            fits = kept is not None and kept[0] == key and kept[1].context >= context and kept[1].died() is None
            if kept is not None and fits:
                self._idle = None
                if self._timer is not None:
                    self._timer.cancel()
                return kept[1]
        self.release()
        return None

    def _keep(self, key: tuple[object, ...], served: Served) -> None:
        with self._lock:
            # Two that were used at the same time: the other one came back first.
            wanted = self.idle_s > 0 and self._idle is None
            if wanted:
                self._idle = (key, served)
                self._timer = threading.Timer(self.idle_s, self._drop, (served,))
                self._timer.daemon = True
                self._timer.start()
        if not wanted:
            served.close()

    def _drop(self, served: Served) -> None:
        """Its time is up, unless it is in use again."""
        with self._lock:
            if self._idle is None or self._idle[1] is not served or threading.current_thread() is not self._timer:
                return
            self._idle = None
        served.close()


def _identity(gguf: Path) -> tuple[object, ...]:
    found = gguf.stat()
    return str(gguf), found.st_mtime_ns, found.st_size
