"""What may be sent to Ollama: parameters, texts and messages, checked before they leave."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import InvalidArgument
from tunesmith.machine.ollama_names import check_digest, check_file_name, check_model_name

_INTEGER, _NUMBER, _BOOLEAN, _STRINGS = "a whole number", "a number", "true or false", "a list of texts"
MOST_STOPS = 32
LONGEST_STOP = 200  # characters
LONGEST_TEXT = 100_000  # characters of a system prompt; a context holds less


@dataclass(frozen=True)
class Parameter:
    """What a parameter may be.

    Attributes:
        kind: its type, in words.
        low, high: the smallest and largest value; None: any.
    """

    kind: str
    low: float | None = None
    high: float | None = None

    @property
    def wanted(self) -> str:
        if self.low is None:
            return self.kind
        return (
            f"{self.kind}, at least {self.low:g}"
            if self.high is None
            else f"{self.kind} from {self.low:g} to {self.high:g}"
        )


# Every option that Ollama 0.33 knows, with its type. Ollama stores any parameter at creation, skips unknown
# ones with a line in its log, cuts fractions off whole numbers, and fails on a wrong type only when the model
# is first used. The ranges are ours: outside of them a value means nothing.
PARAMETERS: dict[str, Parameter] = {
    "num_ctx": Parameter(_INTEGER, 1),
    "num_batch": Parameter(_INTEGER, 1),
    "num_gpu": Parameter(_INTEGER, -1),
    "main_gpu": Parameter(_INTEGER, 0),
    "num_thread": Parameter(_INTEGER, 0),
    "num_keep": Parameter(_INTEGER, -1),
    "num_predict": Parameter(_INTEGER, -2),
    "draft_num_predict": Parameter(_INTEGER, 0),
    "seed": Parameter(_INTEGER),
    "top_k": Parameter(_INTEGER, 0),
    "repeat_last_n": Parameter(_INTEGER, -1),
    "use_mmap": Parameter(_BOOLEAN),
    "top_p": Parameter(_NUMBER, 0, 1),
    "min_p": Parameter(_NUMBER, 0, 1),
    "typical_p": Parameter(_NUMBER, 0, 1),
    "temperature": Parameter(_NUMBER, 0, 100),
    "repeat_penalty": Parameter(_NUMBER, 0, 100),
    "presence_penalty": Parameter(_NUMBER, -100, 100),
    "frequency_penalty": Parameter(_NUMBER, -100, 100),
    "stop": Parameter(_STRINGS),
}


def check_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters` as Ollama needs them: known names, the right types, values that mean something.

    Raises:
        InvalidArgument: names every parameter that is unknown or wrong, not just the first.
    """
    problems: list[str] = []
    for name, value in parameters.items():
        known = PARAMETERS.get(name)
        if known is None:
            problems.append(f"{str(name)[:40]!r} is unknown{_nearest(str(name))}")
        elif not _fits(value, known):
            problems.append(f"{name} must be {known.wanted}, not {str(value)[:40]!r}")
        elif known.kind == _STRINGS and (trouble := _wrong_stops(value)):
            problems.append(trouble)
    if problems:
        raise InvalidArgument(
            f"Ollama parameters: {'; '.join(problems[:10])}.",
            next=f"Known parameters: {', '.join(sorted(PARAMETERS))}.",
        )
    return {name: list(value) if name == "stop" else value for name, value in parameters.items()}


def check_text(text: str, name: str) -> str:
    """`text`, if Ollama keeps it as it is: no NUL and other control characters, no broken Unicode.

    Raises:
        InvalidArgument: says what it holds and where.
    """
    if len(text) > LONGEST_TEXT:
        raise InvalidArgument(
            f"{name} has {len(text):,} characters; {LONGEST_TEXT:,} are allowed.",
            next=f"Shorten {name}: the model reads it before every question, and its context holds less.",
        )
    wrong = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", text)
    if wrong:
        raise InvalidArgument(
            f"{name} holds the character U+{ord(wrong[0]):04X} at position {wrong.start()}, which no prompt should.",
            next=f"Take it out of {name}.",
        )
    return text


def creation(
    name: str,
    *,
    files: Mapping[str, str] | None,
    adapters: Mapping[str, str] | None,
    from_model: str | None,
    parameters: Mapping[str, Any] | None,
    stop: Sequence[str],
) -> dict[str, Any]:
    """The body of a creation, without the texts.

    Raises:
        InvalidArgument: neither files nor a model to build on, or both; a bad name, digest or parameter.
    """
    if bool(files) == bool(from_model):
        raise InvalidArgument(
            "A model is made either from files or from an installed model.", next="Give one of files and from_model."
        )
    if adapters and len(adapters) > 1:
        raise InvalidArgument("Ollama takes one adapter.", next="Give one of them.")
    if stop and parameters and "stop" in parameters:
        raise InvalidArgument("stop is given twice.", next="Give it as its own argument or among the parameters.")
    body: dict[str, Any] = {"model": check_model_name(name), "stream": True}
    if from_model:
        body["from"] = check_model_name(from_model)
    for key, listing in (("files", files), ("adapters", adapters)):
        if listing:
            body[key] = {check_file_name(file): check_digest(digest) for file, digest in listing.items()}
    settings = dict(parameters or {}) | ({"stop": list(stop)} if stop else {})
    if settings:
        body["parameters"] = check_parameters(settings)
    return body


def chat_messages(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """`messages` with role and content alone.

    Raises:
        InvalidArgument: there is none.
    """
    # An empty list is Ollama's signal to load a model, or to unload it.
    if not messages:
        raise InvalidArgument("There is no message to send.", next="Give at least one message.")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _fits(value: Any, known: Parameter) -> bool:
    if known.kind == _BOOLEAN:
        return isinstance(value, bool)
    if known.kind == _STRINGS:
        plain = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return plain and all(isinstance(item, str) and item for item in value)
    if isinstance(value, bool) or not isinstance(value, int if known.kind == _INTEGER else (int, float)):
        return False
    # A whole number beyond 2^53 does not survive JSON in every reader.
    whole = abs(value) < 2**53 if known.kind == _INTEGER else math.isfinite(value)
    return whole and (known.low is None or value >= known.low) and (known.high is None or value <= known.high)


def _wrong_stops(stops: Sequence[str]) -> str:
    if len(stops) > MOST_STOPS:
        return f"stop has {len(stops)} texts, of {MOST_STOPS} at most"
    long = next((stop for stop in stops if len(stop) > LONGEST_STOP), None)
    if long is not None:
        return f"stop holds a text of {len(long)} characters, of {LONGEST_STOP} at most ({long[:30]!r}…)"
    try:
        for stop in stops:
            check_text(stop, "stop")
    except InvalidArgument as error:
        return error.message.rstrip(".")
    return ""


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), PARAMETERS, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
