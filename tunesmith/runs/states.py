"""The states a run can be in, and every step between them that is legal.

    queued ──► starting ──► running ──► succeeded | failed | lost
       │           │           └──► cancelling ──► cancelled | failed | lost
       │           └──► failed (spawn_failed) | cancelled
       └──► cancelled

Terminal states never change; resuming makes a new run.
"""

from __future__ import annotations

QUEUED, STARTING, RUNNING, CANCELLING = "queued", "starting", "running", "cancelling"
SUCCEEDED, FAILED, CANCELLED, LOST = "succeeded", "failed", "cancelled", "lost"

ACTIVE = (STARTING, RUNNING, CANCELLING)
TERMINAL = (SUCCEEDED, FAILED, CANCELLED, LOST)
STATES = (QUEUED, *ACTIVE, *TERMINAL)

LEGAL: dict[str, tuple[str, ...]] = {
    QUEUED: (STARTING, CANCELLED),
    STARTING: (RUNNING, CANCELLED, FAILED),
    RUNNING: (CANCELLING, SUCCEEDED, FAILED, LOST),
    CANCELLING: (CANCELLED, FAILED, LOST),
    SUCCEEDED: (),
    FAILED: (),
    CANCELLED: (),
    LOST: (),
}


def may_become(state: str) -> tuple[str, ...]:
    """The states from which `state` can be reached in one step."""
    return tuple(before for before, after in LEGAL.items() if state in after)
