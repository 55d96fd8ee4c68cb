"""What a run is to learn: to imitate answers (sft), or to prefer one answer to another (dpo). No torch.

The rows decide: where every row has a rejected answer besides the chosen one, preference is trained, by DPO
(Rafailov et al. 2023, arXiv:2305.18290). The reference is the base itself, which an adapter that is switched off gives
back.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.records import Row
from tunesmith.errors import BadInput, NotSupported
from tunesmith.training.choices import MICRO_TOKENS_CPU, MICRO_TOKENS_CUDA, Choices
from tunesmith.training.hardware import AS_ASKED, Hardware
from tunesmith.training.recipe import Engine, RecipeOptions
from tunesmith.training.records import Objective

BETA = 0.1  # how dearly leaving the base is paid for; TRL's and the paper's usual value
SEQUENCES = {"sft": 1, "dpo": 2}  # of a row, in one forward pass
LEARNING_RATE = 2e-5
EPOCHS: tuple[tuple[int, int], ...] = ((500, 3), (2000, 2), (10**9, 1))  # rows → passes over them
REASONS = {
    "sft": "The rows have one answer each: the model learns to give it.",
    "dpo": f"Every row has a rejected answer: the model learns to prefer the chosen one (DPO, beta {BETA}); the "
    "reference is the base with the adapter switched off.",
}


def objective_of(rows: Sequence[Row]) -> Objective:
    """What the rows are for.

    Raises:
        BadInput: some have a rejected answer and some have none.
    """
    pairs = sum(row.rejected is not None for row in rows)
    if 0 < pairs < len(rows):
        raise BadInput(
            f"{pairs} of {len(rows)} rows have a rejected answer and {len(rows) - pairs} have none: one run either "
            "prefers answers or imitates them.",
            next="For preference training leave the others out with clean_dataset (drop=['rejected_missing']). To "
            "imitate the chosen answers of all, export_dataset(format='messages') and import_dataset that file.",
        )
    return "dpo" if pairs else "sft"


def check_preference(options: RecipeOptions) -> None:
    """Refuse what preference training cannot do.

    Raises:
        NotSupported: naming it.
    """
    if options.method == "full":
        raise NotSupported(
            "method='full' cannot be trained on preference rows: DPO compares with the base, which is there for "
            "nothing only while an adapter can be switched off.",
            next="Use method='lora' or 'qlora', or leave method out.",
        )
    for name, value, why in (
        ("engine", "unsloth", "its loss does not know pairs"),
        ("packing", True, "two answers to one question are compared row by row"),
    ):
        if getattr(options, name) == value:
            raise NotSupported(f"{name}={value!r} does not go with preference rows: {why}.", next=f"Leave {name} out.")
    if options.processes is not None and options.processes > 1:
        raise NotSupported("Preference rows are trained in one process.", next="Leave processes out.")


def engine_for_preference(options: RecipeOptions) -> tuple[Engine, str]:
    """The engine and why. To be known before packing is chosen."""
    asked = options.engine == "transformers"
    return "transformers", AS_ASKED if asked else "Preference rows are trained by the transformers engine."


def choose_for_preference(choices: Choices, hardware: Hardware, *, longest: int, rows: int) -> None:
    """The values that differ when answers are compared; to be called when all others are chosen.

    Args:
        longest: tokens of the longest row, its longer answer.
        rows: rows trained on.
    """
    options = choices.options
    if options.learning_rate is None:
        choices.change(
            "learning_rate",
            LEARNING_RATE,
            "A tenth of what imitation takes: longer steps push both answers away from what the base can say.",
        )
    if options.packing is None:
        choices.change("packing", False, "Two answers to one question are compared row by row.")
    if options.epochs is None:
        epochs = next(passes for limit, passes in EPOCHS if rows < limit)
        choices.change("epochs", epochs, f"{rows} pairs: preference is learned in fewer passes than answers are.")
    if options.batch_size is None and options.gradient_accumulation is None:
        limit = MICRO_TOKENS_CUDA if hardware.cuda else MICRO_TOKENS_CPU
        batch, accumulation = choices.values["batch_size"], choices.values["gradient_accumulation"]
        while batch > 1 and SEQUENCES["dpo"] * batch * min(longest, choices.values["max_length"]) > limit:
            batch, accumulation = batch // 2, accumulation * 2
        if batch != choices.values["batch_size"]:
            choices.change("batch_size", batch, f"Two sequences a row; up to {limit} tokens in one pass.")
            choices.change("gradient_accumulation", accumulation, f"{batch * accumulation} rows in a step.")
