"""Keeping what was learned: the adapter in a model's folder, the model in the store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tunesmith.data.store import DatasetStore
from tunesmith.files import atomic_folder
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.training.recipe import Recipe
from tunesmith.training.records import TrainResult
from tunesmith.work import Work
from tunesmith.workspace import new_id

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def keep_model(
    work: Work, model: Any, *, base: Path, prompt_format: PromptFormat, recipe: Recipe, result: TrainResult
) -> str:
    """Save the adapter, then show the model: a crash in between leaves a folder nobody sees.

    Args:
        model: the PEFT model.
        base: folder of the base model; its tokenizer files are copied as they are.
        result: the figures; its model_id is not known yet.

    Returns:
        The new model's id.
    """
    base_model, dataset_id = work.args["base_model"], work.args["dataset_id"]
    model_id = new_id("mdl")
    folder = work.workspace.models / model_id
    try:
        with atomic_folder(folder / "adapter") as temporary:
            save_adapter(model, temporary, base_model)
            for name in TOKENIZER_FILES:
                if (base / name).is_file():
                    shutil.copyfile(base / name, temporary / name)
        store = ModelStore(work.workspace)
        figures = result.model_dump(mode="json", exclude={"model_id", "duration_s"})
        store.new(
            name=DatasetStore(work.workspace).get(dataset_id).name,
            base_model=base_model,
            method=recipe.method,
            prompt_format=prompt_format.as_record(),
            recipe=recipe.model_dump(mode="json"),
            run_id=work.run_id,
            dataset_id=dataset_id,
            training=figures,
            model_id=model_id,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    store.update(model_id, add_files=[describe_file(folder, folder / "adapter", "adapter")])
    return model_id


def save_adapter(model: Any, folder: Path, base_model: str) -> None:
    """Write the adapter's weights and config, naming its base as callers do, not by a path of this machine."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_model
    # Embeddings are never trained here; without this PEFT would ask the Hub whether they were resized.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card is a form with nothing filled in
