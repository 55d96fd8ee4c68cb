"""What a run works on: the rows as tokens, the base model, the prompt format, and how many steps they make.

Everything that can be refused is refused here, before a library of several hundred MiB is loaded. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.store import DatasetStore
from tunesmith.models.bases import base_folder, prompt_format_for, tokenizer_for
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.training import continuing, facts
from tunesmith.training.batching import packed_sequences
from tunesmith.training.choices import count_steps
from tunesmith.training.continuing import Start
from tunesmith.training.examples import Example, refuse_untrained, split_rows, tokenise
from tunesmith.training.fact_records import Facts
from tunesmith.training.objectives import objective_of
from tunesmith.training.recipe import Recipe
from tunesmith.training.records import Objective, PlannedRows
from tunesmith.training.saved import fingerprint
from tunesmith.work import Work


@dataclass(frozen=True)
class Material:
    """Read once, at a run's beginning.

    Attributes:
        base_model: as the caller named it.
        base: its folder.
        base_fingerprint: as `saved.fingerprint` gives it.
        dataset_sha256: of the rows' file.
        languages: rows by language code.
        train, held_out: tokenised, cut and labelled.
        facts: what was counted of the rows, for the diagnosis.
        objective: to give answers, or to prefer the chosen ones.
        steps, steps_per_epoch: optimizer steps.
    """

    dataset_id: str
    dataset_sha256: str
    languages: dict[str, int]
    base_model: str
    base: Path
    base_fingerprint: str
    prompt_format: PromptFormat
    train: list[Example]
    held_out: list[Example]
    rows: PlannedRows
    facts: Facts
    objective: Objective
    steps: int
    steps_per_epoch: int


def read_material(work: Work, recipe: Recipe, start: Start | None) -> Material:
    """Read, render and tokenise.

    Args:
        start: where another run's training goes on; None: from the beginning.

    Raises:
        UserError: rows, base or prompt format cannot be used, or are not those the training began with.
    """
    base_model, dataset_id = work.args["base_model"], work.args["dataset_id"]
    work.progress("Reading the rows")
    store = DatasetStore(work.workspace)
    dataset = store.get(dataset_id)
    split = split_rows(store.rows(dataset_id), eval_fraction=recipe.eval_fraction, seed=recipe.seed)
    base = base_folder(work.workspace, base_model, download=bool(work.args.get("download")))
    base_fingerprint = fingerprint(base)
    if start is None:
        prompt_format = prompt_format_for(work.workspace, base_model, recipe.prompt_format)
    else:
        continuing.check_same_base(base_fingerprint, start.saved)
        # Not made anew: some templates print the date, and tomorrow's would be another text.
        prompt_format = PromptFormat.from_record(start.saved.prompt_format)
    tokenizer = tokenizer_for(work.workspace, base_model)
    objective = objective_of([*split.train, *split.eval])

    def tokens_of(rows: list[Any]) -> list[Example]:
        return tokenise(rows, prompt_format, tokenizer, max_length=recipe.max_length, on_batch=work.check_cancelled)

    train, held_out = tokens_of(split.train), tokens_of(split.eval)
    refuse_untrained([*train, *held_out], recipe.max_length)
    cut = [example for example in (*train, *held_out) if example.was_cut]
    counted = facts.measure(
        split.train,
        split.eval,
        train,
        vocabulary=tokenizer.get_vocab_size(),
        end_token=tokenizer.token_to_id(prompt_format.eos),
    ).model_copy(update={"objective": objective})
    if start is not None and (known := facts.read(work.workspace.runs / start.run_id)) is not None:
        counted = counted.model_copy(update={"control_before": known.control_before})
    facts.write(work.run_dir, counted)
    print(f"{len(train)} rows to train on, {len(held_out)} held out ({split.by}); {len(cut)} cut", flush=True)
    for example in cut[:20]:
        print(f"  cut: {example.row_id} from {example.tokens_before_cut} to {recipe.max_length} tokens", flush=True)
    sequences = len(train)
    if recipe.packing:
        sequences = packed_sequences([len(example.input_ids) for example in train], recipe.max_length)
    steps, steps_per_epoch = count_steps(recipe.model_dump(), sequences)
    return Material(
        dataset_id=dataset_id,
        dataset_sha256=dataset.sha256,
        languages=dataset.languages,
        base_model=base_model,
        base=base,
        base_fingerprint=base_fingerprint,
        prompt_format=prompt_format,
        train=train,
        held_out=held_out,
        rows=PlannedRows(train=len(train), eval=len(held_out), cut=len(cut)),
        facts=counted,
        objective=objective,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
    )
