"""Several things at once that stand and fall together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

POLL_S = 0.05
# What was asked when another part failed is paid for: so long it may still come and be kept.
DRAIN_S = 10.0


class Stopped(BaseException):
    """Another part failed, so this one is to end. Not an `Exception`: libraries must not swallow it."""


class Together:
    """Threads that end when one of them fails.

    Args:
        check: called while waiting; raises to stop, as a cancelled run does.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def check(self) -> None:
        """For the parts to call now and then: raises `Stopped`, or what the check of all raises."""
        if self._stop.is_set():
            raise Stopped
        self._check()

    def start(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Do `work` in a thread of its own, which does not hold up the process."""

        def run() -> None:
            try:
                work()
            except Stopped:
                pass
            except BaseException as error:  # noqa: BLE001  # carried to the thread that waits, and raised there
                self._fail(error)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def here(self, work: Callable[[], None]) -> None:
        """Do `work` in this thread, unless another part has failed. Raises its failure, or what `work` raises."""
        try:
            self.check()
            work()
        except Stopped:
            self.raise_failure()

    def wait(self, threads: Iterable[threading.Thread]) -> None:
        """Until these are done.

        Raises:
            What the first part that failed raised, or what the check of all raises.
        """
        for thread in threads:
            while thread.is_alive():
                thread.join(POLL_S)
                if self._stop.is_set():
                    break
                self._check()
        if self._failure is not None:
            for thread in threads:
                thread.join(DRAIN_S)
            self.raise_failure()

    def raise_failure(self) -> None:
        """Raise what the first part that failed raised, if one did."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Have every part end."""
        self._stop.set()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error
        self._stop.set()
