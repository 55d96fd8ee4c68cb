"""No sequence of calls and faults brings a run into a state, or through a step, that is not legal.

Real: the SQLite file, the run folders, the locks. Not real: the processes. `process.spawn` is replaced by a table
of fake ones that hold duplicates of the descriptors they were given, so that the kernel's rule "the lock is held as
long as somebody lives" is the real one.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tunesmith.errors import Conflict
from tunesmith.runs import launcher, process, shim, store, supervisor
from tunesmith.runs.launcher import ADOPT
from tunesmith.runs.outcome import judge
from tunesmith.runs.states import (
    ACTIVE,
    CANCELLED,
    CANCELLING,
    FAILED,
    LEGAL,
    LOST,
    QUEUED,
    RUNNING,
    STARTING,
    STATES,
    SUCCEEDED,
    TERMINAL,
)
from tunesmith.runs.supervisor import Supervisor
from tunesmith.workspace import Workspace

ONE_CARD, TWO_CARDS, CPU = ("device0",), ("device0", "device1"), ("cpu0", "cpu1")
FIRST_FAKE_PID = 2**22 + 1  # above the highest pid Linux gives: a signal that slips through reaches nobody
# What a file may hold, by a name that is short to print.
CORRUPT = {
    "empty": b"",
    "half": b'{"exit_code": 0, "result": {',
    "a list": b"[]",
    "null": b"null",
    "no text": b"\xff\xfe",
    "nested": b"[" * 100_000,
    "text for numbers": b'{"exit_code": "0", "result": "x", "error": "x"}',
    "nulls": b'{"exit_code": null, "result": null, "error": null}',
    "half an error": b'{"error": {"code": "x"}}',
}
RESULT, FAILURE = b'{"result": {}}', b'{"error": {"code": "x", "message": "It failed.", "next": "Start it again."}}'

IN_MEMORY = Path("/dev/shm")  # thousands of small files and transactions, none of which outlives its example
SERVER, ANY = st.integers(0, 1), st.integers(0, 11)
LEFT = {**CORRUPT, "a result": RESULT, "an error": FAILURE, "nothing": None}
EXITS = {**CORRUPT, "0": b'{"exit_code": 0}', "-9": b'{"exit_code": -9}', "75": b'{"exit_code": 75}'}


@dataclass
class FakeProcess:
    """A process that lives as long as it is in the table and holds the locks it was given."""

    pid: int
    started: float
    run_id: str
    locks: dict[str, int] = field(default_factory=dict)
    adopter: bool = False
    returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        return self.returncode or 0

    def poll(self) -> int | None:
        return self.returncode

    def inherit(self, names: Sequence[str]) -> dict[str, int]:
        return {name: os.dup(self.locks[name]) for name in names if name in self.locks}


@dataclass
class Lives:
    """What is alive of one run, and what was done to it."""

    shim: FakeProcess | None = None
    worker: FakeProcess | None = None
    begun: bool = False
    workers_started: int = 0
    shims_started: int = 0


class Runs(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
        self.patch = pytest.MonkeyPatch()
        self.time, self.uptime, self.boot = 1.8e9, 1000.0, "boot 0"
        self.table: dict[int, FakeProcess] = {}
        self.lives: defaultdict[str, Lives] = defaultdict(Lives)
        self.next_pid = FIRST_FAKE_PID
        self.spawn_fails = False
        self.meanwhile: list[Callable[[str], None]] = []
        self.meanwhile_at = (process.ALIVE, True)
        self.claimed_at: dict[str, float] = {}
        self.keys: dict[str, str] = {}
        self.seen_events = 0
        self.states: dict[str, str] = {}
        self.ends: dict[str, int] = {}
        self.frozen: dict[str, tuple[Any, ...]] = {}
        self._replace_the_world()
        root = Path(self.folder.name) / "ws"
        self.servers = [Supervisor(Workspace(root)), Supervisor(Workspace(root))]
        self.servers[0].store.active()  # makes the schema
        self.outside = sqlite3.connect(root / "tunesmith.db", isolation_level=None)

    def _replace_the_world(self) -> None:
        def utc_now() -> str:
            return datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

        clock = SimpleNamespace(time=lambda: self.time, monotonic=lambda: self.uptime, sleep=self._sleep)
        for module in (store, supervisor, launcher, shim):
            for name, value in (("time", clock), ("utc_now", utc_now)):
                if hasattr(module, name):
                    self.patch.setattr(module, name, value)
        self.patch.setattr(process, "uptime_s", lambda: self.uptime)
        self.patch.setattr(process, "boot_id", lambda: self.boot)
        self.patch.setattr(process, "started_at", lambda pid: self.table[pid].started if pid in self.table else None)
        self.patch.setattr(process, "send", self._send)
        self.patch.setattr(process, "spawn", self._spawn)
        really_locked = process.is_locked

        def is_locked(run_dir: Path, name: str) -> bool | None:
            # Something happens between the look at the lock and what is made of it.
            found = really_locked(run_dir, name)
            if self.meanwhile and (name, found) == self.meanwhile_at:
                self.meanwhile.pop()(run_dir.name)
            return found

        self.patch.setattr(process, "is_locked", is_locked)

    def _sleep(self, seconds: float) -> None:
        self.uptime += seconds

    def _spawn(
        self, command: Sequence[str], log: Path, locks: Mapping[str, int | None], environment: Mapping[str, str]
    ) -> FakeProcess:
        if self.spawn_fails:
            raise OSError(11, "Resource temporarily unavailable")
        run_id = log.parent.name
        found = self._new_process(run_id)
        found.locks = {name: os.dup(lock) for name, lock in locks.items() if lock is not None}
        found.adopter = ADOPT in command
        lives = self.lives[run_id]
        assert lives.shim is None, "a second shim while the first one lives"
        lives.shim = found
        lives.shims_started += not found.adopter
        assert lives.shims_started <= 1, "launched twice"
        return found

    def _new_process(self, run_id: str) -> FakeProcess:
        self.next_pid += 1
        found = FakeProcess(self.next_pid, self.uptime, run_id)
        self.table[found.pid] = found
        return found

    def _send(self, pid: int | None, started: float | None, _number: signal.Signals) -> bool:
        if pid is None or not process.is_same_process(pid, started):
            return False
        assert self.table[pid].run_id.startswith("run_"), "a foreign process was signalled"
        return True

    def _pick(self, runs: list[str], n: int) -> str:
        return runs[n % len(runs)]

    def _die(self, found: FakeProcess | None) -> None:
        if found is not None:
            self.table.pop(found.pid, None)
            for lock in found.locks.values():
                os.close(lock)
            found.locks = {}

    # What servers do.

    @rule(
        server=SERVER,
        kind=st.sampled_from(["train", "score"]),
        wish=st.sampled_from([(ONE_CARD, 1), (ONE_CARD, 1), (TWO_CARDS, 1), (TWO_CARDS, 2), (CPU, 1)]),
        key=st.sampled_from([None, None, "a", "b", "c"]),
    )
    def submit(self, server: int, kind: str, wish: tuple[tuple[str, ...], int], key: str | None) -> None:
        slots, needed = wish
        runs = self.servers[server]
        run_id = runs.submit(kind, ["worker"], {}, slots=slots, slots_needed=needed, idempotency_key=key)
        if key is not None:
            assert self.keys.setdefault(key, run_id) == run_id, "a retried key made another run"

    @initialize(begun=st.integers(0, 3))
    def there_are_some_runs(self, begun: int) -> None:
        for slots in (CPU, TWO_CARDS, CPU, TWO_CARDS, TWO_CARDS, CPU):
            self.servers[0].submit("train", ["worker"], {}, slots=slots)
        for run in self._new_shims()[:begun]:
            self._begin(run)
            self._note_worker(run)

    @rule(server=SERVER, n=ANY, state=st.sampled_from([*[None] * 8, *STATES]))
    def read(self, server: int, n: int, state: str | None) -> None:
        if state is None:
            run = self._pick([*self._alive(), *self.states], n)
            assert self.servers[server].view(run, log_lines=3, metrics=True).run_id == run
        else:
            self.servers[server].page(kind=None, state=state, limit=3, cursor=None)

    @rule(server=SERVER)
    def reconcile(self, server: int) -> None:
        settled = not self.meanwhile and not self.spawn_fails
        self.servers[server].reconcile_all()
        self.meanwhile.clear()
        if settled:
            self._check_settled()

    @rule(server=SERVER, n=ANY)
    def cancel(self, server: int, n: int) -> None:
        run = self._pick([*self._alive(), *self.states], n)
        before = self._state(run)
        try:
            row = self.servers[server].cancel(run)
        except Conflict:
            assert self._state(run) in TERMINAL
        else:
            assert before not in TERMINAL
            assert row.state in (STARTING, CANCELLING, *TERMINAL)

    @rule(server=SERVER, n=ANY, state=st.sampled_from(STATES))
    def what_is_illegal_is_refused(self, server: int, n: int, state: str) -> None:
        run = self._pick(list(self.states), n)
        runs, now = self.servers[server].store, self._state(run)
        if state not in LEGAL[now]:
            assert not runs.transition(run, state, forced=1)
        if now in TERMINAL:
            runs.record(run, worker_pid=1, worker_started=1.0, forced=1)
            assert not runs.begin(run, shim_pid=1)
            assert not runs.conclude(run, lambda _wished: (FAILED, None))
            assert runs.request_cancel(run) == now

    # What shims and workers do.

    def _new_shims(self) -> list[str]:
        return [run for run, lives in self.lives.items() if lives.shim and not lives.shim.adopter and not lives.begun]

    def _working(self) -> list[str]:
        return [run for run, lives in self.lives.items() if lives.worker]

    def _supervised(self) -> list[str]:
        return [run for run, lives in self.lives.items() if lives.shim and lives.begun]

    def _alive(self) -> list[str]:
        return [run for run, lives in self.lives.items() if lives.shim or lives.worker]

    @precondition(_new_shims)
    @rule(n=ANY, dies_before_its_worker=st.sampled_from([False, False, False, True]))
    def a_shim_begins(self, n: int, dies_before_its_worker: bool) -> None:
        self._begin(self._pick(self._new_shims(), n), dies_before_its_worker)

    def _begin(self, run: str, dies_before_its_worker: bool = False) -> None:
        lives = self.lives[run]
        assert lives.shim is not None
        lives.begun = True
        me = {"shim_pid": lives.shim.pid, "shim_started": lives.shim.started, "boot_id": process.boot_id()}
        if not self.servers[0].store.begin(run, **me):
            self._the_shim_leaves(run)
        elif dies_before_its_worker:
            self._kill_shim(run)
        else:
            lives.workers_started += 1
            assert lives.workers_started == 1, "its worker was started twice"
            lives.worker = self._new_process(run)
            lives.worker.locks = lives.shim.inherit([process.ALIVE_VARIABLE])

    @precondition(_alive)
    @rule(n=ANY, steps=st.integers(1, 3))
    def work_goes_on(self, n: int, steps: int) -> None:
        """The steps of a run that nothing happens to, so that many get far."""
        run = self._pick(self._alive(), n)
        lives = self.lives[run]
        for _ in range(steps):
            if lives.shim and not lives.begun and not lives.shim.adopter:
                self._begin(run)
            elif lives.worker:
                self._end_worker(run, RESULT)
            elif lives.begun:
                self._end_run(run)

    @precondition(_supervised)
    @rule(n=ANY)
    def a_shim_notes_its_worker(self, n: int) -> None:
        self._note_worker(self._pick(self._supervised(), n))

    def _note_worker(self, run: str) -> None:
        lives = self.lives[run]
        if lives.shim is not None and lives.worker is not None:
            me = {"shim_pid": lives.shim.pid, "shim_started": lives.shim.started}
            worker = {"worker_pid": lives.worker.pid, "worker_started": lives.worker.started}
            self.servers[1].store.record(run, **me, **worker)

    @precondition(_working)
    @rule(n=ANY, left=st.sampled_from([*LEFT, "a result", "a result"]))
    def a_worker_ends(self, n: int, left: str) -> None:
        self._end_worker(self._pick(self._working(), n), LEFT[left])

    @precondition(_supervised)
    @rule(n=ANY, holds=st.sampled_from(list(EXITS)))
    def a_shim_writes_the_exit_file(self, n: int, holds: str) -> None:
        run = self._pick(self._supervised(), n)
        if self.lives[run].worker is None:
            (self.servers[0].folder(run) / "exit.json").write_bytes(EXITS[holds])

    @precondition(_supervised)
    @rule(n=ANY, wish=st.sampled_from(["", "", "before", "after"]), code=st.sampled_from([0, None, -9, 75]))
    def a_shim_ends_its_run(self, n: int, wish: str, code: int | None) -> None:
        run = self._pick(self._supervised(), n)
        if self.lives[run].worker is None:
            if wish == "before":
                self.servers[1].store.request_cancel(run)
            self._end_run(run, code)
            if wish == "after":
                assert self.servers[1].store.request_cancel(run) == self._state(run)

    def _end_worker(self, run: str, left: bytes | None) -> None:
        if self.lives[run].worker is not None:
            if left is not None:
                (self.servers[0].folder(run) / "result.json").write_bytes(left)
            self._die(self.lives[run].worker)
            self.lives[run].worker = None

    def _end_run(self, run: str, code: int | None = 0) -> None:
        if self.lives[run].shim is not None:
            run_dir = self.servers[0].folder(run)
            self.servers[0].store.conclude(run, lambda wished: judge(run_dir, code, cancel_requested=wished))
            assert self._state(run) in TERMINAL
            self._the_shim_leaves(run)

    def _the_shim_leaves(self, run: str) -> None:
        launcher.launch_queued(self.servers[0].workspace)
        self._kill_shim(run)

    # What befalls them.

    def _kill_shim(self, run: str) -> None:
        self._die(self.lives[run].shim)
        self.lives[run].shim = None

    def _kill_worker(self, run: str) -> None:
        self._die(self.lives[run].worker)
        self.lives[run].worker = None

    @precondition(_alive)
    @rule(n=ANY, who=st.sampled_from(["shim", "shim", "worker", "both"]))
    def they_are_killed(self, n: int, who: str) -> None:
        run = self._pick(self._alive(), n)
        if who != "worker":
            self._kill_shim(run)
        if who != "shim":
            self._kill_worker(run)

    @rule(
        server=SERVER,
        n=ANY,
        what=st.sampled_from(["foreign pid", "foreign pid", "server dies", "no processes", "processes", "restart"]),
    )
    def something_befalls_the_machine(self, server: int, n: int, what: str) -> None:
        if what == "restart":
            for run in list(self.lives):
                self._kill_shim(run)
                self._kill_worker(run)
            self.boot, self.uptime = f"{self.boot}+", 1.0
        elif what == "server dies":  # between claim and spawn
            self.servers[server].store.claim_next()
        elif what == "foreign pid":
            row = self.servers[0].store.get(self._pick(list(self.states), n))
            for pid in (row.shim_pid, row.worker_pid):
                if pid is not None and pid not in self.table:
                    self.table[pid] = FakeProcess(pid, self.uptime + 5.0, "foreign")
        else:
            self.spawn_fails = what == "no processes"

    @rule(
        set_by=st.sampled_from([0.0, -86400.0, -3600.0, -0.5, 3600.0]),
        passed=st.sampled_from([0.0, 0.01, 3.0, 61.0, 61.0]),
    )
    def time_passes_and_the_clock_is_set(self, set_by: float, passed: float) -> None:
        self.uptime += passed
        self.time += passed + set_by

    @rule(
        look=st.sampled_from([(process.ALIVE, True), (process.ALIVE, False), (process.SHIM, False)]),
        what=st.sampled_from(["cancel", "worker ends", "run ends", "both die", "read", "read"]),
    )
    def something_happens_between_a_look_at_a_lock_and_what_is_made_of_it(
        self, look: tuple[str, bool], what: str
    ) -> None:
        def happen(run: str) -> None:
            if what == "cancel":
                self.servers[1].store.request_cancel(run)
            elif what == "read":
                self.servers[1].row(run)
            elif what == "both die":
                self._kill_shim(run)
                self._kill_worker(run)
            else:
                self._end_worker(run, RESULT)
                if what == "run ends" and self.lives[run].begun:
                    self._end_run(run)

        self.meanwhile, self.meanwhile_at = [happen], look

    # What always holds.

    def _state(self, run: str) -> str:
        return self.outside.execute("SELECT state FROM runs WHERE run_id=?", (run,)).fetchone()[0]

    @invariant()
    def all_is_legal(self) -> None:
        self._check_events()
        self._check_rows()

    def _check_events(self) -> None:
        for seq, run, before, after in self.outside.execute(
            "SELECT seq, run_id, state_before, state_after FROM events WHERE seq>? ORDER BY seq", (self.seen_events,)
        ):
            self.seen_events = seq
            if run not in self.states:
                assert (before, after) == (None, QUEUED)
            else:
                assert before == self.states[run], "the chain of events has a gap"
                assert after in LEGAL[before], f"{before} to {after}"
            self.states[run] = after
            if after == STARTING:
                self.claimed_at[run] = self.uptime
            self.ends[run] = self.ends.get(run, 0) + (after in TERMINAL)

    def _check_rows(self) -> None:
        taken: set[str] = set()
        count = 0
        self.outside.row_factory = sqlite3.Row
        rows = self.outside.execute("SELECT * FROM runs").fetchall()
        held: defaultdict[str, list[str]] = defaultdict(list)
        for slot, run in self.outside.execute("SELECT slot, run_id FROM held_slots").fetchall():
            held[run].append(slot)
        self.outside.row_factory = None
        for row in rows:
            count += 1
            run, state = row["run_id"], row["state"]
            assert state == self.states[run]
            assert self.ends[run] == (state in TERMINAL), "not exactly one end"
            times = [at for at in (row["created_at"], row["started_at"], row["finished_at"]) if at is not None]
            assert times == sorted(times), f"times run backwards: {times}"
            assert (row["finished_at"] is not None) == (state in TERMINAL)
            if state in ACTIVE:
                mine = held.pop(run)
                assert len(mine) == row["slots_needed"], "not all of its slots"
                assert row["slot"] in mine
                assert set(mine) <= set(json.loads(row["slots"])), "another's slot"
                assert taken.isdisjoint(mine), "two active runs in one slot"
                taken.update(mine)
            if state in TERMINAL:
                if run not in self.frozen:
                    self._check_end(row)
                    self.frozen[run] = tuple(row)
                assert tuple(row) == self.frozen[run], "an ended run changed"
        assert count == len(self.states), "a run vanished"
        assert not held, "a slot is held by a run that is not active"

    def _check_end(self, row: sqlite3.Row) -> None:
        run = row["run_id"]
        lives = self.lives[run]
        if row["state"] == CANCELLED:
            assert row["cancel_requested"], "cancelled, though nobody asked"
        if row["state"] == SUCCEEDED:
            assert not row["cancel_requested"], "succeeded, though it was cancelled"
            content = json.loads((self.servers[0].folder(run) / "result.json").read_bytes())
            assert "result" in content
        if row["state"] == LOST:
            assert lives.worker is None, "lost, though its worker lives"
        if row["state"] in (FAILED, LOST):
            assert set(json.loads(row["error"])) == {"code", "message", "next"}

    def _check_settled(self) -> None:
        rows = self.outside.execute("SELECT run_id, state, slots, slots_needed FROM runs ORDER BY seq").fetchall()
        taken = {slot for (slot,) in self.outside.execute("SELECT slot FROM held_slots")}
        for run, state, slots, needed in rows:
            lives = self.lives[run]
            if state == STARTING and not lives.shim:
                assert 0 <= self.uptime - self.claimed_at[run] <= store.SPAWN_DEADLINE_S, "it will never start"
            if state in (RUNNING, CANCELLING):
                assert lives.shim or lives.worker, f"{state}, though none of its processes lives"
                assert lives.shim, f"{state}, and nobody supervises it"
            if state == QUEUED:
                free = set(json.loads(slots)) - taken
                assert len(free) < needed, f"queued, though {free} is free"
                taken |= free  # kept for it

    def teardown(self) -> None:
        for found in list(self.table.values()):
            self._die(found)
        self.outside.close()
        for server in self.servers:
            server.workspace.database.close()
        self.patch.undo()
        self.folder.cleanup()


def test_no_sequence_of_calls_and_faults_makes_an_illegal_step() -> None:
    run_state_machine_as_test(
        Runs,
        settings=settings(
            max_examples=150,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
