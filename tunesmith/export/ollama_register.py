"""A GGUF of ours as a model in Ollama: uploaded by digest, created, proven, and only then given its name.

The model is made under a name of its own first. Its rendering of prompts is held
against the prompt format's byte by byte, and it has to end one answer by itself.
Then it is made again under the name asked for, which costs nothing: Ollama has
the layers already. Whatever fails, a model of that name that was there stays as it was.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import (
    CheckFailed,
    Conflict,
    InvalidArgument,
    NotFound,
    ServiceFailed,
    Unreachable,
    UserError,
)
from tunesmith.export.handing_out import MODELFILE, model_parameters
from tunesmith.export.modelfile import modelfile
from tunesmith.export.quantizations import check_quantizations
from tunesmith.export.records import RegisterResult, Smoke
from tunesmith.export.rendering_parity import check_rendering
from tunesmith.files import write_atomic
from tunesmith.machine.ollama import OllamaClient
from tunesmith.machine.ollama_request import check_model_name, check_parameters, full_name
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelRecord
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.workspace import Workspace

SMOKE_PROMPT = "Hello! In one sentence: what can you help me with?"
SMOKE_TOKENS = 512
SHOWN_CHARS = 2000

Progress = Callable[[str, int, int], None]  # what is being done, its number, how many there are
STEPS = 5


@dataclass(frozen=True)
class Wanted:
    """What the model in Ollama shall be."""

    gguf: Path
    digest: str  # sha256:…
    template: str
    stops: tuple[str, ...]
    parameters: dict[str, Any]
    system: str | None


def check_request(
    name: str, quantization: str, parameters: Mapping[str, Any] | None = None
) -> tuple[str, str, dict[str, Any]]:
    """(full name, quantization, parameters), all checked. Light: a tool calls it before it starts a run.

    Raises:
        InvalidArgument: says which argument is wrong and what it may be.
    """
    (checked,) = check_quantizations([quantization])
    return full_name(check_model_name(name)), checked, check_parameters(parameters or {})


def register_model(
    workspace: Workspace,
    model_id: str,
    *,
    name: str,
    quantization: str = "q4_k_m",
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    host: str | None = None,
    replace: bool = False,
    smoke_prompt: str = SMOKE_PROMPT,
    progress: Progress = lambda message, step, steps: None,
    check: Callable[[], None] = lambda: None,
) -> RegisterResult:
    """Make an exported model available in Ollama under `name`.

    A Modelfile that makes the same model by hand is written at the end, and also when Ollama is not there.

    Args:
        parameters: over the defaults; `stop` texts are added to those of the prompt format.
        host: Ollama's address; default: OLLAMA_HOST, else the usual one.
        replace: a model of that name may be replaced.
        smoke_prompt: what the model is asked to see that it stops.
        check: raises when the run was cancelled.

    Raises:
        InvalidArgument: a name, parameter or system prompt that Ollama or a Modelfile cannot take.
        NotFound: the model, or its file in that quantization; the next step makes it.
        Conflict: Ollama has a model of that name and `replace` is false.
        Unreachable: Ollama is not there; the message names the Modelfile.
        CheckFailed: Ollama renders prompts differently, or the model does not stop.
    """
    name, quantization, given = check_request(name, quantization, parameters)
    record = ModelStore(workspace).get(model_id)
    wanted = _wanted(workspace, record, quantization=quantization, given=given, system=system)
    text = _modelfile_text(record, wanted, name)
    try:
        with OllamaClient(host) as client:
            job = _Registration(client, name, wanted, progress, check)
            result = job.perform(PromptFormat.from_record(record.prompt_format), smoke_prompt, replace=replace)
    except Unreachable as error:
        written = _write_modelfile(workspace, record, text)
        raise Unreachable(
            f"{error.message} The Modelfile was written all the same: {written}.",
            next=f"{error.next} Or do it by hand: ollama create {name} -f {written}",
        ) from error
    result.modelfile = str(_write_modelfile(workspace, record, text))
    return result


@dataclass(frozen=True)
class _Registration:
    """One registration under way."""

    client: OllamaClient
    name: str
    wanted: Wanted
    progress: Progress
    check: Callable[[], None]

    def perform(self, prompt_format: PromptFormat, smoke_prompt: str, *, replace: bool) -> RegisterResult:
        """Upload, try, prove, create. The result's `modelfile` is for the caller to fill in."""
        client, name, wanted = self.client, self.name, self.wanted
        self.progress(f"Asking Ollama at {client.host}", 1, STEPS)
        version = client.version()
        if not replace and client.exists(name):
            raise Conflict(
                f"Ollama at {client.host} has a model {name} already.",
                next="Choose another name, or call again with replace=true.",
            )
        self.check()
        uploaded = client.push_blob(wanted.gguf, wanted.digest, self._on_upload)
        with _trial(client, wanted) as trial:
            self.progress("Comparing rendered prompts", 3, STEPS)
            parity = check_rendering(client, trial, prompt_format, system=wanted.system, check=self.check)
            self.progress("Asking it something", 4, STEPS)
            smoke = _smoke(client, trial, smoke_prompt, wanted)
            self.check()
            self.progress(f"Creating {name}", 5, STEPS)
            _create(client, name, wanted)
        return RegisterResult(
            name=name,
            digest=_digest(client, name),
            modelfile="",
            parity=parity,
            smoke=smoke,
            command=f"ollama run {name}",
            ollama=version,
            host=client.host,
            parameters={**wanted.parameters, "stop": list(wanted.stops)},
            uploaded=uploaded,
        )

    def _on_upload(self, sent: int, total: int) -> None:
        self.check()
        # Called once per MiB; twenty lines are enough for a file of any size.
        if sent == total or sent * 20 // total > max(0, sent - 2**20) * 20 // total:
            self.progress(f"Uploading: {sent / 2**20:,.0f} of {total / 2**20:,.0f} MiB", 2, STEPS)


def _wanted(
    workspace: Workspace, record: ModelRecord, *, quantization: str, given: dict[str, Any], system: str | None
) -> Wanted:
    prompt_format = PromptFormat.from_record(record.prompt_format)
    entry = record.file("gguf", quantization)
    gguf = ModelStore(workspace).folder(record.model_id) / entry.path if entry else None
    if entry is None or gguf is None or not gguf.is_file():
        raise NotFound(
            f"Model {record.model_id} has no {quantization} file yet.",
            next=f"Call export_gguf(model={record.model_id!r}, quantizations=[{quantization!r}]), then this again.",
        )
    if system and not prompt_format.supports_system:
        raise InvalidArgument(
            "The prompt format of this model has no place for a system prompt, so system would be ignored.",
            next="Leave system out, or put it into the question.",
        )
    stops = tuple(dict.fromkeys([*prompt_format.stops, *given.pop("stop", [])]))
    return Wanted(
        gguf=gguf,
        digest=f"sha256:{entry.sha256}",
        template=prompt_format.ollama_template(),
        stops=stops,
        parameters={**model_parameters(workspace, record), **given},
        system=system or None,
    )


def _modelfile_text(record: ModelRecord, wanted: Wanted, name: str) -> str:
    return modelfile(
        wanted.gguf.name,
        template=wanted.template,
        stops=wanted.stops,
        parameters=wanted.parameters,
        system=wanted.system,
        comment=f"{record.name} ({record.model_id}). To use it by hand: ollama create {name} -f Modelfile",
    )


def _write_modelfile(workspace: Workspace, record: ModelRecord, text: str) -> Path:
    store = ModelStore(workspace)
    folder = store.folder(record.model_id)
    write_atomic(folder / MODELFILE, text)
    store.update(record.model_id, add_files=[describe_file(folder, folder / MODELFILE, "modelfile")])
    return folder / MODELFILE


def _digest(client: OllamaClient, name: str) -> str:
    for model in client.tags():
        if model.name == name:
            return model.digest
    raise ServiceFailed(
        f"Ollama at {client.host} said that it created {name} and does not list it.",
        next="Look at Ollama's own log, then call again with replace=true.",
    )


@contextlib.contextmanager
def _trial(client: OllamaClient, wanted: Wanted) -> Iterator[str]:
    """The model under a name that nobody else uses, and that is gone afterwards."""
    name = f"tunesmith-trial-{secrets.token_hex(6)}:latest"
    try:
        _create(client, name, wanted)
        yield name
    finally:
        # If Ollama went away in the meantime, that is the error to show, not this one.
        with contextlib.suppress(UserError):
            client.delete(name)


def _create(client: OllamaClient, name: str, wanted: Wanted) -> None:
    client.create(
        name,
        files={wanted.gguf.name: wanted.digest},
        template=wanted.template,
        system=wanted.system,
        parameters=wanted.parameters,
        stop=wanted.stops,
    )


def _smoke(client: OllamaClient, name: str, prompt: str, wanted: Wanted) -> Smoke:
    limit = min(SMOKE_TOKENS, int(wanted.parameters["num_ctx"]) // 2)
    # Greedy: the answer says something about the model, not about luck.
    options = {"temperature": 0, "num_predict": limit, "seed": 42}
    reply = client.chat(name, [{"role": "user", "content": prompt}], options=options, keep_alive=0)
    smoke = Smoke(prompt=prompt, reply=reply.content[:SHOWN_CHARS], stopped=reply.done_reason == "stop")
    if not smoke.stopped or not reply.content.strip():
        what = "gave an empty answer" if smoke.stopped else f"did not end its answer within {limit} tokens"
        raise CheckFailed(
            f"Asked {prompt[:100]!r}, the model {what}: {reply.content[:300]!r}. It was not registered.",
            next="Call diagnose_run for its training run: a model that does not stop has seen too few ends of answers. "
            "Train longer, or on shorter answers.",
        )
    return smoke
