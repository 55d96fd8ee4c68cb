"""One look at the runs for everybody who follows them.

Runs change in other processes, so somebody has to look. A process has one
watcher: a thread that looks five times a second at the number of the newest event
and at the sizes of a few files, whether one client follows a run or fifty. It
lives only while somebody follows an unfinished run or a probe.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from tunesmith.runs.states import QUEUED, TERMINAL
from tunesmith.runs.store import RunRow
from tunesmith.runs.supervisor import Supervisor

logger = logging.getLogger(__name__)

LOOK_S = 0.2
UP_TO_DATE_S = 1.0  # how often the processes of a followed run are looked at, and the probes
NEWS_S = 1.0  # what grows all the time is told at most this often,
MOST_NEWS = 25  # and so often that at most this many are told a second: each of them comes back to read


class Part(Enum):
    """What can change of a run, and the file that shows it."""

    STATE = None
    PROGRESS = "events.jsonl"
    LOG = "log.txt"
    METRICS = "metrics.jsonl"


FILES: tuple[tuple[Part, str], ...] = tuple((part, part.value) for part in Part if part.value is not None)
Told = Callable[[bool], None]
Failed = Callable[[Exception], None]
Stop = Callable[[], None]


@dataclass(eq=False)
class _Follower:
    parts: frozenset[Part]
    told: Told
    failed: Failed | None


@dataclass(eq=False)
class _Followed:
    """A run that is followed, as it was seen last."""

    row: RunRow
    folder: Path
    sizes: dict[Part, int]
    followers: list[_Follower] = field(default_factory=list)
    untold: set[Part] = field(default_factory=set)
    next_at: dict[Part, float] = field(default_factory=dict)
    up_to_date_at: float = 0.0


@dataclass(eq=False)
class _Probe:
    look: Callable[[], Any]
    seen: Any
    told: list[Callable[[], None]] = field(default_factory=list)


class Watcher:
    """Tells whoever follows a run when it changed. Safe to use from several threads and event loops.

    Attributes:
        looks: how often it has looked; it stands still while nobody follows anything.
    """

    def __init__(self, runs: Supervisor) -> None:
        self.looks = 0
        self._supervisor = runs
        self._runs: dict[str, _Followed] = {}
        self._probes: dict[object, _Probe] = {}
        # Guards the two above and the thread's life; held for moments, never while a file or the store is read.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._newest: int | None = None
        self._failing = False
        self._probed_at = 0.0

    def follow(self, row: RunRow, parts: frozenset[Part], told: Told, failed: Failed | None = None) -> Stop:
        """Be told of changes of a run from now on, until the function returned is called.

        Nothing that happens after this call is missed. A new state is told at once; what grows all the time about
        once a second, less often where many follow it; the end of a run once, to everybody, after its final state
        is in the store.

        Args:
            row: the run as the caller saw it; one that has ended is not watched.
            parts: what the caller wants to hear of.
            told: called on the watcher's thread with whether the run has ended. Must be quick.
            failed: called on the watcher's thread when a look failed; the watcher goes on.
        """
        follower = _Follower(parts, told, failed)
        if row.state in TERMINAL:
            return _nothing
        folder = self._supervisor.workspace.runs / row.run_id
        sizes = _sizes(folder)
        with self._changed:
            entry = self._runs.setdefault(row.run_id, _Followed(row, folder, sizes))
            if row != entry.row:
                entry.untold.add(Part.STATE)  # one of the two is old: the next look tells
            entry.followers.append(follower)
            self._work()

        def stop() -> None:
            with self._changed:
                if follower in entry.followers:
                    entry.followers.remove(follower)
                if not entry.followers and self._runs.get(row.run_id) is entry:
                    del self._runs[row.run_id]
                self._changed.notify()

        return stop

    def probe(self, key: object, look: Callable[[], Any], seen: Any, told: Callable[[], None]) -> Stop:
        """Be told whenever `look()` returns something else than before. Probes of one key share one look a second.

        Args:
            look: called on the watcher's thread.
            seen: what it returned to the caller: a change since then is told.
            told: called on the watcher's thread. Must be quick.
        """
        with self._changed:
            probe = self._probes.setdefault(key, _Probe(look, seen))
            if probe.seen != seen:
                probe.seen = _UNSEEN
            probe.told.append(told)
            self._work()

        def stop() -> None:
            with self._changed:
                if told in probe.told:
                    probe.told.remove(told)
                if not probe.told and self._probes.get(key) is probe:
                    del self._probes[key]
                self._changed.notify()

        return stop

    async def wait_until_ended(self, run_id: str, seconds: float) -> None:
        """Return when the run has ended or the time is over, whichever is first.

        Raises:
            InvalidArgument, NotFound: a malformed or an unknown id.
            StoreBusy, StoreCorrupt: the store failed while it was waited for.
        """
        row = await anyio.to_thread.run_sync(self._supervisor.row, run_id)
        ended = anyio.Event()
        failures: list[Exception] = []
        loop = asyncio.get_running_loop()

        def told(over: bool) -> None:
            if over:
                post(loop, ended.set)

        def failed(error: Exception) -> None:
            failures.append(error)
            post(loop, ended.set)

        if row.state in TERMINAL:
            return
        stop = self.follow(row, frozenset({Part.STATE}), told, failed)
        try:
            with anyio.move_on_after(seconds):
                await ended.wait()
        finally:
            stop()
        if failures:
            raise failures[0]

    def _work(self) -> None:
        """Start the thread, or let it see that there is something new to look at."""
        if self._thread is None:
            self._newest = None
            self._probed_at = time.monotonic()
            self._thread = threading.Thread(target=self._watch, name="tunesmith-watcher", daemon=True)
            self._thread.start()
        else:
            self._changed.notify()

    def _watch(self) -> None:
        try:
            due = time.monotonic() + LOOK_S
            while self._sleep_until(due):
                self._look()
                due = time.monotonic() + (UP_TO_DATE_S if self._failing else LOOK_S)
        finally:
            self._supervisor.workspace.database.close()

    def _sleep_until(self, due: float) -> bool:
        """Whether there still is something to look at then; otherwise the thread is to end, and nobody waits for it."""
        with self._changed:
            while self._runs or self._probes:
                # With no run to follow, only the probes: these are looked at less often.
                end = due if self._runs else max(due, self._probed_at + UP_TO_DATE_S)
                left = end - time.monotonic()
                if left <= 0:
                    return True
                self._changed.wait(left)
            self._thread = None
            return False

    def _look(self) -> None:
        self.looks += 1
        with self._changed:
            runs = list(self._runs.values())
            now = time.monotonic()
            probes = list(self._probes.values()) if now - self._probed_at >= UP_TO_DATE_S else []
        fine = self._look_at_runs(runs) if runs else True
        if probes:
            self._probed_at = now
            for probe in probes:
                fine = self._look_at_probe(probe) and fine
        self._failing = not fine

    def _look_at_runs(self, runs: list[_Followed]) -> bool:
        try:
            newest = self._supervisor.store.newest_change()
        except Exception as error:  # noqa: BLE001 - told to whoever waits and logged; others still follow
            for entry in runs:
                self._tell_failure(entry, error)
            return False
        news, self._newest = newest != self._newest, newest
        fine = True
        for entry in runs:
            try:
                self._look_at_run(entry, news)
            except Exception as error:  # noqa: BLE001 - as above
                self._newest = None
                self._tell_failure(entry, error)
                fine = False
        return fine

    def _look_at_run(self, entry: _Followed, news: bool) -> None:
        now = time.monotonic()
        # The files first: what they hold when the run has ended is told by its end.
        sizes = _sizes(entry.folder)
        row = entry.row
        if now - entry.up_to_date_at >= UP_TO_DATE_S:
            row = self._supervisor.row(row.run_id)
            entry.up_to_date_at = now
        elif news:
            row = self._supervisor.store.get(row.run_id)
        over = row.state in TERMINAL
        if over:
            entry.untold.update(Part)
        else:
            entry.untold.update(part for part in sizes if sizes[part] != entry.sizes[part])
            if row != entry.row:
                entry.untold.add(Part.STATE)
            if news and row.state == QUEUED:
                entry.untold.add(Part.PROGRESS)  # what it waits for may have changed
        with self._changed:
            # Together with what `follow` compares with: a newcomer sees all of it or none.
            entry.row, entry.sizes = row, sizes
            followers = list(entry.followers)
            if over and self._runs.get(row.run_id) is entry:
                del self._runs[row.run_id]
        ready = {part for part in entry.untold if over or now >= entry.next_at.get(part, 0.0)}
        entry.untold -= ready
        for part in ready - {Part.STATE}:
            many = sum(part in follower.parts for follower in followers)
            entry.next_at[part] = now + max(NEWS_S, many / MOST_NEWS)
        for follower in followers:
            if follower.parts & ready:
                follower.told(over)

    def _look_at_probe(self, probe: _Probe) -> bool:
        try:
            seen = probe.look()
        except Exception as error:  # noqa: BLE001 - as above
            self._log(error)
            return False
        with self._changed:
            told = list(probe.told) if seen != probe.seen else []
            probe.seen = seen
        for tell in told:
            tell()
        return True

    def _tell_failure(self, entry: _Followed, error: Exception) -> None:
        self._log(error)
        with self._changed:
            followers = list(entry.followers)
        for follower in followers:
            if follower.failed is not None:
                follower.failed(error)

    def _log(self, error: Exception) -> None:
        # Once: a store that stays away would fill the log five times a second.
        if not self._failing:
            logger.warning("Looking at the runs failed: %s", error, exc_info=error)
        self._failing = True


def post(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    """Call something in an event loop from another thread; a loop that is closed has nobody to tell."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _sizes(folder: Path) -> dict[Part, int]:
    """Sizes in bytes; -1 for a file that is not there yet."""
    found = {}
    for part, name in FILES:
        try:
            found[part] = (folder / name).stat().st_size
        except OSError:
            found[part] = -1
    return found


def _nothing() -> None:
    """Nothing is followed, so there is nothing to stop."""


_UNSEEN = object()
