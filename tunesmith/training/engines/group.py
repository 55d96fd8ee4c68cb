"""Several training processes that make the same steps: what they tell each other, and the sums they make together.

Not torch's DistributedDataParallel, which would wrap the model: the loss made around the model's own forward pass, a
last step in which a process has no rows, and memory that runs out in one process in the middle of a backward pass all
end there in processes that wait for each other for ever. Here each process trains an ordinary model on its rows, and
meets the others at few, known places. Gradients are summed once a step; for an adapter that is a small transfer.

The first process leads: at each meeting it says what comes next, and all say whether their memory ran out. Nothing
between a meeting and the transfer that follows it can fail, so no process ever waits for one that has gone elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from tunesmith.errors import NotSupported
from tunesmith.training.examples import Example
from tunesmith.training.passes import Passes
from tunesmith.training.recipe import Recipe

PATIENCE = timedelta(days=30)  # a checkpoint, a look, a wait for the card may take long; a death is seen by others
BUCKET_NUMBERS = 2**24  # gradients summed in one transfer: 64 MiB of 32-bit numbers


class Order(IntEnum):
    """What the leading process says comes next."""

    LOAD = 1  # the base model, with the recipe as it is now
    EVALUATE = 2  # take part in measuring the held-out loss
    ADD = 3  # the parts of a held-out loss
    TRAIN = 4  # from the beginning or a checkpoint
    STEP = 5  # the micro-batches of the next optimizer step
    SUM = 6  # the gradients of that step
    END = 7


@dataclass(frozen=True)
class Task:
    """What a process needs to load and train like the leader.

    Attributes:
        base: folder of the base model.
        dtype: number format of the computation; empty: that of the card.
        root: where checkpoints lie.
        joins: as for an engine's `load`.
    """

    base: Path
    recipe: Recipe
    dtype: str
    train: Sequence[Example]
    held_out: Sequence[Example]
    steps: int
    root: Path
    passes: Passes
    joins: bool | None


class Ordered(Exception):
    """An order that cannot be followed where it was heard: the leader has left what it began."""

    def __init__(self, order: Order, thing: Any) -> None:
        super().__init__(order.name)
        self.order, self.thing = order, thing


class Group:
    """The processes of one training.

    Args:
        meeting_place: a file they share; removed by the leader before the others are started.
        rank: 0 leads.

    Raises:
        NotSupported: some of them have a card and some have none.
    """

    def __init__(self, meeting_place: Path, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        loopback = next((name for name in psutil.net_if_addrs() if name in ("lo", "lo0")), None)
        if loopback is not None:  # a machine's own name need not lead to itself
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
        # transformers expects its own launcher to have started whatever talks through torch.distributed.
        logging.getLogger("transformers.training_args").addFilter(
            lambda record: "process group is initialized" not in record.getMessage()
        )
        # Not a port, which anybody on the machine could open.
        store = dist.FileStore(str(meeting_place), count)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=PATIENCE)
        cards = torch.tensor([int(torch.cuda.is_available())])
        dist.all_reduce(cards)
        if int(cards) not in (0, count):
            raise NotSupported(
                f"processes={count}: only {int(cards)} of them have a card to use.", next="Use fewer processes."
            )
        self._transfers: Any = dist.new_group(backend="nccl", timeout=PATIENCE) if int(cards) else None
        self._buffers: dict[torch.dtype, torch.Tensor] = {}

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def order(self, order: Order, thing: Any = None) -> None:
        """Say what comes next. The leader's.

        Args:
            thing: what the others need for it; anything that can be pickled.

        Raises:
            torch.OutOfMemoryError: memory ran out in another process. Not for LOAD, with which all begin anew.
        """
        _, out_of_memory = self._meet(order)
        if out_of_memory and order != Order.LOAD:
            raise torch.OutOfMemoryError("memory ran out in another of the training processes")
        if order in _WITH_THINGS:
            dist.broadcast_object_list([thing])

    def hear(self, *, out_of_memory: bool = False) -> tuple[Order, Any]:
        """Wait for the leader's next order. The others'."""
        while True:
            order, somebody = self._meet(0, out_of_memory=out_of_memory)
            out_of_memory = False
            if somebody and order != Order.LOAD:
                continue  # the leader heard of it and gives another
            things: list[Any] = [None]
            if order in _WITH_THINGS:
                dist.broadcast_object_list(things)
            return Order(order), things[0]

    def together(self, order: Order) -> None:
        """Meet before a transfer that everybody takes part in.

        Raises:
            torch.OutOfMemoryError: as `order`.
            Ordered: the leader wants something else.
        """
        if self.leads:
            self.order(order)
            return
        heard, thing = self.hear()
        if heard != order:
            raise Ordered(heard, thing)

    def add(self, *numbers: float) -> list[float]:
        """The sums of numbers over all processes, in 64 bits."""
        self.together(Order.ADD)
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()

    def copy_weights(self, model: torch.nn.Module) -> None:
        """Give the trained weights of the leader's model to all. Right after an order."""
        for weights in _trained(model):
            dist.broadcast(weights.data, src=0, group=self._transfers)

    def mean_gradients(self, model: torch.nn.Module, figures: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Replace each gradient by its mean over all processes, each with its weight.

        Args:
            figures: [n] in 64 bits, on the device of the model: the first is averaged like the gradients, the others
                are summed.
            weight: a scalar there; 0 for a process whose rows do not count.

        Returns:
            The figures of all.
        """
        trained = _trained(model)
        for weights in trained:
            if weights.grad is None:
                weights.grad = torch.zeros_like(weights)
            self._buffers.setdefault(weights.grad.dtype, weights.grad.new_empty(0))
        buckets = _buckets(trained)
        for bucket in buckets:
            buffer, numbers = self._buffers[bucket[0].dtype], sum(grad.numel() for grad in bucket)
            if len(bucket) > 1 and buffer.numel() < numbers:
                self._buffers[bucket[0].dtype] = buffer.new_empty(numbers)
        own = torch.cat([figures.double(), weight.double().view(1)])
        total = own.clone()
        # From here on nothing takes memory.
        self.together(Order.SUM)
        dist.all_reduce(total[-1:], group=self._transfers)
        share = own[-1:] / total[-1:]
        total[:1] = own[:1] * share
        # A product with 0 is not enough: what does not count may be infinite.
        total[:-1].masked_fill_(share == 0, 0.0)
        dist.all_reduce(total[:-1], group=self._transfers)
        for bucket in buckets:
            sizes = [grad.numel() for grad in bucket]
            flat = bucket[0] if len(bucket) == 1 else self._buffers[bucket[0].dtype][: sum(sizes)]
            if len(bucket) > 1:
                torch.cat([grad.reshape(-1) for grad in bucket], out=flat)
            flat.mul_(share.to(flat.dtype)).masked_fill_(share == 0, 0.0)
            dist.all_reduce(flat, group=self._transfers)
            if len(bucket) > 1:
                for grad, part in zip(bucket, flat.split(sizes), strict=True):
                    grad.copy_(part.view_as(grad))
        return total[:-1]

    def end(self) -> None:
        """Let the others go."""
        if self.leads:
            with contextlib.suppress(RuntimeError):  # nothing is lost any more, whatever became of them
                self.order(Order.END)
        dist.destroy_process_group()

    def _meet(self, order: int, *, out_of_memory: bool = False) -> tuple[int, bool]:
        said = torch.tensor([int(order), int(out_of_memory)])
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        heard, failed = said.tolist()
        return heard, bool(failed)


_WITH_THINGS = (Order.LOAD, Order.EVALUATE, Order.TRAIN)


def _trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [weights for weights in model.parameters() if weights.requires_grad]


def _buckets(trained: Sequence[torch.nn.Parameter]) -> list[list[torch.Tensor]]:
    """The gradients, as many of one number format at a time as go into one transfer."""
    buckets: list[list[torch.Tensor]] = []
    room = 0
    for weights in trained:
        grad = weights.grad
        assert grad is not None
        if not buckets or buckets[-1][0].dtype != grad.dtype or grad.numel() > room:
            buckets.append([])
            room = BUCKET_NUMBERS
        buckets[-1].append(grad)
        room -= grad.numel()
    return buckets
