"""The recipe: every hyperparameter of a training run, as the caller gives it and as it is resolved.

`RecipeOptions` is what a caller may say; everything is optional. `Recipe` is the
same with nothing left open: what the trainer reads and what is stored with the model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tunesmith.errors import InvalidArgument

Method = Literal["qlora", "lora", "full"]
Engine = Literal["unsloth", "transformers"]
PromptFormatName = Literal["chat", "alpaca"]
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]
Optimizer = Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch"]
OnOutOfMemory = Literal["recover", "fail"]

MAX_STEPS = 1_000_000
MAX_PROCESSES = 64
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Rank = Annotated[int, Field(ge=1, le=512, description="LoRA rank: the width of each adapter matrix.", examples=[16])]
Alpha = Annotated[int, Field(ge=1, le=2048, description="LoRA alpha; the update is scaled by alpha / rank.")]
Dropout = Annotated[float, Field(ge=0, lt=1, description="Dropout in the adapter, a share from 0 to below 1.")]
Targets = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100)]],
    Field(
        min_length=1,
        max_length=50,
        description="Linear layers that get an adapter, by module name.",
        examples=[["q_proj", "v_proj"]],
    ),
]
Epochs = Annotated[float, Field(gt=0, le=100, description="Passes over the training rows.", examples=[3])]
MaxSteps = Annotated[int, Field(ge=1, le=MAX_STEPS, description="Upper bound on optimizer steps; ends the run early.")]
LearningRate = Annotated[float, Field(gt=0, le=1, description="Peak learning rate.", examples=[2e-4])]
WarmupSteps = Annotated[int, Field(ge=0, le=100_000, description="Optimizer steps of linear warm-up.")]
BatchSize = Annotated[int, Field(ge=1, le=1024, description="Rows in one forward pass (with packing: sequences).")]
Accumulation = Annotated[int, Field(ge=1, le=4096, description="Forward passes in one optimizer step.")]
Processes = Annotated[
    int, Field(ge=1, le=MAX_PROCESSES, description="Training processes: one GPU each; on a CPU they share its cores.")
]
MaxLength = Annotated[
    int, Field(ge=16, le=1_048_576, description="Longest row in tokens; longer ones are cut and counted.")
]
Packing = Annotated[bool, Field(description="Join several rows into one sequence of max_length tokens.")]
WeightDecay = Annotated[float, Field(ge=0, le=1, description="AdamW weight decay.")]
MaxGradNorm = Annotated[float, Field(ge=0, le=1000, description="Gradient clipping norm; 0 turns clipping off.")]
EvalFraction = Annotated[
    float, Field(gt=0, le=0.5, description="Share of rows held out, when the dataset is not split.")
]
EvalSteps = Annotated[int, Field(ge=1, le=MAX_STEPS, description="Optimizer steps between evaluations.")]
Patience = Annotated[int, Field(ge=1, le=1000, description="Evaluations without improvement before stopping early.")]
SaveSteps = Annotated[int, Field(ge=1, le=MAX_STEPS, description="Optimizer steps between checkpoints.")]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, description="Seed of the split, the row order and the adapter.")]
Budget = Annotated[
    float, Field(gt=0, le=4096, description="Memory the run may use, in GiB (GPU memory, or RAM without a GPU).")
]


ADAPTER_FIELDS = ("rank", "alpha", "dropout", "target_modules")


class AdapterShape(NamedTuple):
    """The part of a recipe that describes a LoRA adapter."""

    rank: int
    alpha: int
    dropout: float
    target_modules: list[str]


class RecipeOptions(BaseModel):
    """What the caller wants; whatever is left out, the planner decides and says why."""

    model_config = _STRICT

    method: Method | None = Field(default=None, description="qlora (4-bit weights), lora (16-bit weights) or full.")
    engine: Literal["auto", "unsloth", "transformers"] | None = Field(default=None, description="Training engine.")
    prompt_format: PromptFormatName | None = Field(default=None, description="chat: the model's own template; alpaca.")
    rank: Rank | None = None
    alpha: Alpha | None = None
    dropout: Dropout | None = None
    target_modules: Targets | None = None
    epochs: Epochs | None = None
    max_steps: MaxSteps | None = None
    learning_rate: LearningRate | None = None
    scheduler: Scheduler | None = Field(default=None, description="Learning rate schedule after the warm-up.")
    warmup_steps: WarmupSteps | None = None
    batch_size: BatchSize | None = None
    gradient_accumulation: Accumulation | None = None
    processes: Processes | None = None
    max_length: MaxLength | None = None
    packing: Packing | None = None
    gradient_checkpointing: Literal["auto", "on", "off"] | None = Field(
        default=None, description="Recompute activations to save memory, at about a third more time."
    )
    optimizer: Optimizer | None = Field(default=None, description="adamw_8bit and paged_adamw_8bit need CUDA.")
    weight_decay: WeightDecay | None = None
    max_grad_norm: MaxGradNorm | None = None
    eval_fraction: EvalFraction | None = None
    eval_steps: EvalSteps | None = None
    early_stopping_patience: Patience | None = None
    save_steps: SaveSteps | None = None
    seed: Seed | None = None
    memory_budget_gib: Budget | None = None
    on_out_of_memory: OnOutOfMemory | None = Field(default=None, description="recover: continue with less; fail: stop.")

    def given(self) -> dict[str, Any]:
        """The fields the caller set, by name."""
        return self.model_dump(exclude_none=True)


class Recipe(BaseModel):
    """A resolved recipe: nothing is left open. Units as in `RecipeOptions`."""

    model_config = _STRICT

    method: Method = Field(
        description="qlora (4-bit weights), lora (16-bit weights, 32-bit on slow CPUs) or full (every weight, 32-bit)."
    )
    engine: Engine = Field(description="Training engine.")
    prompt_format: PromptFormatName = Field(description="chat: the model's own template; alpaca.")
    rank: Rank | None = Field(description="LoRA rank; null for method full, which has no adapter.")
    alpha: Alpha | None = Field(description="LoRA alpha; the update is scaled by alpha / rank; null for method full.")
    dropout: Dropout | None = Field(description="Dropout in the adapter, 0 to below 1; null for method full.")
    target_modules: Targets | None = Field(description="Linear layers that get an adapter; null for method full.")
    epochs: Epochs
    max_steps: MaxSteps | None = Field(description="Upper bound on optimizer steps; null: the epochs decide.")
    learning_rate: LearningRate
    scheduler: Scheduler = Field(description="Learning rate schedule after the warm-up.")
    warmup_steps: WarmupSteps
    batch_size: BatchSize
    gradient_accumulation: Accumulation
    processes: Processes = 1  # recipes of earlier versions have none
    max_length: MaxLength
    packing: Packing
    gradient_checkpointing: Literal["on", "off"] = Field(description="Whether activations are recomputed.")
    optimizer: Optimizer = Field(description="Optimizer.")
    weight_decay: WeightDecay
    max_grad_norm: MaxGradNorm
    eval_fraction: EvalFraction
    eval_steps: EvalSteps
    early_stopping_patience: Patience | None = Field(
        description="Evaluations without improvement; null: never stop early."
    )
    save_steps: SaveSteps
    seed: Seed
    memory_budget_gib: Budget | None = Field(description="Memory the run may use, GiB; null: what is free.")
    on_out_of_memory: OnOutOfMemory = Field(description="recover: continue with less; fail: stop.")

    @model_validator(mode="after")
    def _adapter_belongs_to_its_method(self) -> Recipe:
        absent = [name for name in ADAPTER_FIELDS if getattr(self, name) is None]
        if absent != (list(ADAPTER_FIELDS) if self.method == "full" else []):
            raise ValueError("rank, alpha, dropout and target_modules are null for method full, and only for it")
        return self

    @property
    def adapter(self) -> AdapterShape | None:
        """What the adapter is like; None where every weight is trained."""
        if self.rank is None or self.alpha is None or self.dropout is None or self.target_modules is None:
            return None
        return AdapterShape(self.rank, self.alpha, self.dropout, self.target_modules)

    @property
    def effective_batch(self) -> int:
        """Rows (with packing: sequences) in one optimizer step, those of all processes together."""
        return self.batch_size * self.gradient_accumulation * self.processes


def parse_options(values: dict[str, Any]) -> RecipeOptions:
    """Options from plain JSON, every problem reported at once.

    Raises:
        InvalidArgument: unknown fields (with the nearest valid name), wrong types, values out of range, contradictions.
    """
    try:
        options = RecipeOptions.model_validate(values)
    except ValidationError as error:
        problems = [_problem(dict(detail)) for detail in error.errors()]
        wrong = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
        rest = RecipeOptions.model_validate({name: value for name, value in values.items() if name not in wrong})
        raise _invalid(problems + _contradictions(rest)) from error
    check_contradictions(options)
    return options


def check_contradictions(options: RecipeOptions) -> None:
    """Refuse options that cannot be true together, all of them at once.

    Raises:
        InvalidArgument: naming each pair.
    """
    if problems := _contradictions(options):
        raise _invalid(problems)


def _contradictions(options: RecipeOptions) -> list[str]:
    problems = []
    if options.method == "full":
        adapter_only = [name for name in ADAPTER_FIELDS if getattr(options, name) is not None]
        if adapter_only:
            problems.append(f"method='full' trains no adapter, so {', '.join(adapter_only)} cannot apply")
    if options.target_modules is not None and len(set(options.target_modules)) != len(options.target_modules):
        problems.append("target_modules names a module twice")
    if options.max_steps is not None:
        for name in ("warmup_steps", "eval_steps", "save_steps"):
            value = getattr(options, name)
            # Equal is fine for eval and save (once, at the end); a warm-up as long as the run never reaches its peak.
            if value is not None and (
                value > options.max_steps or (name == "warmup_steps" and value >= options.max_steps)
            ):
                problems.append(f"{name}={value} does not fit in max_steps={options.max_steps}")
    if options.scheduler == "constant" and options.warmup_steps:
        problems.append("scheduler='constant' has no warm-up, so warmup_steps cannot apply; use constant_with_warmup")
    return problems


def _invalid(problems: list[str]) -> InvalidArgument:
    return InvalidArgument(
        "The recipe cannot be used: " + "; ".join(problems) + ".",
        next="Correct " + ("it" if len(problems) == 1 else f"all {len(problems)}") + " and call again.",
    )


def _problem(detail: dict[str, Any]) -> str:
    import difflib

    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(detail["loc"][-1]), RecipeOptions.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; the fields are {', '.join(RecipeOptions.model_fields)}"
        return f"{where} is not a recipe field{hint}"
    shown = repr(detail.get("input"))
    return f"{where}={shown[:60]}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
