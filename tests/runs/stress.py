"""Several servers, many runs, and a loop that kills, stops and blocks; then everything is judged from outside.

    python tests/runs/stress.py PLAN NAME SEED      one server of the three (started by `stress`)
    python -m tests.runs.stress [SEED [SECONDS]]    one round by hand

What was done to each process is written down as it is done. Each run's end must agree with it: a run that nobody
touched has succeeded, one that is lost had its processes killed, none began twice, and so on.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tunesmith.errors import Conflict, StoreBusy
from tunesmith.runs import supervisor
from tunesmith.runs.states import TERMINAL
from tunesmith.runs.store import CPU_SLOTS
from tunesmith.runs.supervisor import Supervisor
from tunesmith.workspace import Workspace

HERE = Path(__file__).parent
WORKER = [sys.executable, "-I", "-S", str(HERE / "tiny_worker.py")]
ONE_CARD = ("device0",)
GRACE_S = 1.0
PATIENCE_S = 60.0  # of the judges, for a database that somebody holds
STARTING_S = 4.0  # a launcher that takes longer than this to start its shim counts as dead


@dataclass
class Plan:
    """What the servers are to do. Shared with them as a JSON file."""

    root: str
    witness: str
    journal: str
    cancels: bool
    jobs: dict[str, dict[str, Any]]  # by idempotency key


def make_plan(folder: Path, seed: int, *, device_runs: int, cpu_runs: int, chaos: bool) -> Plan:
    dice = random.Random(f"plan {seed}")
    plan = Plan(str(folder / "ws"), str(folder / "witness"), str(folder / "journal"), chaos, {})
    for number in range(device_runs + cpu_runs):
        slots = list(ONE_CARD if number < device_runs else CPU_SLOTS)
        plan.jobs[f"key {number}"] = {
            "slots": slots,
            "cancel": chaos and dice.random() < 0.2,
            "args": {
                "witness": plan.witness,
                "places": [str(folder / f"{slot}.lock") for slot in slots],
                "seconds": round(dice.uniform(0.0, dice.choice([0.2, 0.2, 0.2, 1.5])), 3) if chaos else 0.02,
                "stubborn": chaos and dice.random() < 0.1,
            },
        }
    return plan


# A server.


class Journal:
    """Lines `MONOTONIC_SECONDS WORD…` in a file that all servers share."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def say(self, *words: str) -> None:
        os.write(self.descriptor, json.dumps([time.monotonic(), *words]).encode() + b"\n")


def submit(runs: Supervisor, plan: Plan, key: str) -> str:
    job = plan.jobs[key]
    return runs.submit("score", WORKER, job["args"], slots=job["slots"], idempotency_key=key)


def serve(plan: Plan, name: str, seed: str) -> None:
    """Submit every key in an order of its own, look, list, cancel. A killed server starts over and retries them all."""
    dice = random.Random(f"{name} {seed}")
    supervisor.GRACE_S = GRACE_S
    journal = Journal(plan.journal)
    runs = Supervisor(Workspace(Path(plan.root)))
    todo = list(plan.jobs)
    dice.shuffle(todo)
    known: dict[str, str] = {}
    while True:
        try:
            what = dice.random()
            if todo and what < 0.5:
                known[todo[-1]] = submit(runs, plan, todo[-1])
                journal.say("submitted", todo[-1], known[todo[-1]])
                todo.pop()
            elif what < 0.7:
                runs.page(kind=None, state=None, limit=20, cursor=None)
            elif known and what < 0.85:
                runs.view(dice.choice(list(known.values())), log_lines=5)
            elif known and what < 0.95 and plan.cancels:
                key = dice.choice(list(known))
                if plan.jobs[key]["cancel"]:
                    journal.say("cancel asked", known[key])
                    journal.say("cancel answered", known[key], runs.cancel(known[key]).state)
            else:
                time.sleep(0.1)
        except Conflict:
            pass
        except StoreBusy:
            journal.say("busy")
        time.sleep(0.03)


# Chaos.


@dataclass
class Deeds:
    """What was done, by run where it was done to a run's process."""

    touched: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    killed: int = 0
    killed_pids: set[int] = field(default_factory=set)
    actions: Counter[str] = field(default_factory=Counter)
    server_failures: set[str] = field(default_factory=set)


class Chaos:
    """Kills, stops and blocks at random, and writes down what it did before it does it."""

    def __init__(self, plan: Plan, plan_path: Path, seed: int, *, servers: int = 3, hold_s: float = 3.0) -> None:
        self.plan, self.plan_path = plan, plan_path
        self.dice = random.Random(f"chaos {seed}")
        self.seed = seed
        self.hold_s = hold_s
        self.deeds = Deeds()
        self.servers: list[subprocess.Popen[bytes]] = []
        self.stopped: list[tuple[float, int]] = []
        self.holders: list[threading.Thread] = []
        self.starting: dict[str, float] = {}
        self.births = 0
        for _ in range(servers):
            self.servers.append(self._start_server())

    def _start_server(self) -> subprocess.Popen[bytes]:
        self.births += 1
        command = [sys.executable, "-m", "tests.runs.stress", str(self.plan_path), f"server{self.births}"]
        with self.plan_path.with_name("servers.log").open("ab") as log:
            return subprocess.Popen(
                [*command, str(self.seed)], cwd=HERE.parents[1], start_new_session=True, stdout=log, stderr=log
            )

    def strike(self) -> None:
        """One random misfortune."""
        deed = self.dice.choices(
            ["shim", "worker", "both", "term worker", "term shim", "stop", "server", "server group", "hold"],
            [4, 4, 3, 1, 1, 4, 3, 3, 1],
        )[0]
        found = processes(self.plan)
        match deed:
            case "shim" | "worker":
                self._signal(found, deed, signal.SIGKILL)
            case "both":
                first, second = self.dice.sample(["shim", "worker"], 2)
                if run_id := self._signal(found, first, signal.SIGKILL):
                    self._signal([one for one in found if one[2] == run_id], second, signal.SIGKILL)
            case "term worker" | "term shim":
                self._signal(found, deed.removeprefix("term "), signal.SIGTERM)
            case "stop":
                self._stop(found)
            case "server" | "server group":
                self._end_server(self.dice.randrange(len(self.servers)), group=deed == "server group")
            case "hold" if not any(holder.is_alive() for holder in self.holders):
                self.holders.append(threading.Thread(target=self._hold, args=(self.dice.uniform(0.5, self.hold_s),)))
                self.holders[-1].start()
        self.deeds.actions[deed] += 1

    def tend(self) -> None:
        """Wake what was stopped for long enough, restart servers, let the deadline of dead launches pass."""
        now = time.monotonic()
        for at, pid in [one for one in self.stopped if one[0] <= now]:
            self.stopped.remove((at, pid))
            _send(pid, signal.SIGCONT)
        for number, server in enumerate(self.servers):
            if server.poll() is not None:
                if server.returncode > 0:  # nobody killed it: an exception that it did not expect
                    log = self.plan_path.with_name("servers.log").read_text().splitlines()
                    self.deeds.server_failures.update(line for line in log if not line.startswith((" ", "Traceback")))
                self.servers[number] = self._start_server()
        self.hurry()

    def hurry(self) -> None:
        """The 60 s after which a launch counts as failed pass in four."""
        now = time.monotonic()
        rows = [row["run_id"] for row in read(self.plan, "SELECT run_id FROM runs WHERE state='starting'")]
        self.starting = {run_id: self.starting.get(run_id, now) for run_id in rows}
        late = [run_id for run_id, since in self.starting.items() if now - since > STARTING_S]
        if late:
            with _connected(self.plan) as connection:
                marks = ",".join("?" * len(late))
                connection.execute(f"UPDATE runs SET spawn_deadline=0 WHERE run_id IN ({marks})", late)
                connection.commit()

    def end(self) -> None:
        """Everything that was stopped goes on, the servers go."""
        for _, pid in self.stopped:
            _send(pid, signal.SIGCONT)
        self.stopped.clear()
        for holder in self.holders:
            holder.join(60)
        for server in self.servers:
            _send(server.pid, signal.SIGCONT)
            server.kill()
            server.wait(10)
        # Killed like any other: what it had just claimed fails.
        self.deeds.killed += len(self.servers)
        self.servers.clear()

    def _signal(self, found: list[tuple[int, str, str]], role: str, number: signal.Signals) -> str | None:
        choice = [one for one in found if one[1] == role]
        if not choice:
            return None
        pid, _, run_id = self.dice.choice(choice)
        self.deeds.touched[run_id].append(f"{'kill' if number == signal.SIGKILL else 'term'} {role}")
        self.deeds.killed += 1
        if number == signal.SIGKILL:
            self.deeds.killed_pids.add(pid)
        _send(pid, number)
        return run_id

    def _stop(self, found: list[tuple[int, str, str]]) -> None:
        pids = [one[0] for one in found] + [server.pid for server in self.servers]
        pid = self.dice.choice(pids)
        self.stopped.append((time.monotonic() + self.dice.uniform(0.05, 2.0), pid))
        _send(pid, signal.SIGSTOP)

    def _end_server(self, number: int, *, group: bool) -> None:
        server = self.servers[number]
        self.deeds.killed += 1
        if group:  # as a host closes a chat
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
        else:
            server.kill()
        _send(server.pid, signal.SIGCONT)
        server.wait(10)

    def _hold(self, seconds: float) -> None:
        with _connected(self.plan) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            connection.rollback()


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def processes(plan: Plan) -> list[tuple[int, str, str]]:
    """Pid, role (shim or worker) and run of every process of a run, by its command line."""
    found = []
    for one in psutil.process_iter():
        try:
            command = one.cmdline()
            dead = one.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        run_dirs = [Path(word) for word in command if word.startswith(f"{plan.root}/runs/")]
        if run_dirs and not dead:
            found.append((one.pid, "shim" if "tunesmith.runs.shim" in command else "worker", run_dirs[0].name))
    return found


def leftovers(plan: Plan) -> list[str]:
    """Processes that belong to any run of the plan, by command line or environment."""
    run_ids = {row["run_id"] for row in read(plan, "SELECT run_id FROM runs")}
    found = []
    for one in psutil.process_iter():
        try:
            if one.status() == psutil.STATUS_ZOMBIE or one.pid == os.getpid():
                continue
            command = one.cmdline()
            if any(plan.root in word for word in command) or one.environ().get("TUNESMITH_RUN_ID") in run_ids:
                found.append(f"{one.pid} {command}")
        except psutil.Error:
            continue
    return found


# A round.


def _connected(plan: Plan) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(Path(plan.root, "tunesmith.db"), timeout=PATIENCE_S))


def read(plan: Plan, sql: str) -> list[sqlite3.Row]:
    with _connected(plan) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(sql).fetchall()


@dataclass
class Evidence:
    """What a round left, to be judged."""

    plan: Plan
    deeds: Deeds
    seed: int
    seconds: float


def stress(
    folder: Path,
    seed: int,
    *,
    chaos_s: float,
    device_runs: int = 60,
    cpu_runs: int = 12,
    chaos: bool = True,
    hold_s: float = 3.0,
    drain_s: float = 90.0,
) -> Evidence:
    """Let three servers work on one workspace for `chaos_s` seconds, then drain the queue with a fresh one."""
    began = time.monotonic()
    plan = make_plan(folder, seed, device_runs=device_runs, cpu_runs=cpu_runs, chaos=chaos)
    plan_path = folder / "plan.json"
    plan_path.write_text(json.dumps(plan.__dict__))
    Supervisor(Workspace(Path(plan.root))).reconcile_all()
    havoc = Chaos(plan, plan_path, seed, hold_s=hold_s)
    try:
        while time.monotonic() - began < chaos_s and not _all_ended(plan):
            if chaos:
                time.sleep(havoc.dice.uniform(0.05, 0.4))
                havoc.strike()
            else:
                time.sleep(0.1)
            havoc.tend()
    finally:
        havoc.end()
    _drain(plan, havoc, drain_s)
    return Evidence(plan, havoc.deeds, seed, time.monotonic() - began)


def _all_ended(plan: Plan) -> bool:
    states = [row["state"] for row in read(plan, "SELECT state FROM runs")]
    return len(states) == len(plan.jobs) and all(state in TERMINAL for state in states)


def _drain(plan: Plan, havoc: Chaos, drain_s: float) -> None:
    workspace = Workspace(Path(plan.root))
    fresh = Supervisor(workspace)
    journal = Journal(plan.journal)
    for key in plan.jobs:
        journal.say("submitted", key, submit(fresh, plan, key))
    deadline = time.monotonic() + drain_s
    while not _all_ended(plan) or leftovers(plan):
        assert time.monotonic() < deadline, f"not drained: {_open_runs(plan)} {leftovers(plan)}"
        havoc.hurry()
        fresh.reconcile_all()
        time.sleep(0.1)
    os.close(journal.descriptor)
    workspace.database.close()


def _open_runs(plan: Plan) -> list[tuple[Any, ...]]:
    sql = f"SELECT * FROM runs WHERE state NOT IN ({','.join(map(repr, TERMINAL))})"
    return [tuple(row) for row in read(plan, sql)]


if __name__ == "__main__":
    if len(sys.argv) == 4:
        serve(Plan(**json.loads(Path(sys.argv[1]).read_text())), sys.argv[2], sys.argv[3])
    else:
        import tempfile

        from tests.runs.judgement import error_code, faults

        chosen = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(10**6)
        seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 40.0
        place = Path(tempfile.mkdtemp(prefix="tunesmith-stress-"))
        print(f"seed {chosen}, {seconds} s, {place}", flush=True)
        left = stress(place, chosen, chaos_s=seconds)
        ends = Counter((row["state"], error_code(row)) for row in read(left.plan, "SELECT state, error FROM runs"))
        print(f"{left.seconds:.0f} s", dict(left.deeds.actions), dict(ends))
        print("\n".join(faults(left)) or "nothing wrong")
