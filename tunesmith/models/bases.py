"""Base models as files: the embedded one, a local folder, or one from the Hugging Face Hub.

Weights are only ever safetensors. Pickled ones can run code when they are loaded,
so a folder that has nothing else is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import BadInput, InvalidArgument, MissingExtra, NotFound, NotSupported, UserError
from tunesmith.models import catalogue, embedded, hub
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.references import FORMS, Reference, parse_reference
from tunesmith.models.sentencepiece_model import MODEL_FILE
from tunesmith.models.tokenizer_files import read_tokenizer
from tunesmith.workspace import Workspace

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
OLD_TEMPLATE_FILE = "chat_template.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def base_folder(workspace: Workspace, base_model: str, *, download: bool = False) -> Path:
    """The folder of a base model, with config.json, *.safetensors and its tokenizer.

    Args:
        base_model: embedded, a Hub id or a local folder.
        download: fetch a Hub model that is not in the local cache yet (gigabytes); default: only what is there.

    Raises:
        InvalidArgument, NotFound, PathRefused: no such base.
        NotSupported: a kind of model that cannot be trained, or one without safetensors.
        MissingExtra: the package of the embedded model, or a library, is missing.
        Unreachable: the Hub did not answer.
    """
    reference = _base_reference(workspace, base_model)
    if reference.kind == "embedded":
        return embedded.embedded_folder(workspace)
    folder = Path(reference.name) if reference.kind == "folder" else hub.snapshot(reference.name, download=download)
    _refuse_unusable(folder, base_model)
    return folder


def weights_are_here(workspace: Workspace, base_model: str) -> bool:
    """Whether a base could be trained without fetching anything.

    Raises: as `base_folder`, where there is no such base.
    """
    if _base_reference(workspace, base_model).kind != "hub":
        return True
    try:
        base_folder(workspace, base_model)
    except UserError:  # not in the cache, not whole, or no library to look with
        return False
    return True


def base_config(workspace: Workspace, base_model: str) -> dict[str, Any]:
    """A base model's config.json; its weights are neither read nor fetched.

    Of a Hub model: from the local cache, else from the catalogue, else fetched (a few kilobytes). Where a config
    describes several parts, as those of models that also see, it is the language model's.

    Raises: as `base_folder`; BadInput where the file is not a config.
    """
    reference = _base_reference(workspace, base_model)
    if reference.kind == "embedded":
        return embedded.embedded_config(workspace)
    if reference.kind == "hub":
        known = catalogue.find(reference.name)
        if known is not None and not hub.is_installed():
            return known.config()
        path = hub.file(reference.name, CONFIG_FILE, download=known is None, required=True)
        if path is None and known is not None:
            return known.config()
    else:
        path = Path(reference.name) / CONFIG_FILE
    if path is None or not path.is_file():
        raise _no_config(Path(reference.name), base_model)
    config = _read_json(path)
    return {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config


def tokenizer_for(workspace: Workspace, base_model: str) -> Tokenizer:
    """A base model's tokenizer, ready to encode. Needs neither torch nor transformers.

    Encode with `add_special_tokens=False`: what a `PromptFormat` renders holds its special tokens already.

    Raises: as `base_folder`; NotSupported where there is neither tokenizer.json nor a tokenizer.model of a known kind.
    """
    reference = _base_reference(workspace, base_model)
    try:
        import tokenizers  # noqa: F401 (used below; missing, it is said here)
    except ModuleNotFoundError as error:
        raise MissingExtra("tokenizers", extra="train", purpose="count tokens") from error
    if reference.kind == "embedded":
        return embedded.embedded_tokenizer(workspace)
    path = _find(reference, TOKENIZER_FILE, required=True)
    if path is None:
        path = _find(reference, MODEL_FILE, required=True)
        # Of a model on the Hub what belongs to it is fetched as well, into the same folder.
        for name in (TOKENIZER_CONFIG_FILE, "added_tokens.json"):
            _find(reference, name)
    if path is None:
        raise NotSupported(
            f"{base_model!r} has no tokenizer.json and no {MODEL_FILE}.",
            next="Load its tokenizer once with transformers and save it into the folder, or choose another base.",
        )
    return read_tokenizer(path.parent)


def prompt_format_for(workspace: Workspace, base_model: str, name: str = "chat") -> PromptFormat:
    """How messages become text for a base model.

    Args:
        name: chat (the model's own template) or alpaca.

    Raises:
        InvalidArgument: another name.
        NotSupported: chat is asked for and the model has no chat template, or one of an unknown family.
        As `base_folder` besides.
    """
    if name not in ("chat", "alpaca"):
        raise InvalidArgument(
            f"prompt_format is {name[:40]!r}; it can be 'chat' or 'alpaca'.", next="Use prompt_format='chat'."
        )
    reference = _base_reference(workspace, base_model)
    if reference.kind == "embedded":
        if name == "alpaca":
            return PromptFormat.alpaca(embedded.EOS)
        return PromptFormat.from_chat_template(
            embedded.embedded_template(workspace), bos=embedded.BOS, eos=embedded.EOS
        )
    config_path = _find(reference, TOKENIZER_CONFIG_FILE, required=True)
    settings = _read_json(config_path) if config_path else {}
    bos, eos = _token(settings.get("bos_token")), _token(settings.get("eos_token"))
    if name == "alpaca":
        return PromptFormat.alpaca(eos or "", bos=bos if _adds_bos(workspace, base_model, bos) else None)
    template = _chat_template(reference, settings)
    if template is None:
        raise NotSupported(
            f"{base_model!r} has no chat template: it is a base model, not one that was taught to answer.",
            next="Use its Instruct version, or prompt_format='alpaca'.",
        )
    return PromptFormat.from_chat_template(template, bos=bos, eos=eos)


def _base_reference(workspace: Workspace, base_model: str) -> Reference:
    reference = parse_reference(base_model, workspace)
    if reference.kind in ("embedded", "hub", "folder"):
        return reference
    advice = {
        "ollama": "Use the Hub id of the model that Ollama serves: its GGUF cannot be trained.",
        "openai": "Use embedded, a Hub id or a local folder: an endpoint keeps its weights to itself.",
    }
    raise NotSupported(
        f"{base_model!r} cannot be a base model.",
        next=advice.get(
            reference.kind,
            "Start from the base it was trained on, with resume_run to go on, or give its merged folder.",
        ),
    )


def _find(reference: Reference, name: str, *, required: bool = False) -> Path | None:
    """A small file of a base: in its folder, in the Hub's cache, or fetched. None if the model has none."""
    if reference.kind == "hub":
        return hub.file(reference.name, name, download=True, required=required)
    path = Path(reference.name) / name
    return path if path.is_file() else None


def _chat_template(reference: Reference, settings: dict[str, Any]) -> str | None:
    """The template in its own file, which newer models have, or in the tokenizer's settings."""
    template: Any = settings.get("chat_template")
    path = _find(reference, TEMPLATE_FILE)
    if path is not None:
        return path.read_text(encoding="utf-8")
    if template is None:
        path = _find(reference, OLD_TEMPLATE_FILE)
        template = _read_json(path).get("chat_template") if path else None
    if isinstance(template, list):  # several, by name
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) and template.strip() else None


def _token(value: Any) -> str | None:
    """A special token of tokenizer_config.json: text, or a mapping with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _adds_bos(workspace: Workspace, base_model: str, bos: str | None) -> bool:
    """Whether the model's tokenizer puts BOS before every text by itself."""
    return bos is not None and bos in tokenizer_for(workspace, base_model).encode("a").tokens[:1]


def _refuse_unusable(folder: Path, base_model: str) -> None:
    if not (folder / CONFIG_FILE).is_file():
        raise _no_config(folder, base_model)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        wanted = set(_read_json(index).get("weight_map", {}).values())
        missing = sorted(name for name in wanted if not (folder / str(name)).is_file())
        if missing:
            raise NotFound(
                f"{len(missing)} of {len(wanted)} weight files of {base_model!r} are missing ({missing[0]}, …).",
                next=f"Fetch it whole: hf download {base_model}" if "/" in base_model else "Copy the folder again.",
            )
    elif not any(folder.glob("*.safetensors")):
        if any(path for pattern in _PICKLED for path in folder.glob(pattern)):
            raise NotSupported(
                f"{base_model!r} has only pickled weights, which can run code when they are loaded.",
                next="Convert them to safetensors: load the model once in a place you trust and save it again.",
            )
        raise BadInput(
            f"{base_model!r} has no weights (*.safetensors).",
            next="Give a folder that holds them, or a Hub id whose weights are in the local cache.",
        )


def _no_config(folder: Path, base_model: str) -> BadInput | NotSupported:
    if (folder / "adapter_config.json").is_file():
        return NotSupported(
            f"{base_model!r} is a LoRA adapter, not a whole model.",
            next="Merge it into its base first, then give the merged folder.",
        )
    if folder.is_dir() and any(folder.glob("*.gguf")):
        return NotSupported(
            f"{base_model!r} holds a GGUF, which cannot be trained.",
            next="Give a folder in Hugging Face format (config.json and *.safetensors).",
        )
    return BadInput(f"{base_model!r} has no config.json.", next=f"A base model is one of: {FORMS}.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as JSON ({error}).", next="Fetch or copy the model again.") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no JSON object.", next="Fetch or copy the model again.")
    return content
