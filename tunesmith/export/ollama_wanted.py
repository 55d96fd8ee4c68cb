"""What a model in Ollama shall be, checked against the model it is made of before anything is sent or made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tunesmith.errors import InvalidArgument, MissingExtra, NotFound, NotSupported
from tunesmith.export.handing_out import model_parameters
from tunesmith.export.modelfile import quoted
from tunesmith.export.quantizations import check_quantizations
from tunesmith.machine.hosts import ollama_url
from tunesmith.machine.ollama_names import check_model_name, full_name
from tunesmith.machine.ollama_request import check_parameters, check_text
from tunesmith.models.bases import base_config, tokenizer_for
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelRecord
from tunesmith.models.store import ModelStore
from tunesmith.workspace import Workspace

ADAPTER = "adapter"
ROOM_FOR_TALK = 64  # tokens of the context that a system prompt must leave


@dataclass(frozen=True)
class Request:
    """What a caller asked for, each argument checked by itself.

    Attributes:
        name: with its tag, as Ollama lists it.
        quantization: of the exported file; None for the adapter.
        base: name of the model in Ollama that the adapter is put on; None: a GGUF of the adapter's own base.
    """

    name: str
    quantization: str | None
    base: str | None = None
    system: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What the model in Ollama shall be.

    Attributes:
        gguf, digest: the exported file, a whole model or an adapter, and `sha256:…` of it.
        is_adapter: which of the two.
        base: see `Request`.
    """

    gguf: Path
    digest: str
    is_adapter: bool
    base: str | None
    template: str
    stops: tuple[str, ...]
    parameters: dict[str, Any]
    system: str | None


def check_request(
    name: str,
    quantization: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    system: str | None = None,
    host: str | None = None,
) -> Request:
    """The request, each argument checked. Light: a tool calls it before it starts a run.

    Args:
        quantization: of an exported file; `adapter`, or `adapter@NAME` for a base that Ollama has.

    Raises:
        InvalidArgument: says which argument is wrong and what it may be.
    """
    full = full_name(check_model_name(name))
    values = check_parameters(parameters or {})
    if host is not None:
        ollama_url(host)
    if system:
        check_text(system, "system")
    kind, at, base = quantization.strip().partition("@")
    if kind.strip().lower() == ADAPTER:
        if at and not base:
            raise InvalidArgument(
                "'adapter@' names no base.", next="Give quantization='adapter@' and a name as `ollama list` shows it."
            )
        return Request(full, None, full_name(check_model_name(base)) if base else None, system or None, values)
    try:
        (checked,) = check_quantizations([quantization])
    except InvalidArgument as error:
        error.next = f"{error.next.rstrip('.')}; or adapter, for the LoRA alone on its base."
        if get_close_matches(kind.strip().lower(), [ADAPTER], cutoff=0.7):
            error.message = f"There is no quantization {quantization[:40]!r}; the nearest is {ADAPTER}."
        raise
    return Request(full, checked, None, system or None, values)


def wanted(workspace: Workspace, record: ModelRecord, request: Request) -> Wanted:
    """The request, checked against the model. Light as well.

    Raises:
        NotFound: there is no such file yet; the next step makes it.
        NotSupported: the adapter of a model that has none, or a template that Ollama's language cannot say.
        InvalidArgument: a system prompt or parameter that does not go with this model.
    """
    prompt_format = PromptFormat.from_record(record.prompt_format)
    gguf, digest = _file(workspace, record, request)
    if request.system and not prompt_format.supports_system:
        raise InvalidArgument(
            "The prompt format of this model has no place for a system prompt, so system would be ignored.",
            next="Leave system out, or put it into the question.",
        )
    quoted(request.system or "", "system")
    given = dict(request.parameters)
    stops = tuple(dict.fromkeys([*prompt_format.stops, *given.pop("stop", [])]))
    for stop in stops:
        quoted(stop, "stop")
    _check_context(workspace, record, given)
    return Wanted(
        gguf=gguf,
        digest=digest,
        is_adapter=request.quantization is None,
        base=request.base,
        template=prompt_format.ollama_template(),
        stops=stops,
        parameters={**model_parameters(workspace, record), **given},
        system=request.system,
    )


def check_system_fits(workspace: Workspace, record: ModelRecord, made: Wanted) -> None:
    """Refuse a system prompt that leaves no room in the context: Ollama would silently drop what was asked.

    Raises:
        InvalidArgument: says how many tokens it has.
    """
    if not made.system:
        return
    prompt_format = PromptFormat.from_record(record.prompt_format)
    messages = [{"role": "system", "content": made.system}, {"role": "user", "content": "?"}]
    try:
        tokenizer = tokenizer_for(workspace, record.base_model)
    except MissingExtra:
        return
    tokens = len(tokenizer.encode(prompt_format.ollama_prompt(messages), add_special_tokens=False).ids)
    num_ctx = int(made.parameters["num_ctx"])
    if tokens + ROOM_FOR_TALK > num_ctx:
        enough = -(-(tokens + 512) // 512) * 512
        raise InvalidArgument(
            f"system takes {tokens:,} tokens, and the context of the model in Ollama has {num_ctx:,} (num_ctx).",
            next=f"Shorten system, or give parameters={{'num_ctx': {enough}}} if the base takes as much.",
        )


def _file(workspace: Workspace, record: ModelRecord, request: Request) -> tuple[Path, str]:
    if request.quantization is not None:
        entry = record.file("gguf", request.quantization)
        what, call = f"{request.quantization} file", f"quantizations=[{request.quantization!r}]"
    else:
        if record.method == "full":
            raise NotSupported(
                f"{record.model_id} was trained with method full: it has no adapter.",
                next="Call export_gguf, then register_ollama with the quantization of that file.",
            )
        entry = record.file("lora_gguf")
        what, call = "adapter as GGUF", "adapter_only=true"
    path = ModelStore(workspace).folder(record.model_id) / entry.path if entry else None
    if entry is None or path is None or not path.is_file():
        raise NotFound(
            f"Model {record.model_id} has no {what} yet.",
            next=f"Call export_gguf(model={record.model_id!r}, {call}), then this again.",
        )
    return path, f"sha256:{entry.sha256}"


def _check_context(workspace: Workspace, record: ModelRecord, given: Mapping[str, Any]) -> None:
    context = base_config(workspace, record.base_model).get("max_position_embeddings")
    if isinstance(context, int) and given.get("num_ctx", 0) > context:
        raise InvalidArgument(
            f"num_ctx is {given['num_ctx']:,}; the base of this model takes at most {context:,} tokens.",
            next=f"Give num_ctx from 1 to {context}, or leave it out.",
        )
