"""A tokenizer beside trained weights, set up so that every runtime renders and stops as in training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tunesmith.errors import BadInput
from tunesmith.models.prompt_format import PromptFormat

# Whatever a tokenizer may consist of. The chat template is not copied: the prompt format brings it.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
)  # fmt: skip


def copy_tokenizer(sources: Sequence[Path], output: Path, prompt_format: PromptFormat) -> None:
    """Copy a tokenizer, with the trained prompt format as its chat template and its end token as EOS.

    Args:
        sources: the first folder that holds a tokenizer is used.

    Raises:
        BadInput: none holds one.
    """
    for source in sources:
        found = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
        if any(path.name in ("tokenizer.json", "tokenizer.model") for path in found):
            break
    else:
        raise BadInput(
            f"There is no tokenizer beside the adapter or its base ({', '.join(map(str, sources))}).",
            next="Train again; a finished training run leaves tokenizer.json in the adapter's folder.",
        )
    for path in found:
        shutil.copyfile(path, output / path.name)
    (output / "chat_template.jinja").write_text(_self_contained(prompt_format), encoding="utf-8")
    settings_path = output / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text(encoding="utf-8")) if settings_path.is_file() else {}
    # A template in here would win over the file in the converter, and lose to it in transformers.
    settings.pop("chat_template", None)
    # A template that prints eos_token must find there what it found in training.
    settings["eos_token"] = prompt_format.template_eos if _prints(prompt_format, "eos_token") else prompt_format.eos
    settings_path.write_text(json.dumps(settings, ensure_ascii=False, indent=2), encoding="utf-8")
    _set_end_token(output, prompt_format.eos)


def _self_contained(prompt_format: PromptFormat) -> str:
    """The template; where it was used without a first token, also for runtimes whose tokenizer has one."""
    if prompt_format.bos is None and _prints(prompt_format, "bos_token"):
        return "{% set bos_token = '' %}" + prompt_format.template
    return prompt_format.template


def _prints(prompt_format: PromptFormat, variable: str) -> bool:
    return variable in prompt_format.template


def _set_end_token(output: Path, eos: str) -> None:
    """The id of the token that ends an answer, wherever a runtime looks for it."""
    import tokenizers

    if not (output / "tokenizer.json").is_file():
        return
    token_id = tokenizers.Tokenizer.from_file(str(output / "tokenizer.json")).token_to_id(eos)
    if token_id is None:
        raise BadInput(
            f"The tokenizer has no token {eos!r}, with which the prompt format ends an answer.",
            next="Train with a prompt format that belongs to this base model.",
        )
    for name in ("config.json", "generation_config.json"):
        path = output / name
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            record["eos_token_id"] = token_id
            path.write_text(json.dumps(record, ensure_ascii=False, indent=2), encoding="utf-8")
