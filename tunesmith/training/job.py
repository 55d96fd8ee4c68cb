"""What is to be trained on what, read once: the rows, their tokens, the base model's shape, the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.data.store import DatasetStore
from tunesmith.errors import InvalidArgument, MissingExtra, NotSupported, ServiceFailed, Unreachable, UserError
from tunesmith.models.bases import base_config, prompt_format_for, tokenizer_for, weights_are_here
from tunesmith.models.catalogue import KnownBase, find, suggest
from tunesmith.training import choices as pick
from tunesmith.training import memory
from tunesmith.training.base_choice import choose_base, licence_note
from tunesmith.training.examples import Example, SplitRows, split_rows, tokenise
from tunesmith.training.hardware import AS_ASKED, Hardware, joins_rows
from tunesmith.training.objectives import check_preference, objective_of
from tunesmith.training.recipe import RecipeOptions
from tunesmith.training.records import Objective, PlannedBase
from tunesmith.training.sampling import WHOLE_UP_TO, sample_rows, stand_for_all
from tunesmith.training.token_estimate import estimated
from tunesmith.workspace import Workspace

AUTO = "auto"
DOWNLOAD_NEXT = "start_training fetches them when you name it"


@dataclass(frozen=True)
class Job:
    """What is to be trained on what, read once.

    Attributes:
        known: the base's entry in the catalogue; None when it is not there.
        languages: rows by language code.
        counted: False when the tokenizer could not be had: lengths are estimates, and `note` says why.
        joins: the transformers engine packs rows of this base without a mask.
    """

    base_model: str
    base_reason: str
    base: PlannedBase
    shape: memory.Shape
    hardware: Hardware
    split: SplitRows
    train: list[Example]
    eval: list[Example]
    known: KnownBase | None = None
    languages: Mapping[str, int] | None = None
    counted: bool = True
    note: str = ""
    objective: Objective = "sft"
    joins: bool = False

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training row, uncut."""
        return [example.tokens_before_cut for example in self.train]


def read_job(
    workspace: Workspace,
    *,
    dataset_id: str,
    base_model: str,
    options: RecipeOptions,
    hardware: Hardware,
    estimate: bool = False,
) -> Job:
    """The rows, the config and the tokens of a job.

    Args:
        estimate: where the tokenizer of a known base cannot be had, estimate the tokens instead of raising.

    Raises: as `planning.plan`.
    """
    store = DatasetStore(workspace)
    dataset = store.get(dataset_id)
    reason, named = AS_ASKED, base_model.strip().lower() != AUTO
    if named:
        _refuse_odd_name(base_model)
    else:
        base_model, reason = choose_base(
            dataset.languages, hardware, lambda name: weights_are_here(workspace, name), options.method
        )
    known = find(base_model)
    config = base_config(workspace, base_model)
    if "vision_config" in config or (known is not None and known.sees):
        raise NotSupported(
            f"{base_model} also sees pictures, and models of that kind cannot be trained here yet.",
            next="Choose a text model: list_models has those that are known, with what fits this machine.",
        )
    if options.method == "full" and config.get("quantization_config"):
        raise NotSupported(
            f"The weights of {base_model} are quantised; method='full' trains 16- or 32-bit ones.",
            next="Name the model it was quantised from, or use method='lora'.",
        )
    shape = memory.Shape.from_config(config)
    base = _describe(workspace, base_model, known, shape, named=named)
    eval_fraction = options.eval_fraction or pick.DEFAULTS["eval_fraction"][0]
    seed = options.seed if options.seed is not None else pick.DEFAULTS["seed"][0]
    sampled = None
    if dataset.rows > WHOLE_UP_TO:
        sampled = sample_rows(store, dataset, eval_fraction=eval_fraction, seed=seed)
        split = sampled.split
    else:
        split = split_rows(store.rows(dataset_id), eval_fraction=eval_fraction, seed=seed)
    objective = objective_of([*split.train, *split.eval])
    if objective == "dpo":
        check_preference(options)
    counted, note = True, ""
    try:
        train, held_out = _tokenised(workspace, base_model, options, split)
    except (Unreachable, ServiceFailed, MissingExtra) as error:
        if not estimate or known is None:
            raise
        train, held_out = estimated(split.train, known), estimated(split.eval, known)
        counted, note = False, _estimated_note(error)
    if sampled is not None:
        train = stand_for_all(train, sampled.longest_train, sampled.train)
        held_out = stand_for_all(held_out, sampled.longest_eval, sampled.eval)
        note = f"{note} {sampled.note}".strip()
    return Job(
        base_model=base_model,
        base_reason=reason + _weights_note(base_model, base, known),
        shape=shape,
        hardware=hardware,
        split=split,
        train=train,
        eval=held_out,
        base=base,
        known=known,
        languages=dataset.languages,
        counted=counted,
        note=note,
        objective=objective,
        joins=objective == "sft" and joins_rows(config, hardware),  # answers are compared row by row
    )


def _refuse_odd_name(base_model: str) -> None:
    """Name the base that is meant, where the name has no form that a base can have.

    Raises:
        InvalidArgument: as said.
    """
    name = base_model.removeprefix("ollama:")
    if base_model == "embedded" or name.startswith((".", "~", "run_", "mdl_", "openai:")) or "/" in name:
        return
    meant = suggest(name)
    if meant is not None:
        raise InvalidArgument(f"{base_model[:80]!r} is not the name of a base model.", next=f'Did you mean "{meant}"?')


def _tokenised(
    workspace: Workspace, base_model: str, options: RecipeOptions, split: SplitRows
) -> tuple[list[Example], list[Example]]:
    prompt_format = prompt_format_for(workspace, base_model, options.prompt_format or "chat")
    tokenizer = tokenizer_for(workspace, base_model)
    return tokenise(split.train, prompt_format, tokenizer), tokenise(split.eval, prompt_format, tokenizer)


def _describe(
    workspace: Workspace, base_model: str, known: KnownBase | None, shape: memory.Shape, *, named: bool
) -> PlannedBase:
    here = weights_are_here(workspace, base_model)
    return PlannedBase(
        parameters_b=known.parameters_b if known else round(shape.parameters / 1e9, 3),
        licence=known.licence if known else None,
        languages=list(known.languages) if known else [],
        gated=known is not None and known.gated,
        here=here,
        download_gb=None if here else known.download_gb if known else round(shape.parameters * 2e-9, 1),
        named=named,
    )


def _weights_note(base_model: str, base: PlannedBase, known: KnownBase | None) -> str:
    """Whether its weights must be fetched, and what its makers ask."""
    if base.here:
        return licence_note(known) if known and not known.gated else ""
    fetched = "start_training fetches them." if base.named else f'{DOWNLOAD_NEXT}: base_model="{base_model}".'
    return f" Its weights ({base.download_gb:g} GB) are not on this machine: {fetched}{licence_note(known)}"


def _estimated_note(error: UserError) -> str:
    return f"Token counts are estimated from characters: {error.message} A run needs the tokenizer. {error.next}"
