"""How many rows are cut, and how many tokens pass through the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.training import choices as pick
from tunesmith.training.batching import epoch_order, packed_sequences, padded_tokens
from tunesmith.training.examples import Example
from tunesmith.training.job import Job
from tunesmith.training.objectives import SEQUENCES
from tunesmith.training.recipe import Recipe
from tunesmith.training.records import PlannedTokens

COUNTED_ROWS = 2_000_000  # rows of all epochs together whose batches are counted one by one


def cut(examples: Sequence[Example], max_length: int) -> list[Example]:
    """The examples as the trainer sees them, without what lies beyond `max_length` tokens; each once."""
    distinct = {id(example): example for example in examples}.values()
    return [example.cut(max_length) if example.tokens_before_cut > max_length else example for example in distinct]


def count_cut(job: Job, max_length: int) -> int:
    """Rows, held-out ones too, that lose their end."""
    return sum(example.tokens_before_cut > max_length for example in (*job.train, *job.eval))


def sequences(job: Job, values: dict[str, Any]) -> int:
    """What one pass over the training rows is made of: rows, or packed sequences of them."""
    if values["packing"]:
        return packed_sequences(job.lengths, values["max_length"])
    return len(job.train)


def count_tokens(job: Job, recipe: Recipe, steps: int) -> PlannedTokens:
    """Exactly what the trainer will see: the same order, batch by batch. Of very many epochs the first ones tell."""
    guessed = not job.counted
    lengths = [min(length, recipe.max_length) for length in job.lengths]
    if recipe.packing:
        packed = packed_sequences(lengths, recipe.max_length)
        _, per_epoch = pick.count_steps(recipe.model_dump(), packed)
        total = real = round(sum(lengths) * steps / per_epoch)  # flattened by TRL: no padding
        if job.joins and recipe.engine == "transformers":  # every micro-batch is filled up to the same length
            batches = -(-packed // recipe.batch_size)
            total = round(batches * recipe.batch_size * recipe.max_length * steps / per_epoch)
        return PlannedTokens(total=total, real=real, padding_share=round(1 - real / total, 4), estimated=guessed)
    # Of a pair both answers pass, each padded to the longer of the batch.
    sequences = SEQUENCES[job.objective]
    sizes = [sum(min(len(answer.input_ids), recipe.max_length) for answer in example.answers) for example in job.train]
    total = real = done = epoch = 0
    while done < steps and epoch * len(lengths) < COUNTED_ROWS:
        order = epoch_order(lengths, recipe.effective_batch, seed=recipe.seed, epoch=epoch)
        order = order[: (steps - done) * recipe.effective_batch]
        total += sequences * padded_tokens(lengths, order, recipe.batch_size)
        real += sum(sizes[index] for index in order)
        done += pick.steps_in_epoch(len(order), recipe.effective_batch)
        epoch += 1
    if done < steps:
        total, real = round(total * steps / done), round(real * steps / done)
    return PlannedTokens(total=total, real=real, padding_share=round(1 - real / total, 4), estimated=guessed)
