"""The faults that runs are tested against: what is done to them, and what must come of it.

A test shows a fault by its id: `@pytest.mark.fault("F5")`. The table in docs/reliability.md is made from this file
and those marks (`python -m tests.reliability`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One way in which things go wrong, and what a user sees then."""

    inject: str
    expected: str


FAULTS: dict[str, Fault] = {
    "F1": Fault(
        "The server is killed (SIGKILL) while a run works.",
        "The run works on. The next server shows it as running under the same id, and reading its log from where one "
        "left off misses no line.",
    ),
    "F2": Fault(
        "The server's whole process group gets SIGTERM, then SIGKILL: what a chat application does when it closes.",
        "As F1: the run is in no group of the server's.",
    ),
    "F3": Fault(
        "The worker is killed.",
        "The run has failed with `killed_by_system`, its place is free at once, and a training run with a checkpoint "
        "can be resumed.",
    ),
    "F4": Fault(
        "The worker takes more memory than it may have.",
        "The run has failed, its error says what to make smaller, and the server answers as before.",
    ),
    "F5": Fault(
        "The shim that supervises a worker is killed; the worker lives.",
        "The run is still running and is marked as orphaned. It can be cancelled, and it has succeeded at its end only "
        "if it left a complete result.",
    ),
    "F6": Fault(
        "Shim and worker are killed together, or the machine restarts.",
        "The run is `lost`. It is not started again by itself, and no process is signalled.",
    ),
    "F7": Fault(
        "The process number that was written down now belongs to a process of somebody else.",
        "The run is `lost`, and that process is never signalled.",
    ),
    "F8": Fault(
        "The server dies after it took a run from the queue and before it started a process for it.",
        "After a minute's grace the run has failed with `spawn_failed`. It is never started twice.",
    ),
    "F9": Fault(
        "Two servers get the same `idempotency_key` at the same moment.",
        "There is one run, and both answer with its id.",
    ),
    "F10": Fault(
        "Three servers queue sixty runs for one GPU.",
        "Each run is started once, and there are never two at a time.",
    ),
    "F11": Fault(
        "A run ends while no server is open, and another one waits.",
        "The one that waits is started.",
    ),
    "F12": Fault(
        "A run is cancelled while it waits, while it works, or after it has ended.",
        "It never starts; it ends as `cancelled`, a training run with a checkpoint; it stays what it was, and the "
        "error says so.",
    ),
    "F13": Fault(
        "A worker ignores the wish to stop, or comes to its own end at the same moment.",
        "It is killed after the grace and says so (`forced`). A run ends exactly once.",
    ),
    "F14": Fault(
        "A process that the worker started outlives it.",
        "It is ended too, and the run's lock is free.",
    ),
    "F15": Fault(
        "The disk is full when the log, a checkpoint or the database is written.",
        "The run has failed with `disk_full`, or the call is answered with that error. The checkpoint before is whole, "
        "the database is sound, and the server answers.",
    ),
    "F16": Fault(
        "The worker is killed while it saves a checkpoint.",
        "Training goes on from the newest checkpoint that is complete; the partial one is set aside and named.",
    ),
    "F17": Fault(
        "The newest checkpoint is cut short, or one byte of it is changed.",
        "It is set aside and named; training goes on from the one before.",
    ),
    "F18": Fault(
        "The record of how a worker ended is damaged, or the last line of the measurements is half written.",
        "What cannot be read counts as not there: the run is judged by the rest, and the half line is skipped.",
    ),
    "F19": Fault(
        "The database is replaced by garbage.",
        "The server starts. Every tool that needs the database answers `store_corrupt` with its path; nothing is "
        "deleted.",
    ),
    "F20": Fault(
        "A log of 1 GiB, binary junk, a line of 50 MB, a storm of carriage returns.",
        "One read gives at most 32 KiB, and memory stays flat.",
    ),
    "F21": Fault(
        "The clock is set back by an hour.",
        "Order goes by sequence, not by time, and no length of time is negative.",
    ),
    "F22": Fault(
        "The workspace cannot be written, is missing, or is another user's.",
        "The server says so in one line, with what to do, and does not start.",
    ),
    "F23": Fault(
        "CUDA memory runs out at the first step or later; torch cannot be imported.",
        "Training steps down and goes on, or fails with `out_of_memory` and what to change. A failed import is "
        "`import_error`; tools that do not need torch work.",
    ),
    "F24": Fault(
        "Another process holds the database's write lock for 15 seconds.",
        "The call is answered with `store_busy` and can be repeated; no half change is left.",
    ),
    "F25": Fault(
        "A training run is killed at twenty random moments and resumed each time.",
        "The weights at the end are those of an undisturbed run within float tolerance, and never more than "
        "`save_steps` steps are done again.",
    ),
}
