"""Whether what a round of stress left agrees with what was done. Judged from outside: files and the database."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.runs.stress import ONE_CARD, Evidence, Plan, read
from tunesmith.runs.states import LEGAL, TERMINAL


def faults(evidence: Evidence) -> list[str]:
    """Everything that is wrong with what a round left; empty when all is as it must be."""
    return list(_faults(evidence))


def _faults(evidence: Evidence) -> Iterator[str]:
    plan, deeds = evidence.plan, evidence.deeds
    found = read(plan, "PRAGMA integrity_check")[0][0]
    if found != "ok":
        yield f"integrity_check: {found}"
    rows = {row["run_id"]: row for row in read(plan, "SELECT * FROM runs")}
    keys, wanted = Counter(row["idempotency_key"] for row in rows.values()), Counter(list(plan.jobs))
    if keys != wanted:
        yield f"not one run a key: {keys - wanted} too many, {wanted - keys} missing"
    yield from (f"a server failed: {line}" for line in deeds.server_failures)
    by_key = {row["idempotency_key"]: run_id for run_id, row in rows.items()}
    asked: set[str] = set()
    answers: defaultdict[str, list[str]] = defaultdict(list)
    for line in Path(plan.journal).read_text().splitlines():
        _, what, *words = json.loads(line)
        if what == "submitted" and by_key.get(words[0]) != words[1]:
            yield f"{words[0]} was answered with {words[1]}, the store has {by_key.get(words[0])}"
        elif what == "cancel asked":
            asked.add(words[0])
        elif what == "cancel answered":
            answers[words[0]].append(words[1])
    yield from _broken_chains(plan, rows)
    said = acts(plan)
    yield from _overlaps(plan, rows, said)
    unexplained = 0
    for run_id, row in rows.items():
        begins = said[run_id].count("begin")
        if begins > 1:
            yield f"{run_id} began {begins} times"
        done = deeds.touched[run_id]
        if row["worker_pid"] in deeds.killed_pids:
            done.append("kill worker")  # for a moment after its birth it has the command line of its shim
        why = _wrong_end(plan, row, done, said[run_id], run_id in asked, answers[run_id])
        if why:
            what = f"done to it: {done}, it said: {said[run_id]}, cancels: {answers[run_id]}"
            yield f"{run_id} is {row['state']} {row['error'] or ''}: {why} ({what})"
        unexplained += error_code(row) == "spawn_failed" and not deeds.touched[run_id]
    if unexplained > deeds.killed:
        yield f"{unexplained} launches failed, and only {deeds.killed} processes were killed"


def error_code(row: sqlite3.Row) -> str | None:
    return json.loads(row["error"])["code"] if row["error"] else None


def acts(plan: Plan) -> defaultdict[str, list[str]]:
    """What each run's worker said, in order."""
    said: defaultdict[str, list[str]] = defaultdict(list)
    for line in Path(plan.witness).read_text().splitlines():
        _, what, run_id, _ = line.split()
        said[run_id].append(what)
    return said


def _broken_chains(plan: Plan, rows: dict[str, sqlite3.Row]) -> Iterator[str]:
    state: dict[str, str | None] = dict.fromkeys(rows)
    for event in read(plan, "SELECT * FROM events ORDER BY seq"):
        run_id, before, after = event["run_id"], event["state_before"], event["state_after"]
        legal = (after == "queued") if before is None else after in LEGAL[before]
        if run_id not in state or state[run_id] != before or not legal:
            yield f"{run_id}: an event {before} to {after} after {state.get(run_id)}"
        state[run_id] = after
    for run_id, row in rows.items():
        if row["state"] != state[run_id] or row["state"] not in TERMINAL:
            yield f"{run_id} is {row['state']}, its last event says {state[run_id]}"
        times = [row["created_at"], row["started_at"] or row["created_at"], row["finished_at"] or ""]
        if times != sorted(times):
            yield f"{run_id}: times run backwards, {times}"


def _overlaps(plan: Plan, rows: dict[str, sqlite3.Row], said: dict[str, list[str]]) -> Iterator[str]:
    inside: str | None = None
    for line in Path(plan.witness).read_text().splitlines():
        _, what, run_id, _ = line.split()
        if run_id not in rows or plan.jobs[rows[run_id]["idempotency_key"]]["slots"] != list(ONE_CARD):
            continue
        if what == "collision":
            yield f"{run_id} found another run in its slot"
        elif what == "begin":
            # One that was killed never said that it ended; the lock between workers judges those.
            if inside is not None and {"end", "stopped"} & set(said[inside]):
                yield f"{run_id} began while {inside} was at work in the same slot"
            inside = run_id
        elif inside == run_id:
            inside = None


def _wrong_end(
    plan: Plan, row: sqlite3.Row, touched: list[str], said: list[str], asked: bool, answers: list[str]
) -> str | None:
    """Why a run's end does not agree with what was done to it."""
    state, code = row["state"], error_code(row)
    shim_hit = any("shim" in deed for deed in touched)
    worker_hit = any("worker" in deed for deed in touched)
    told = "term shim" in touched or "term worker" in touched
    if not Path(plan.root, "runs", row["run_id"], "spec.json").exists():
        return "its folder is gone"
    if "cancelling" in answers and state != "cancelled":
        return "a cancel was accepted"
    match state, code:
        case "succeeded", _:
            return None if "begin" in said and "stopped" not in said else "its worker did not finish"
        case "cancelled", _:
            return None if asked else "nobody asked for it"
        case "failed", "spawn_failed":
            return "its worker began" if said else None
        case "failed", "killed_by_system":
            # A wish to stop that is not obeyed ends in a kill.
            return None if "kill worker" in touched or told else "nobody killed its worker"
        case "failed", "interrupted":
            return None if told and "stopped" in said else "nobody told it to stop"
        case "failed", "crashed":
            return None if told else "nobody signalled it"
        case "lost", _:
            if not shim_hit:
                return "its shim was not killed"
            return None if worker_hit or told or "begin" not in said else "its worker was not killed"
    return "no such end was expected"
