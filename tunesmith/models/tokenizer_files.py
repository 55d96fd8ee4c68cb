"""A tokenizer beside trained weights, set up so that every runtime renders and stops as in training."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import BadInput, NotSupported
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.sentencepiece_model import MODEL_FILE, tokenizer_from_model

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Whatever a tokenizer may consist of. The chat template is not copied: the prompt format brings it.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
)  # fmt: skip

_PHI3 = re.compile(r"(phi)-?3", re.IGNORECASE)


def has_tokenizer(folder: Path) -> bool:
    """Whether `read_tokenizer` would find one."""
    return (folder / "tokenizer.json").is_file() or (folder / MODEL_FILE).is_file()


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder: its tokenizer.json, else one made from its tokenizer.model.

    Raises:
        BadInput: a file that is no tokenizer.
        NotSupported: there is neither, or one that cannot be rebuilt.
        MissingExtra: a library is missing.
    """
    path = folder / "tokenizer.json"
    if not path.is_file() and (folder / MODEL_FILE).is_file():
        return tokenizer_from_model(folder)
    if not path.is_file():
        raise NotSupported(
            f"{folder} has no tokenizer.json and no {MODEL_FILE}.",
            next="Load its tokenizer once with transformers and save it into the folder, or choose another base.",
        )
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for every malformed file
        raise BadInput(f"{path} is not a tokenizer: {error}.", next="Fetch the model again.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def complete_tokenizer(folder: Path) -> None:
    """Write the tokenizer.json that a folder lacks, if it has a tokenizer.model.

    Raises: as `read_tokenizer`.
    """
    if not (folder / "tokenizer.json").is_file() and (folder / MODEL_FILE).is_file():
        read_tokenizer(folder).save(str(folder / "tokenizer.json"))


def copy_tokenizer(sources: Sequence[Path], output: Path, prompt_format: PromptFormat) -> None:
    """Copy a tokenizer, with the trained prompt format as its chat template and its end token as EOS.

    Args:
        sources: the first folder that holds a tokenizer is used.

    Raises:
        BadInput: none holds one.
    """
    for source in sources:
        if has_tokenizer(source):
            break
    else:
        raise BadInput(
            f"There is no tokenizer beside the adapter or its base ({', '.join(map(str, sources))}).",
            next="Train again; a finished training run leaves tokenizer.json in the adapter's folder.",
        )
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)
    complete_tokenizer(output)
    (output / "chat_template.jinja").write_text(_self_contained(prompt_format), encoding="utf-8")
    settings_path = output / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text(encoding="utf-8")) if settings_path.is_file() else {}
    # A template in here would win over the file in the converter, and lose to it in transformers.
    settings.pop("chat_template", None)
    # A template that prints eos_token must find there what it found in training.
    settings["eos_token"] = prompt_format.template_eos if _prints(prompt_format, "eos_token") else prompt_format.eos
    tokenizer = json.loads((output / "tokenizer.json").read_text(encoding="utf-8"))
    if (output / MODEL_FILE).is_file():
        # Of these the converter reads only the pieces; which of them are special it looks up here.
        settings.setdefault("added_tokens_decoder", _added_tokens(tokenizer))
    if _blank_only_before_text(tokenizer):
        # The converter's own reading, a blank before each stretch, is another: every prompt begins with a token.
        settings["add_prefix_space"] = False
    settings_path.write_text(json.dumps(settings, ensure_ascii=False, indent=2), encoding="utf-8")
    _set_end_token(output, prompt_format.eos)


def _self_contained(prompt_format: PromptFormat) -> str:
    """The template; where it was used without a first token, also for runtimes whose tokenizer has one."""
    if prompt_format.bos is None and _prints(prompt_format, "bos_token"):
        return "{% set bos_token = '' %}" + prompt_format.template
    return prompt_format.template


def runtime_name(name: str, tokenizer_file: Path) -> str:
    """A model's name inside its GGUF, by which llama.cpp tells whether special tokens swallow the blanks after them.

    It does so for Phi-3, and for whatever has that in its name.
    """
    swallows = tokenizer_file.is_file() and any(
        token.get("rstrip") and token.get("content") == "<|assistant|>"
        for token in json.loads(tokenizer_file.read_text(encoding="utf-8")).get("added_tokens", [])
    )
    if swallows:
        return name if _PHI3.search(name) else f"{name} (Phi-3)"
    return _PHI3.sub(r"\1 3", name)


def _added_tokens(tokenizer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Tokens that are found in a text before it is split, as tokenizer_config.json lists them."""
    return {
        str(token["id"]): {name: value for name, value in token.items() if name != "id"}
        for token in tokenizer.get("added_tokens", [])
    }


def _blank_only_before_text(tokenizer: dict[str, Any]) -> bool:
    """Whether a blank is put before a text that begins with one, and not after every special token as well."""
    steps = tokenizer.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers", []) if steps.get("type") == "Sequence" else [steps]
    return any(part.get("type") == "Metaspace" and part.get("prepend_scheme") == "first" for part in parts)


def _prints(prompt_format: PromptFormat, variable: str) -> bool:
    return variable in prompt_format.template


def _set_end_token(output: Path, eos: str) -> None:
    """The id of the token that ends an answer, wherever a runtime looks for it."""
    token_id = read_tokenizer(output).token_to_id(eos)
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
