"""What to give up, one step at a time, when memory ran out.

The effective batch, and so what is learned, stays the same on every step of the
ladder. What would change the result (a shorter max_length, a lower rank, a smaller
base) is proposed, never taken.
"""

from __future__ import annotations

import errno

from tunesmith.errors import OutOfMemory
from tunesmith.training.recipe import Recipe

# Of torch's CPU allocator, of the C library (mapping a file, starting a thread, loading a library), of C++.
OUT_OF_MEMORY_WORDS = ("can't allocate memory", "Cannot allocate memory", "std::bad_alloc", "CUDA out of memory")


def step_down(recipe: Recipe) -> tuple[Recipe, str] | None:
    """The recipe with one step less memory and what was changed, or None at the foot of the ladder."""
    if recipe.batch_size > 1:
        effective = recipe.effective_batch
        batch = next(size for size in range(recipe.batch_size // 2, 0, -1) if effective % size == 0)
        accumulation = effective // batch
        return (
            recipe.model_copy(update={"batch_size": batch, "gradient_accumulation": accumulation}),
            f"batch_size {recipe.batch_size} → {batch}, "
            f"gradient_accumulation {recipe.gradient_accumulation} → {accumulation}",
        )
    if recipe.gradient_checkpointing == "off":
        return recipe.model_copy(update={"gradient_checkpointing": "on"}), "gradient_checkpointing off → on"
    return None


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: libraries say so in classes and words of their own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY_WORDS)


def exhausted(recipe: Recipe, message: str, longest: int | None = None) -> OutOfMemory:
    """The error when nothing is left to give up without changing the result.

    Args:
        longest: tokens of the longest row; None: not known.
    """
    ways = []
    if recipe.packing and longest is not None and longest < recipe.max_length:
        ways.append(f"max_length={longest}")
    if recipe.method == "lora":
        ways.append("method='qlora' on an NVIDIA GPU")
    if recipe.rank > 8:
        ways.append(f"rank={recipe.rank // 2}")
    ways.append("a smaller base_model")
    allowed = "" if recipe.on_out_of_memory == "recover" else " (on_out_of_memory='fail')"
    return OutOfMemory(
        f"Memory ran out{allowed}: {message[:200]}",
        next=(
            f"Start again with {', or '.join(ways)}." if not allowed else "Start again with on_out_of_memory='recover'."
        ),
    )
