"""Room on the card: a run that has its turn waits until other programs have left enough of the card's memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from tunesmith.errors import DoesNotFit
from tunesmith.machine.gpus import held_memory, look_at_gpus
from tunesmith.machine.records import Gpu
from tunesmith.work import Work

PATIENCE_S = 600.0
POLL_S = 2.0


def wait_for_room(
    work: Work,
    need_gib: float,
    *,
    card: str | None = None,
    look: Callable[[], list[Gpu]] = lambda: look_at_gpus()[0],
    patience_s: float = PATIENCE_S,
) -> None:
    """Wait until a card has `need_gib` GiB free, saying who holds it.

    A card that could never hold so much is not waited for: training tries, and recovers with a smaller batch.

    Args:
        card: its index or UUID; None: the one that CUDA will call 0.

    Raises:
        DoesNotFit: `gpu_busy`, when others still hold it after `patience_s` seconds.
    """
    deadline = time.monotonic() + patience_s
    while (found := _card_in_use(look(), card)) is not None and found.free_gib < need_gib <= found.total_gib:
        holders = " ".join(problem.message for problem in held_memory([found]))
        if time.monotonic() >= deadline:
            problems = held_memory([found])
            raise DoesNotFit(
                f"{need_gib:.1f} GiB are needed on {found.name} and {found.free_gib:.1f} were free for "
                f"{patience_s / 60:.0f} minutes. {holders}",
                next=problems[0].fix if problems else "Free some of the card's memory and start again.",
                code="gpu_busy",
            )
        work.progress(f"Waiting for {need_gib:.1f} GiB on {found.name}, {found.free_gib:.1f} are free. {holders}")
        work.check_cancelled()
        time.sleep(min(POLL_S, patience_s / 10))


def held_on_card() -> str:
    """Who else holds memory of the card that is used, and how to free it; "" without a card or where nobody does."""
    card = _card_in_use(look_at_gpus()[0])
    others = (
        [problem for problem in held_memory([card]) if f"(pid {os.getpid()})" not in problem.message] if card else []
    )
    return " ".join(f"{problem.message} {problem.fix}" for problem in others)


def _card_in_use(cards: list[Gpu], name: str | None = None) -> Gpu | None:
    """The card of that index or UUID, or the one that CUDA will call 0."""
    first = name or os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    for card in cards:
        if card.compute_capability and first in ("", str(card.index), card.uuid):
            return card
    return None
