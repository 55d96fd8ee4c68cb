"""A GGUF of ours as a model in Ollama: uploaded by digest, created, proven, and only then given its name.

The model is made under a name of its own first. Its rendering of prompts is held
against the prompt format's byte by byte, and it has to end one answer by itself.
Then that very model gets the name asked for, which copies no file. Whatever fails,
a model of that name that was there stays as it was.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.errors import CheckFailed, Conflict, ServiceFailed, Unreachable, UserError
from tunesmith.export.handing_out import ADAPTER_MODELFILE, MODELFILE
from tunesmith.export.modelfile import modelfile
from tunesmith.export.ollama_base import BaseFile, base_gguf, check_installed_base
from tunesmith.export.ollama_trials import Trials
from tunesmith.export.ollama_wanted import Request, Wanted, check_request, check_system_fits, wanted
from tunesmith.export.records import RegisterResult, Smoke
from tunesmith.export.rendering_parity import check_rendering
from tunesmith.files import write_atomic
from tunesmith.machine.ollama import ADAPTERS_SINCE, CREATE_SINCE, OllamaClient, is_older
from tunesmith.machine.ollama_names import same_name
from tunesmith.models.bases import base_config
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelRecord
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.workspace import Workspace

SMOKE_PROMPT = "Hello! In one sentence: what can you help me with?"
SMOKE_TOKENS = 512
SHOWN_CHARS = 2000
PATIENCE_S = 0.5  # between two looks whether the run was cancelled

Progress = Callable[[str, int, int], None]  # what is being done, its number, how many there are
STEPS = 5


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
        quantization: of the exported file; `adapter` for the adapter on a GGUF of its base, `adapter@NAME` for the
            adapter on the model NAME that Ollama has.
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
    request = check_request(name, quantization, parameters, system=system, host=host)
    record = ModelStore(workspace).get(model_id)
    made = wanted(workspace, record, request)
    check_system_fits(workspace, record, made)

    def base_file(say: Callable[[str], None]) -> BaseFile | None:
        whole = not made.is_adapter or made.base is not None
        return None if whole else base_gguf(workspace, record, say=say, check=check)

    try:
        with OllamaClient(host) as client:
            job = _Registration(workspace, record, client, request, made, base_file, progress, check)
            result = job.perform(smoke_prompt, replace=replace)
    except Unreachable as error:
        written = _write_modelfile(
            workspace, record, request, made, base_file(lambda message: progress(message, 2, STEPS))
        )
        raise Unreachable(
            f"{error.message} The Modelfile was written all the same: {written}.",
            next=f"{error.next} Or do it by hand: ollama create {request.name} -f {written}",
        ) from error
    return result


@dataclass(frozen=True)
class _Registration:
    """One registration under way."""

    workspace: Workspace
    record: ModelRecord
    client: OllamaClient
    request: Request
    wanted: Wanted
    base_file: Callable[[Callable[[str], None]], BaseFile | None]
    progress: Progress
    check: Callable[[], None]
    notes: list[str] = field(default_factory=list)

    def perform(self, smoke_prompt: str, *, replace: bool) -> RegisterResult:
        """Upload, try, prove, name."""
        client, name, made = self.client, self.request.name, self.wanted
        self.progress(f"Asking Ollama at {client.host}", 1, STEPS)
        version = client.version()
        client.require_version(CREATE_SINCE, "create a model from uploaded files")
        trials = Trials(self.workspace)
        if left := trials.sweep(client):
            self.notes.append(f"Removed {left} trial model(s) that a run which was killed had left.")
        self._refuse_taken(replace=replace)
        added = self._check_base()
        self.check()
        base = self.base_file(lambda message: self.progress(message, 2, STEPS))
        uploaded = self._upload(base)
        prompt_format = PromptFormat.from_record(self.record.prompt_format)
        with trials.name(client) as trial, self._explained(version, added), self._unloaded_on_failure(trial):
            self._create(trial, base)
            self.progress("Comparing rendered prompts", 3, STEPS)
            parity = check_rendering(client, trial, prompt_format, system=made.system, check=self.check)
            self.progress("Asking it something", 4, STEPS)
            smoke = _smoke(client, trial, smoke_prompt, made)
            self.check()
            self.progress(f"Giving it the name {name}", 5, STEPS)
            self._refuse_taken(replace=replace)
            self._give_name(trial, trials)
        listed, digest = self._listed()
        written = _write_modelfile(self.workspace, self.record, self.request, made, base)
        return RegisterResult(
            name=listed,
            digest=digest,
            modelfile=str(written),
            parity=parity,
            smoke=smoke,
            command=f"ollama run {listed}",
            ollama=version,
            host=client.host,
            parameters={**made.parameters, "stop": list(made.stops)},
            uploaded=uploaded,
            base=_base_shown(made, base),
            notes=self.notes,
        )

    def _refuse_taken(self, *, replace: bool) -> None:
        if not replace and self.client.exists(self.request.name):
            raise Conflict(
                f"Ollama at {self.client.host} has a model {self.request.name} already.",
                next="Choose another name, or call again with replace=true.",
            )

    def _check_base(self) -> list[str]:
        """What the owner of the base in Ollama added to it: Ollama keeps that, whatever is asked for."""
        if self.wanted.base is None:
            return []
        config = base_config(self.workspace, self.record.base_model)
        added = check_installed_base(self.client, self.wanted.base, self.wanted.gguf, config)
        self.notes.append(f"Parameters that {self.wanted.base} brings and that were not given here stay as they are.")
        return [what for what in added if not (what == "a SYSTEM prompt" and self.wanted.system)]

    def _upload(self, base: BaseFile | None) -> bool:
        files = [(self.wanted.gguf, self.wanted.digest), *([(base.path, base.digest)] if base else [])]
        # The larger one first: it is the one that may not find room.
        files.sort(key=lambda file: -file[0].stat().st_size)
        sent = [
            self.client.push_blob(path, digest, self._on_upload, on_retry=self._on_retry, pause=self._pause)
            for path, digest in files
        ]
        return any(sent)

    def _on_upload(self, sent: int, total: int) -> None:
        self.check()
        # Called once per MiB; twenty lines are enough for a file of any size.
        if sent == total or sent * 20 // total > max(0, sent - 2**20) * 20 // total:
            self.progress(f"Uploading: {sent / 2**20:,.0f} of {total / 2**20:,.0f} MiB", 2, STEPS)

    def _on_retry(self, line: str) -> None:
        self.notes.append(line.partition("; ")[0] + "; it was sent again.")
        self.progress(line, 2, STEPS)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, PATIENCE_S))

    def _create(self, name: str, base: BaseFile | None) -> None:
        made = self.wanted
        own = {made.gguf.name: made.digest}
        files = {base.path.name: base.digest} if base else None
        self.client.create(
            name,
            files=files if made.is_adapter else own,
            adapters=own if made.is_adapter else None,
            from_model=made.base,
            template=made.template,
            system=made.system,
            parameters=made.parameters,
            stop=made.stops,
        )

    def _give_name(self, trial: str, trials: Trials) -> None:
        """The model that was proven, under the name asked for; what had the name goes, with its files.

        Ollama overwrites the name in place, so what had it is kept under another one until that has worked.
        """
        client, name = self.client, self.request.name
        if not client.exists(name):
            client.copy(trial, name)
            return
        with trials.name(client) as kept:
            client.copy(name, kept)
            try:
                client.copy(trial, name)
            except UserError:
                with contextlib.suppress(UserError):
                    client.copy(kept, name)
                raise
        self.notes.append(f"The model that was {name} before was replaced.")

    def _listed(self) -> tuple[str, str]:
        """(name, digest) as Ollama lists them: it keeps the capitals that a name had first."""
        for model in self.client.tags():
            if same_name(model.name, self.request.name):
                return model.name, model.digest
        raise ServiceFailed(
            f"Ollama at {self.client.host} said that it created {self.request.name} and does not list it.",
            next="Look at Ollama's own log, then call again with replace=true.",
        )

    @contextlib.contextmanager
    def _explained(self, version: str, added: list[str]) -> Iterator[None]:
        """Say what is known of an adapter that does not work out."""
        try:
            yield
        except CheckFailed as error:
            if added:
                error.message += f" The base {self.wanted.base} brings {' and '.join(added)}, which Ollama keeps."
                error.next = f"Use quantization='adapter', which takes a GGUF of the base. Or: {error.next}"
            raise
        except ServiceFailed as error:
            if self.wanted.is_adapter and is_older(version, ADAPTERS_SINCE):
                wanted_version = ".".join(map(str, ADAPTERS_SINCE))
                error.next = (
                    f"Ollama before {wanted_version} runs some architectures without adapters (this is {version}): "
                    f"update it, or export and register the merged model. {error.next}"
                )
            raise

    @contextlib.contextmanager
    def _unloaded_on_failure(self, trial: str) -> Iterator[None]:
        """A model that was refused must not stay in memory for minutes."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(UserError):
                self.client.unload(trial)
            raise


def _write_modelfile(
    workspace: Workspace, record: ModelRecord, request: Request, made: Wanted, base: BaseFile | None
) -> Path:
    store = ModelStore(workspace)
    folder = store.folder(record.model_id)
    path = folder / (ADAPTER_MODELFILE if made.is_adapter else MODELFILE)
    text = modelfile(
        made.gguf.name,
        base=_base_shown(made, base),
        template=made.template,
        stops=made.stops,
        parameters=made.parameters,
        system=made.system,
        comment=f"{record.name} ({record.model_id}). To use it by hand: ollama create {request.name} -f {path.name}",
    )
    write_atomic(path, text)
    store.update(record.model_id, add_files=[describe_file(folder, path, "modelfile")])
    return path


def _base_shown(made: Wanted, base: BaseFile | None) -> str | None:
    return made.base if base is None else str(base.path)


def _smoke(client: OllamaClient, name: str, prompt: str, made: Wanted) -> Smoke:
    limit = min(SMOKE_TOKENS, max(1, int(made.parameters["num_ctx"]) // 2))
    # Greedy: the answer says something about the model, not about luck.
    options = {"temperature": 0, "num_predict": limit, "seed": 42}
    reply = client.chat(name, [{"role": "user", "content": prompt}], options=options, keep_alive=0)
    smoke = Smoke(prompt=prompt, reply=reply.content[:SHOWN_CHARS], stopped=reply.done_reason == "stop")
    if not smoke.stopped or not reply.content.strip():
        what = "gave an empty answer" if smoke.stopped else f"did not end its answer within {limit} tokens"
        if not reply.content.strip() and reply.thinking:
            what = f"{what}: Ollama took what it wrote for thinking ({reply.thinking[:200]!r})"
        raise CheckFailed(
            f"Asked {prompt[:100]!r}, the model {what}: {reply.content[:300]!r}. It was not registered.",
            next="Call diagnose_run for its training run: a model that does not stop has seen too few ends of answers. "
            "Train longer, or on shorter answers.",
        )
    return smoke
