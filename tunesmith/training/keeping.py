"""Keeping what was learned: the adapter, or every weight, in a model's folder, and the model in the store."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from tunesmith.data.lineage import lineage
from tunesmith.data.store import DatasetStore
from tunesmith.errors import DiskFull
from tunesmith.files import atomic_folder
from tunesmith.models.card import write_card
from tunesmith.models.licences import licence_of
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.models.tokenizer_files import complete_tokenizer, copy_tokenizer
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
ADAPTER, WEIGHTS = "adapter", "weights"  # folders within a model's; their kinds have the same names


def keep_model(
    work: Work, model: Any, *, base: Path, prompt_format: PromptFormat, recipe: Recipe, result: TrainResult
) -> str:
    """Save what was trained, then show the model: a crash in between leaves a folder nobody sees.

    Args:
        model: the PEFT model, or one whose every weight was trained; that one is left in another number format.
        base: folder of the base model. Its tokenizer files are copied: beside an adapter as they are, beside whole
            weights with the prompt format they were trained on, so that the folder is a model by itself.
        result: the figures; its model_id is not known yet.

    Returns:
        The new model's id.
    """
    base_model, dataset_id = work.args["base_model"], work.args["dataset_id"]
    model_id = new_id("mdl")
    folder = work.workspace.models / model_id
    try:
        kind = ADAPTER if recipe.adapter is not None else WEIGHTS
        with atomic_folder(folder / kind) as temporary:
            if kind == WEIGHTS:
                save_weights(model, temporary, result.dtype)
                copy_tokenizer((base,), temporary, prompt_format)
            else:
                save_adapter(model, temporary, base_model)
                for name in TOKENIZER_FILES:
                    if (base / name).is_file():
                        shutil.copyfile(base / name, temporary / name)
                complete_tokenizer(temporary)
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
            lineage=lineage(work.workspace, dataset_id),
            base_licence=licence_of(work.workspace, base_model),
            model_id=model_id,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    record = store.update(model_id, add_files=[describe_file(folder, folder / kind, kind)])
    with contextlib.suppress(DiskFull):  # what was learned is there; its card is written again when it is exported
        write_card(work.workspace, record)
    return model_id


def save_adapter(model: Any, folder: Path, base_model: str) -> None:
    """Write the adapter's weights and config, naming its base as callers do, not by a path of this machine."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_model
    # Embeddings are never trained here; without this PEFT would ask the Hub whether they were resized.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card is a form with nothing filled in


def save_weights(model: Any, folder: Path, dtype: str) -> None:
    """Write a whole model as a folder that transformers loads.

    Args:
        dtype: the number format it was computed in: what is kept is what was measured, and no larger.
    """
    import torch

    model.to(getattr(torch, dtype))
    model.config.use_cache = True  # off while it is trained
    model.save_pretrained(str(folder), max_shard_size="4GB")


def load_trained(model: Any, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the model: an adapter's, or all of them."""
    if hasattr(model, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(checkpoint), device="cpu"))
        return
    from safetensors.torch import load_file

    lacking = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    for path in sorted(checkpoint.glob("model*.safetensors")):
        weights = load_file(path)
        model.load_state_dict(weights, strict=False)
        lacking = {name: place for name, place in lacking.items() if name not in weights}
        del weights
    # A matrix that serves twice, such as embedding and head, is stored once.
    there = {tensor.data_ptr() for name, tensor in model.state_dict().items() if name not in lacking}
    if lost := [name for name, place in lacking.items() if place not in there]:
        raise RuntimeError(f"{checkpoint} has no weights for {', '.join(lost[:3])}")
