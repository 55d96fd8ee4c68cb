"""Asking one model one thing, from a process that must stay light: weights are only ever loaded in a child."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from tunesmith.data.records import Message
from tunesmith.errors import EmptyInput, InvalidArgument, ServiceFailed, Unreachable, UserError
from tunesmith.evaluation.contestants import Contestant, contestant
from tunesmith.evaluation.records import AskResult
from tunesmith.models.endpoints import Asker, AskFailed, CompletionEndpoint, Draw, Reply, endpoint_for
from tunesmith.models.gguf_file import context_of
from tunesmith.models.serving import child_environment
from tunesmith.models.warm import WarmServers
from tunesmith.workspace import Workspace

DEADLINE_S = 45.0
SEED = 42
MAX_TOKENS = 8192
_CHILD = "tunesmith.evaluation.ask_child"
# Threads that wait by spinning hold each other up on a machine that does something else as well.
_PATIENT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}


def ask_model(
    workspace: Workspace,
    model: str,
    prompt: str,
    *,
    system: str | None = None,
    max_tokens: int = 256,
    temperature: float = 0.0,
    ollama_host: str | None = None,
    deadline_s: float = DEADLINE_S,
    warm: WarmServers | None = None,
) -> AskResult:
    """One reply. Safe to call from a server's thread: blocks, loads no weights into this process.

    Args:
        model: a model reference. A trained model is served by llama.cpp from its GGUF, or by transformers when it is
            not exported yet.
        prompt: the user's message.
        system: a system message; None or empty: none.
        max_tokens: of the reply, 1 to 8192.
        temperature: 0 to 2; 0 is the likeliest token always.
        ollama_host: as in OLLAMA_HOST; default: that variable.
        deadline_s: seconds for everything, loading included.
        warm: keeps a server for the next question; None: it ends with the answer.

    Raises:
        InvalidArgument, NotFound, PathRefused, Conflict, MissingExtra: what is asked, or whom, cannot be.
        Unreachable: the endpoint is not there, or there was no reply before the deadline.
        ServiceFailed: it answered with an error.
    """
    end = time.monotonic() + deadline_s
    _check(prompt, max_tokens, temperature)
    messages = [Message(role="system", content=system)] if system and system.strip() else []
    messages.append(Message(role="user", content=prompt))
    draw = Draw(temperature, max_tokens, SEED)
    one = contestant(workspace, model, model)
    try:
        reply = _ask(one, messages, draw, end, ollama_host, warm=warm or WarmServers(idle_s=0))
    except AskFailed as error:
        raise _as_user_error(one, error, deadline_s) from error
    return AskResult(
        reply=reply.text, finish_reason=reply.finish_reason, tokens=reply.tokens, seconds=round(reply.seconds, 3)
    )


def _check(prompt: str, max_tokens: int, temperature: float) -> None:
    if not prompt.strip():
        raise EmptyInput("The prompt is empty.", next="Give the question to ask in prompt.")
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise InvalidArgument(f"max_tokens is {max_tokens}; it can be 1 to {MAX_TOKENS}.", next="Use max_tokens=256.")
    if not 0 <= temperature <= 2:
        raise InvalidArgument(f"temperature is {temperature}; it can be 0 to 2.", next="Use temperature=0.")


def _ask(
    one: Contestant, messages: list[Message], draw: Draw, end: float, ollama_host: str | None, *, warm: WarmServers
) -> Reply:
    if one.way == "torch":
        return _ask_child(one, messages, draw, end)
    if one.way == "endpoint":
        endpoint = endpoint_for(one.reference, timeout_s=_left(end), ollama_host=ollama_host)
        try:
            return _once_more(endpoint, messages, draw, end)
        finally:
            endpoint.close()
    assert one.gguf is not None
    assert one.prompt_format is not None
    tokens, most = len(one.encode(messages)), context_of(one.gguf)
    if most is not None and tokens >= most:
        raise InvalidArgument(
            f"The prompt has {tokens:,} tokens, and this model takes {most:,}, the answer included.",
            next="Ask something shorter.",
        )
    with warm.serving(one.gguf, context=tokens + draw.max_tokens + 8, deadline_s=_left(end)) as served:
        asker = CompletionEndpoint(
            served.base_url, one.encode, one.prompt_format.stops, timeout_s=_left(end), reuse=False
        )
        try:
            return asker.ask(messages, draw)
        except AskFailed as error:
            raise AskFailed(served.died() or str(error), passing=error.passing) from error
        finally:
            asker.close()


def _once_more(endpoint: Asker, messages: list[Message], draw: Draw, end: float) -> Reply:
    """Ask, and again after a passing failure if there is time for it."""
    began = time.monotonic()
    try:
        return endpoint.ask(messages, draw)
    except AskFailed as error:
        pause = min(5.0, error.retry_after_s or 0.5)
        # The client's timeout is for one request: another must fit into what is left.
        if not error.passing or end - time.monotonic() - pause < (time.monotonic() - began) + 5.0:
            raise
        time.sleep(pause)
        return endpoint.ask(messages, draw)


def _ask_child(one: Contestant, messages: list[Message], draw: Draw, end: float) -> Reply:
    """Let a child process load the weights and answer."""
    job = {
        "workspace": str(one.workspace.root),
        "roots": [str(root) for root in one.workspace.roots.roots],
        "model": one.reference.text,
        "messages": [message.model_dump() for message in messages],
        "draw": {"temperature": draw.temperature, "max_tokens": draw.max_tokens, "seed": draw.seed},
    }
    with tempfile.TemporaryFile("w+b") as log:
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", _CHILD],
                input=json.dumps(job).encode(),
                stdout=subprocess.PIPE,
                stderr=log,
                env={**_PATIENT, **child_environment()},
                timeout=_left(end),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise AskFailed("the model was still loading or answering", passing=True) from error
        answer = _last_json(done.stdout)
        if answer is None:
            log.seek(0)
            tail = " | ".join(log.read().decode("utf-8", "replace").splitlines()[-3:])
            raise AskFailed(f"the process that runs it ended with status {done.returncode}: {tail}", passing=False)
    if "error" in answer:
        error = answer["error"]
        raise UserError(error["message"], next=error["next"], code=error["code"])
    return Reply(**answer["reply"])


def _last_json(output: bytes) -> dict[str, Any] | None:
    """The child's answer: the last line it printed; None if it never got there."""
    lines = output.splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError:
        return None


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise AskFailed("the time was up before it could be asked", passing=True)
    return left


def _as_user_error(one: Contestant, error: AskFailed, deadline_s: float) -> UserError:
    name = one.reference.text
    if one.way == "endpoint":
        advice = {
            "ollama": "Start Ollama (ollama serve), see the names with `ollama list`, and call ask_model again.",
            "openai": "Check the name, the address and the key in the settings, and call ask_model again.",
        }[one.reference.kind]
        kind = Unreachable if str(error).startswith(("no connection", "no answer")) else ServiceFailed
        return kind(f"{name} did not answer: {error}.", next=advice)
    if error.passing:
        return Unreachable(
            f"{name} gave no reply within {deadline_s:.0f} s: {error}.",
            next="Ask for fewer tokens (max_tokens=64), or export the model with export_gguf: its GGUF answers faster.",
        )
    return ServiceFailed(f"{name} did not answer: {error}.", next="Export the model again with export_gguf, then ask.")
