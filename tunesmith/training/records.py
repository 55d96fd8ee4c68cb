"""What planning, training and diagnosing return."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from tunesmith.records import Record
from tunesmith.training.recipe import Recipe

Objective = Literal["sft", "dpo"]


class AssumedGpu(Record):
    """A GPU to plan for that this machine does not have."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    name: str | None = Field(default=None, max_length=100, description="For the reader.", examples=["RTX 4060"])
    total_gib: float = Field(gt=0, le=4096, description="Memory of the card, GiB.", examples=[8])
    compute_capability: str | None = Field(
        default=None,
        pattern=r"^\d{1,2}\.\d$",
        description="CUDA compute capability; 8.0 and above has bfloat16.",
        examples=["8.9"],
    )


class PlannedRows(Record):
    """Rows the run will see."""

    train: int = Field(description="Rows trained on.")
    eval: int = Field(description="Rows held out.")
    cut: int = Field(description="Rows longer than max_length, cut at their end.")


class PlannedTokens(Record):
    """Tokens that pass through the model in the whole run, evaluations aside."""

    total: int = Field(description="With padding.")
    real: int = Field(description="Without padding.")
    padding_share: float = Field(description="Share of `total` that is padding, 0 to 1.")
    estimated: bool = Field(
        default=False, description="True when the tokenizer could not be had and characters were counted instead."
    )


class MemoryBreakdown(Record):
    """Where the predicted peak goes, GiB each."""

    weights: float = Field(description="Base model, GiB.")
    adapter: float = Field(description="LoRA matrices, GiB.")
    optimizer: float = Field(description="Optimizer state, GiB.")
    gradients: float = Field(description="Gradients of what is trained, GiB.")
    activations: float = Field(description="What is kept from the forward for the backward pass, GiB.")
    logits: float = Field(description="Scores over the vocabulary and their gradients, GiB.")
    overhead: float = Field(description="Process, libraries, workspaces and allocator slack, GiB.")


class PlannedMemory(Record):
    """Predicted peak memory: GPU memory on CUDA, RAM of the process on a CPU."""

    predicted_peak_gib: float = Field(description="Best estimate, GiB.")
    low_gib: float = Field(description="Lower end of the interval, GiB.")
    high_gib: float = Field(description="Upper end of the interval, GiB.")
    budget_gib: float | None = Field(description="What the run may use, GiB; null when it is not known.")
    fits: bool = Field(description="Whether the best estimate is within the budget.")
    breakdown: MemoryBreakdown
    calibration: str = Field(description="What the interval rests on.")


class PlannedDisk(Record):
    """Room on the workspace's disk for checkpoints and model."""

    needed_gib: float = Field(description="At the fullest, GiB.")
    free_gib: float = Field(description="Free now, GiB.")
    fits: bool = Field(description="Whether there is room.")


class Alternative(Record):
    """Something else that could be done."""

    change: str = Field(description="What to change.")
    predicted_peak_gib: float | None = Field(description="Peak memory then, GiB; null when it does not change.")
    cost: str = Field(description="What it costs or gains.")
    fits: bool = Field(description="Whether that is within the budget.")
    recipe: dict[str, Any] = Field(description="What to give as `recipe`, beside what you gave already.")
    base_model: str | None = Field(default=None, description="Another base; null: the same.")


class PlannedBase(Record):
    """What is known of the base model."""

    parameters_b: float = Field(description="Weights, billions.")
    licence: str | None = Field(description="Its licence; null when the catalogue does not know the model.")
    languages: list[str] = Field(description="Languages it was trained for, as codes; empty when not known.")
    gated: bool = Field(description="True when its makers must grant access on the Hub before it can be fetched.")
    here: bool = Field(description="Whether its weights are on this machine.")
    download_gb: float | None = Field(description="What fetching them costs, GB; null when they are here.")
    named: bool = Field(description="True when you named it; weights are only fetched for a base that was named.")


class Plan(Record):
    """How a training would go. Nothing was started and no weights were read."""

    dataset_id: str = Field(description="The dataset.")
    base_model: str = Field(description="The base model, 'auto' resolved.")
    base: PlannedBase
    objective: Objective = Field(
        default="sft", description="sft: to give the answers; dpo: to prefer the chosen answers to the rejected ones."
    )
    recipe: Recipe = Field(description="Every hyperparameter, resolved.")
    reasons: dict[str, str] = Field(description="Why each value was chosen, by field.")
    engine: str = Field(description="unsloth or transformers.")
    device: Literal["cuda", "cpu"] = Field(description="Where it would train.")
    rows: PlannedRows
    steps: int = Field(description="Optimizer steps.")
    tokens: PlannedTokens
    memory: PlannedMemory
    disk: PlannedDisk
    eta_s: float | None = Field(
        description="Seconds from start to end, from measured runs; null when nothing was measured yet."
    )
    eta_low_s: float | None = Field(default=None, description="Lower end of its interval, seconds.")
    eta_high_s: float | None = Field(default=None, description="Upper end of its interval, seconds.")
    alternatives: list[Alternative] = Field(description="Other ways, with their memory and cost.")
    warnings: list[str] = Field(description="What you should know before starting.")
    assumed_gpu: bool = Field(description="True when planned for a GPU that this machine does not have.")


class EvalLoss(Record):
    """Mean loss on the held-out rows: nats per trained token; with objective dpo that of a pair, ln 2 before."""

    before: float = Field(description="Before the first step.")
    after: float = Field(description="Of the model that was kept.")
    best: float = Field(description="The lowest seen.")


class Rewards(Record):
    """What preference training did, on the held-out pairs."""

    accuracy: float = Field(description="Share of pairs whose chosen answer gained more than the rejected one, 0 to 1.")
    margin: float = Field(description="By how much more, in nats of a whole answer times beta.")


class Perplexity(Record):
    """exp(loss) on the held-out rows."""

    before: float = Field(description="Before the first step.")
    after: float = Field(description="Of the model that was kept.")


class Recovery(Record):
    """One step down after memory ran out."""

    step: int = Field(description="Optimizer steps that were complete when memory ran out.")
    resumed_from: int = Field(description="Optimizer step of the checkpoint it went on from; 0: from the start.")
    change: str = Field(description="What was changed.")


class ResumedFrom(Record):
    """Where a run went on from."""

    run_id: str = Field(description="The run whose checkpoint it was.")
    step: int = Field(description="Optimizer steps that were done by then.")


class Advice(Record):
    """One change to make."""

    change: str = Field(description="What to change.")
    why: str = Field(description="Why that helps.")


SymptomCode = Literal[
    "not_learning",
    "oscillating",
    "diverged",
    "overfitting",
    "memorising",
    "plateau",
    "out_of_memory",
    "data_suspect",
    "healthy",
]


class Symptom(Record):
    """Something the numbers show."""

    code: SymptomCode = Field(description="Its name.")
    evidence: str = Field(description="The numbers that show it.")
    advice: list[Advice] = Field(description="What to do about it; one change at a time.")


class Diagnosis(Record):
    """What the numbers of a run say."""

    health: Literal["healthy", "attention", "unhealthy", "unknown"] = Field(description="Overall.")
    summary: str = Field(description="The most telling numbers, in one sentence.")
    symptoms: list[Symptom] = Field(description="Most serious first.")
    suggested_recipe: dict[str, Any] = Field(
        description="This run's recipe with exactly one change, for start_training; empty: change nothing."
    )


class TrainResult(Record):
    """What a training run leaves."""

    model_id: str = Field(description="The model it made.")
    steps: int = Field(description="Optimizer steps done, with those of the runs it continues.")
    train_loss: float = Field(description="Mean training loss over the last tenth of the steps; unit as eval_loss.")
    eval_loss: EvalLoss
    perplexity: Perplexity | None = Field(description="exp(loss) on the held-out rows; null with objective dpo.")
    objective: Objective = Field(default="sft", description="sft: to give answers; dpo: to prefer the chosen ones.")
    rewards: Rewards | None = Field(default=None, description="Of the model that was kept; null but for dpo.")
    peak_gpu_gib: float | None = Field(description="Peak reserved GPU memory, GiB; null without a GPU.")
    peak_ram_gib: float = Field(description="Peak resident memory of the training process, GiB.")
    predicted_peak_gib: float | None = Field(description="What the plan predicted, GiB; null when there was no plan.")
    tokens_per_s: float = Field(
        description="Real tokens (no padding) trained on per second of training, evaluations aside; of this run alone."
    )
    duration_s: float = Field(description="Seconds from the worker's start to its end; of this run alone.")
    recoveries: list[Recovery] = Field(description="Steps down after memory ran out.")
    diagnosis: Diagnosis
    rows: PlannedRows
    eval_rows_measured: int = Field(description="Held-out rows the losses are measured on.")
    best_step: int = Field(description="Optimizer step of the model that was kept.")
    stopped_early: bool = Field(description="Whether early stopping ended the run.")
    engine: str = Field(description="The engine that trained.")
    engine_fallback: str | None = Field(description="Why the planned engine was not used; null when it was.")
    device: str = Field(description="cuda or cpu.")
    dtype: str = Field(description="Number format of the computation.")
    resumed_from: ResumedFrom | None = Field(default=None, description="Null when it began at the beginning.")
    checkpoints_set_aside: list[str] = Field(
        default_factory=list, description="Damaged checkpoints of the run it continues, and what was wrong with them."
    )
