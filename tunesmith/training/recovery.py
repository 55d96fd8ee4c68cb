"""What to give up, one step at a time, when memory ran out.

The effective batch, and so what is learned, stays the same on every step of the ladder: the micro-batch is halved,
activations are recomputed, packed sequences are taken in parts. What would change the result (a shorter max_length
that cuts rows, a lower rank, 4-bit weights, a smaller base) is proposed, never taken.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from tunesmith.errors import OutOfMemory
from tunesmith.training.passes import Passes
from tunesmith.training.recipe import Recipe

# Of torch's CPU allocator, of the C library (mapping a file, starting a thread, loading a library), of C++; of torch's
# allocator on a card, of the driver, and of NVIDIA's libraries, which take memory of their own.
OUT_OF_MEMORY_WORDS = (
    "can't allocate memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
LOADED_AGAIN = "the base model was loaded again"


@dataclass(frozen=True)
class Down:
    """One step down: with what to go on, and what was changed."""

    recipe: Recipe
    passes: Passes
    change: str


def step_down(recipe: Recipe, passes: Passes, longest: int) -> Down | None:
    """One step less memory, or None at the foot of the ladder.

    Args:
        longest: tokens of the longest training row; no pass is shorter.
    """
    if recipe.batch_size > 1:
        effective = recipe.batch_size * recipe.gradient_accumulation  # of one process
        batch = next(size for size in range(recipe.batch_size // 2, 0, -1) if effective % size == 0)
        accumulation = effective // batch
        return Down(
            recipe.model_copy(update={"batch_size": batch, "gradient_accumulation": accumulation}),
            passes,
            f"batch_size {recipe.batch_size} → {batch}, "
            f"gradient_accumulation {recipe.gradient_accumulation} → {accumulation}",
        )
    # Unsloth decides once in a process whether its blocks recompute: turned on later, nothing changes (seen on a card).
    if recipe.gradient_checkpointing == "off" and recipe.engine != "unsloth":
        on = recipe.model_copy(update={"gradient_checkpointing": "on"})
        return Down(on, passes, "gradient_checkpointing off → on")
    if recipe.packing:
        # Not the recipe's max_length: sequences packed anew would put other rows into each step, and a run in the
        # middle of an epoch would see some twice and some not at all. The same sequences are taken in parts instead.
        now = passes.packed_tokens or recipe.max_length
        less = max(longest, now // 2)
        if less < now:
            return Down(
                recipe,
                passes.model_copy(update={"packed_tokens": less}),
                f"max_length {now} → {less} tokens of a packed sequence at a time, the rows of a step as before",
            )
    return None


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: libraries say so in classes and words of their own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY_WORDS)


def exhausted(
    recipe: Recipe, message: str, *, smaller: str | None = None, loading: bool = False, held: str = ""
) -> OutOfMemory:
    """The error when nothing is left to give up without changing the result.

    Args:
        smaller: a smaller base that should fit; None: none is known.
        loading: it was the base model that did not fit, so that a smaller adapter would not help.
        held: who else holds memory of the card, in sentences.
    """
    if recipe.on_out_of_memory == "fail":
        return OutOfMemory(
            f"Memory ran out (on_out_of_memory='fail'): {message[:200]}",
            next="Start again with on_out_of_memory='recover'.",
        )
    ways = []
    if recipe.gradient_checkpointing == "off" and not loading:
        ways.append("gradient_checkpointing='on'")
    if recipe.method == "full":
        ways.append("method='lora'")
    if recipe.method == "lora":
        ways.append("method='qlora' on an NVIDIA GPU")
    if recipe.adapter is not None and recipe.adapter.rank > 8 and not loading:
        ways.append(f"rank={recipe.adapter.rank // 2}")
    ways.append(f"base_model={smaller!r}, which is smaller" if smaller else "a smaller base_model")
    where = " while the base model was loaded" if loading else ""
    return OutOfMemory(
        f"Memory ran out{where}, and nothing is left to give up at the same result: {message[:200]}"
        + (f" {held}" if held else ""),
        next=f"Start again with {', or '.join(ways)}.",
    )
