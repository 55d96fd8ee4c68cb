"""A training divided among several processes, a card each: how many there may be, and who trains which rows. No torch.

`batch_size` and `gradient_accumulation` are those of one process. Each optimizer step is made of the rows that one
process alone would take for it: its micro-batches are dealt out to the processes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from tunesmith.errors import NotSupported
from tunesmith.training.choices import Choices
from tunesmith.training.hardware import DEVICE_SLOT, Hardware
from tunesmith.training.recipe import RecipeOptions

TRANSFER_GIB = 0.5  # what NCCL holds on each card, outside what torch reserves; an estimate


def for_one_process(hardware: Hardware, options: RecipeOptions) -> Hardware:
    """The part of the hardware that each training process has: a card, or its share of a CPU's memory.

    Raises:
        NotSupported: there are not so many cards alike, or cores.
    """
    processes = options.processes or 1
    if processes > hardware.places:
        there = f"{hardware.places} core(s)" if not hardware.cuda else f"{hardware.places} card(s) like {hardware.name}"
        raise NotSupported(
            f"processes={processes}: each needs {'a card' if hardware.cuda else 'a core'} of its own, and this machine "
            f"has {there}.",
            next=f"Use processes={hardware.places} at most, or leave it out.",
        )
    if processes == 1 or hardware.budget_gib is None:
        return hardware
    if hardware.cuda:
        if options.memory_budget_gib is not None:
            return hardware
        return replace(hardware, budget_gib=max(0.1, round(hardware.budget_gib - TRANSFER_GIB, 2)))
    note = f"Memory is that of each of {processes} processes, which share {hardware.budget_gib:g} GiB."
    return replace(hardware, budget_gib=round(hardware.budget_gib / processes, 2), notes=(*hardware.notes, note))


def choose_processes(choices: Choices, hardware: Hardware) -> None:
    """How many processes train. Never more than one unasked: other runs may want the other cards."""
    if hardware.cuda and hardware.places > 1 and not hardware.assumed:
        why = f"One card; the {hardware.places - 1} others like it stay free for other runs."
    else:
        why = "One card." if hardware.cuda else "One process makes the best use of a CPU."
    choices.choose("processes", 1, why)


def worth_offering(choices: Choices, hardware: Hardware) -> int:
    """With how many processes the same steps could be made on the cards that are left; 1: with no more than now."""
    values = choices.values
    if not hardware.cuda or hardware.assumed or choices.options.processes is not None:
        return 1
    effective = values["batch_size"] * values["gradient_accumulation"]
    return max(count for count in range(1, hardware.places + 1) if effective % count == 0)


def slots_needed(processes: int, slots: Collection[str]) -> int:
    """How many of a run's slots it takes: one for each card, and one in all where there is only one."""
    return 1 if DEVICE_SLOT in slots else processes


def share(order: Sequence[int], *, effective_batch: int, batch_size: int, rank: int, count: int) -> list[int]:
    """The rows that one of `count` processes trains on, of an epoch's rows in the order of one process.

    Its micro-batches are the consecutive `batch_size` of them. Only the last step may be short. One in which nothing
    is left for a process gives it the first micro-batch, which another trains on: as all must make the same steps.
    What it makes of those rows does not count (`is_idle`).
    """
    mine: list[int] = []
    for start in range(0, len(order), effective_batch):
        step = order[start : start + effective_batch]
        pieces = [step[first : first + batch_size] for first in range(0, len(step), batch_size)]
        # Dealt out in turn: within a step rows are sorted by length, and each process gets long and short ones.
        for piece in pieces[rank::count] or pieces[:1]:
            mine.extend(piece)
    return mine


def is_idle(rows: int, step: int, *, effective_batch: int, batch_size: int, rank: int) -> bool:
    """Whether a step, counted from 0 over all epochs of `rows` rows, has no rows for a process."""
    per_epoch = -(-rows // effective_batch)
    left = min(effective_batch, rows - (step % per_epoch) * effective_batch)
    return -(-left // batch_size) <= rank
