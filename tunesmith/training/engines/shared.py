"""The trainer of one of several processes: its share of each step's rows, and the sums made with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import RandomSampler, Sampler

from tunesmith.training.engines.group import Group, Order, Ordered
from tunesmith.training.engines.sft import Trainer
from tunesmith.training.sharing import is_idle, share


class RankOrder(Sampler[int]):
    """The rows of one process, of the order in which one process alone would take them all."""

    def __init__(self, order: Any, take: Callable[[list[int]], list[int]]) -> None:
        self.order = order
        self.take = take
        self._length = len(take(list(range(len(order)))))

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch, after a resume too."""
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return iter(self.take(list(self.order)))


class SharedTrainer(Trainer):
    """Trains on its share of the rows; after each step all processes have the same weights.

    Args:
        group: this process and the others; None when they have gone.
    """

    def __init__(self, *args: Any, group: Group, **kwargs: Any) -> None:
        self.group: Group | None = group
        self._left = 0  # micro-batches of this step
        self._step_loss: Any = 0.0  # of those done
        self._weight: Any = 0
        self._tokens_before: Any = 0
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        order = super()._get_train_sampler(train_dataset)
        if isinstance(order, RandomSampler):  # packed sequences; as accelerate does it for one process
            order = SeedableRandomSampler(order.data_source, data_seed=self.args.data_seed)
        recipe, group = self.recipe, self._group()

        def take(rows: list[int]) -> list[int]:
            return share(
                rows,
                effective_batch=recipe.effective_batch,
                batch_size=recipe.batch_size,
                rank=group.rank,
                count=group.count,
            )

        return RankOrder(order, take)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The micro-batches of the next step, once all are to make one."""
        self._await_step()
        samples, items = super().get_batch_samples(*args, **kwargs)
        self._left, self._step_loss, self._tokens_before = len(samples), 0.0, self._real_tokens
        # Where the model takes no number of tokens, the loss of a step is the mean of its micro-batches.
        self._weight = len(samples) if items is None else items
        return samples, items

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """As one process does it; after the last micro-batch of a step the gradients are those of all processes.

        Returns:
            The loss of the micro-batch; of the last one such that their sum is the loss of the whole step.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        group = self._group()
        self._left -= 1
        if self._left > 0:
            self._step_loss = self._step_loss + loss
            return loss
        done, device = self._step_loss, loss.device
        weight = torch.as_tensor(self._weight, dtype=torch.float64, device=device)
        tokens = torch.as_tensor(self._real_tokens - self._tokens_before, dtype=torch.float64, device=device)
        assert isinstance(self.train_dataset, Sized)
        if is_idle(
            len(self.train_dataset),
            self.state.global_step,
            effective_batch=self.recipe.effective_batch,
            batch_size=self.recipe.batch_size,
            rank=group.rank,
        ):
            weight = torch.zeros_like(weight)
        figures = group.mean_gradients(model, torch.stack([(done + loss).double(), tokens]), weight)
        self._real_tokens = self._tokens_before + figures[1]
        return figures[0].to(loss.dtype) - done

    def heldout_loss(self) -> float:
        """The loss on the held-out rows with the leader's weights, each process measuring its share of them."""
        group, model = self.group, self.model
        if group is None:
            return super().heldout_loss()
        assert model is not None
        if group.leads:
            group.order(Order.EVALUATE, self.held_out)
        group.copy_weights(model)
        rows = self.held_out
        longest_first = sorted(rows, key=lambda example: -len(example.input_ids))
        self.held_out = longest_first[group.rank :: group.count]
        try:
            weight = sum(self.weight_of(example) for example in self.held_out)
            mean = super().heldout_loss() if weight else 0.0
        finally:
            self.held_out = rows
        total, count = group.add(mean * weight, weight)
        return total / count

    def _await_step(self) -> None:
        group = self._group()
        if group.leads:
            group.order(Order.STEP)
            return
        while True:
            order, thing = group.hear()
            if order == Order.STEP:
                return
            if order != Order.EVALUATE:
                raise Ordered(order, thing)
            self.take_part_in_evaluation(thing)

    def _group(self) -> Group:
        assert self.group is not None
        return self.group

    def take_part_in_evaluation(self, held_out: Any) -> None:
        """Measure this process' share of those rows for the leader."""
        self.held_out = held_out
        self.heldout_loss()
