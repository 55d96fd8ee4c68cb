"""What an adapter is put on in Ollama: a GGUF of its own base, or a model that Ollama has.

Nothing may be fetched that was not asked for. Ollama fetches a base that it does
not have by itself, so a name is looked up before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import BadInput, InvalidArgument, NotFound, NotSupported
from tunesmith.export import gguf
from tunesmith.export.tokenizer_parity import check_tokenizer
from tunesmith.files import TEMPORARY_PREFIX, fsync_path, write_atomic
from tunesmith.machine.llama_cpp import find_llama_cpp
from tunesmith.machine.ollama import OllamaClient
from tunesmith.models import embedded
from tunesmith.models.bases import base_folder
from tunesmith.models.gguf_file import read_gguf
from tunesmith.models.locking import locked
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelRecord
from tunesmith.models.references import EMBEDDED
from tunesmith.models.tokenizer_files import copy_tokenizer
from tunesmith.workspace import Workspace

# Part of the file's name: raise it when what is made changes.
BUILDER = 1
# 16 bits: an adapter was made for the weights as they are, and one base serves every adapter on it.
OUTTYPE = "f16"


@dataclass(frozen=True)
class BaseFile:
    """A GGUF of a base.

    Attributes:
        path: absolute.
        digest: `sha256:…` of it.
    """

    path: Path
    digest: str


def base_gguf(
    workspace: Workspace, record: ModelRecord, *, say: Callable[[str], None], check: Callable[[], None]
) -> BaseFile:
    """The base of a model as one GGUF, made in the workspace's cache when it is not there yet.

    Of the embedded base it is the file that its package ships: the very weights the adapter was trained on.
    Of others it is converted from the 16-bit weights, with the trained prompt format as its chat template.

    Raises:
        DiskFull, MissingExtra, CheckFailed, BadInput: it cannot be made here; as `gguf.convert`.
        NotFound, Unreachable: the base's weights are not on this machine.
    """
    if record.base_model == EMBEDDED:
        path = embedded.gguf_path()
        return BaseFile(path, f"sha256:{_sha256(path)}")
    base = base_folder(workspace, record.base_model)
    prompt_format = PromptFormat.from_record(record.prompt_format)
    path = workspace.cache / _file_name(record.base_model, base, prompt_format)
    note = path.with_suffix(".sha256")
    if not (path.is_file() and note.is_file()):
        with locked(path.with_suffix(".lock")):
            if not (path.is_file() and note.is_file()):
                say(f"Converting the base model to GGUF ({OUTTYPE}), once for all adapters on it")
                _make(record.base_model, base, prompt_format, path, check)
                write_atomic(note, _sha256(path))
    return BaseFile(path, f"sha256:{note.read_text(encoding='utf-8').strip()}")


def check_installed_base(client: OllamaClient, name: str, adapter: Path, base: Mapping[str, Any]) -> list[str]:
    """Whether the model `name` in Ollama can carry the adapter, as far as can be seen; what its owner added to it.

    Args:
        base: config.json of the base that the adapter was trained on.

    Raises:
        NotFound: Ollama does not have it; it is not fetched.
        InvalidArgument: it is another model than the one the adapter was trained on.
        NotSupported: it is none whose weights are a GGUF on that machine.
    """
    try:
        shown = client.show(name)
    except NotFound as error:
        raise NotFound(
            f"Ollama at {client.host} has no model {name}, which the adapter is to be put on.",
            next=f"Fetch it with `ollama pull {name}`, or leave it out: quantization='adapter' makes a GGUF of the "
            "base that was trained on.",
        ) from error
    details, info = _mapping(shown.get("details")), _mapping(shown.get("model_info"))
    if shown.get("remote_host") or details.get("format") not in ("gguf", "", None):
        raise NotSupported(
            f"{name} is no GGUF on that machine ({details.get('format') or 'it runs elsewhere'}): it takes no adapter.",
            next="Name another model, or use quantization='adapter'.",
        )
    modelfile = str(shown.get("modelfile", ""))
    if re.search(r"^ADAPTER ", modelfile, re.MULTILINE):
        raise InvalidArgument(f"{name} has an adapter already.", next="Name the model that it was put on.")
    _compare(name, info, adapter, base)
    added = [("a SYSTEM prompt", shown.get("system")), ("messages of its own", shown.get("messages"))]
    added.append(("a RENDERER instead of a template", re.search(r"^RENDERER ", modelfile, re.MULTILINE)))
    return [what for what, there in added if there]


def _compare(name: str, info: Mapping[str, Any], adapter: Path, base: Mapping[str, Any]) -> None:
    """Two models of one shape and architecture are not sure to be one, but others surely are not."""
    architecture = read_gguf(adapter).fields.get("general.architecture")
    theirs = info.get("general.architecture")
    facts = [("architecture", architecture, theirs)]
    for what, ours, field in (
        ("number of layers", "num_hidden_layers", "block_count"),
        ("width", "hidden_size", "embedding_length"),
    ):
        facts.append((what, base.get(ours), info.get(f"{theirs}.{field}")))
    for what, mine, other in facts:
        if mine is not None and other is not None and mine != other:
            raise InvalidArgument(
                f"{name} is another model than the one the adapter was trained on: its {what} is {other}, not {mine}.",
                next="Name the model that Ollama has of that base, or use quantization='adapter'.",
            )


def _make(base_model: str, base: Path, prompt_format: PromptFormat, output: Path, check: Callable[[], None]) -> None:
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    if not size:
        raise BadInput(f"{base} has no weights (*.safetensors).", next="Fetch the base model again.")
    gguf.check_space(output.parent, {f"base as {OUTTYPE}": size})
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=output.parent) as scratch:
        folder = Path(scratch) / "base"
        folder.mkdir()
        _lay_out(base, folder)
        copy_tokenizer((base,), folder, prompt_format)
        made = Path(scratch) / output.name
        gguf.convert(find_llama_cpp(), folder, made, OUTTYPE, name=base_model.rpartition("/")[2], check=check)
        check_tokenizer(
            made,
            folder / "tokenizer.json",
            extra=(),
            end=prompt_format.eos,
            check=check,
            first=prompt_format.leading_bos,
        )
        fsync_path(made)
        made.replace(output)


def _lay_out(base: Path, folder: Path) -> None:
    """The base's files in another folder: small ones copied, since they are changed there, weights linked."""
    for path in base.iterdir():
        if path.suffix == ".safetensors":
            try:
                (folder / path.name).symlink_to(path.resolve())
            except OSError:  # a system, or a user, that has no links
                shutil.copyfile(path, folder / path.name)
        elif path.suffix == ".json" and "tokenizer" not in path.name:
            shutil.copyfile(path, folder / path.name)


def _file_name(base_model: str, base: Path, prompt_format: PromptFormat) -> str:
    """A name that changes with the weights, the prompt format and how it is made."""
    weights = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(base.glob("*.safetensors"))]
    key = hashlib.sha256(json.dumps([BUILDER, str(base), weights, prompt_format.sha256]).encode()).hexdigest()[:12]
    stem = re.sub(r"[^a-z0-9]+", "-", base_model.rpartition("/")[2].lower()).strip("-")[:40] or "base"
    return f"{stem}-{key}-{OUTTYPE}.gguf"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
