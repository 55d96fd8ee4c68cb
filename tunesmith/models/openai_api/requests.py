"""Reading requests: what OpenAI's API allows, checked; what is not done here is refused by name, never left out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.models.openai_api.errors import ApiError, unsupported, wrong

LEGACY_MAX_TOKENS = 16  # of /v1/completions, as its makers have it
MAX_STOPS = 16

# name → least, most, whole numbers only; the last four are llama.cpp's.
_NUMBERS: dict[str, tuple[float, float, bool]] = {
    "temperature": (0, 2, False),
    "top_p": (0, 1, False),
    "presence_penalty": (-2, 2, False),
    "frequency_penalty": (-2, 2, False),
    "seed": (-(2**63), 2**63 - 1, True),
    "top_k": (0, 2**31 - 1, True),
    "min_p": (0, 1, False),
    "typical_p": (0, 1, False),
    "repeat_penalty": (0, 10, False),
}
_LENGTHS = ("max_tokens", "max_completion_tokens")
_COMMON = {
    "model", "stream", "stream_options", "stop", "n", "logit_bias", "response_format", *_NUMBERS, *_LENGTHS,
}  # fmt: skip
# What changes nothing about the answer of a model such as these.
_WITHOUT_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls", "reasoning_effort", "verbosity",
}  # fmt: skip
# What would change it, with the values that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "web_search_options": (),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class Asked:
    """A request, checked.

    Attributes:
        messages: of a conversation; None for a text to go on with.
        prompt: that text, or its token ids; None for a conversation.
        model: as the caller names it, None where it does not.
        max_tokens: of the answer, None: as many as there is room for.
        stops: the caller's texts that end an answer.
        options: for llama.cpp, under its names.
        stream: the answer is wanted piece by piece.
        with_usage: a stream is to end with the numbers of tokens.
    """

    messages: list[dict[str, str]] | None
    prompt: str | list[int] | None
    model: str | None
    max_tokens: int | None
    stops: list[str]
    stream: bool
    with_usage: bool
    options: dict[str, Any] = field(default_factory=dict)


def read_chat(body: Any) -> Asked:
    """A request to /v1/chat/completions.

    Raises:
        ApiError: 400, naming what is wrong.
    """
    given = _known(body, {"messages"})
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "messages must be a list with at least one message.")
    read = [_message(number, message) for number, message in enumerate(messages)]
    return _asked(given, messages=read, prompt=None, longest=None)


def read_completion(body: Any) -> Asked:
    """A request to /v1/completions: a text, or token ids, to go on with; nothing is put around it.

    Raises: as `read_chat`.
    """
    given = _known(body, {"prompt"})
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, list) and prompt and all(isinstance(part, str | list) for part in prompt):
        raise unsupported(
            "prompt", f"prompt holds {len(prompt)} texts; one is answered at a time. Send one request each."
        )
    ids = isinstance(prompt, list) and all(isinstance(part, int) and not isinstance(part, bool) for part in prompt)
    if not prompt or not (isinstance(prompt, str) or ids):
        raise wrong("prompt", "prompt must be a text that is not empty, or a list of token ids.")
    return _asked(given, messages=None, prompt=prompt, longest=LEGACY_MAX_TOKENS)


def _known(body: Any, own: set[str]) -> dict[str, Any]:
    """The parts of the request that are given. Raises where one is unknown, or asks for what is not done."""
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_value")
    given = {name: value for name, value in body.items() if value is not None}
    known = own | _COMMON
    for name, value in given.items():
        if name in known or name in _WITHOUT_EFFECT:
            continue
        if name in _REFUSED:
            if value not in _REFUSED[name]:
                raise unsupported(name, f"{name} is not supported by this server. Leave it out.")
            continue
        near = difflib.get_close_matches(name, sorted(known), n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise ApiError(400, f"Unknown parameter: {name[:60]!r}.{meant}", param=name[:60], code="unknown_parameter")
    return given


def _asked(
    given: Mapping[str, Any], *, messages: list[dict[str, str]] | None, prompt: Any, longest: int | None
) -> Asked:
    if given.get("n", 1) != 1:
        raise unsupported("n", "n can only be 1. Send several requests for several answers.")
    model = given.get("model")
    if model is not None and not isinstance(model, str):
        raise wrong("model", "model must be a text.")
    lengths = {name: _number(given, name, 1, 2**31 - 1, whole=True) for name in _LENGTHS}
    wanted = lengths["max_completion_tokens"] or lengths["max_tokens"] or longest
    stream, options = given.get("stream", False), given.get("stream_options", {})
    if not isinstance(stream, bool):
        raise wrong("stream", "stream must be true or false.")
    if not isinstance(options, dict) or (options and not stream):
        raise wrong("stream_options", "stream_options must be an object, and is for stream=true only.")
    return Asked(
        messages=messages,
        prompt=prompt,
        model=model,
        max_tokens=int(wanted) if wanted else None,
        stops=_stops(given.get("stop")),
        stream=stream,
        with_usage=bool(options.get("include_usage")),
        options=_options(given),
    )


def _message(number: int, message: Any) -> dict[str, str]:
    where = f"messages[{number}]"
    if not isinstance(message, dict):
        raise wrong(where, f"{where} must be an object with role and content.")
    role = message.get("role")
    if role in ("tool", "function"):
        raise unsupported(f"{where}.role", f"{where} has the role {role}, and tools are not supported by this server.")
    if role not in _ROLES:
        raise wrong(f"{where}.role", f"{where}.role must be one of {', '.join(_ROLES)}.")
    for name in ("tool_calls", "function_call", "audio"):
        if message.get(name):
            raise unsupported(f"{where}.{name}", f"{where} has {name}, which this server does not support.")
    return {"role": _ROLES[role], "content": _content(where, message.get("content"))}


def _content(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise wrong(f"{where}.content", f"{where}.content must be a text, or a list of text parts.")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise unsupported(
                f"{where}.content",
                f"{where}.content has a part of type {str(kind)[:40]!r}; this model reads text only.",
            )
        if not isinstance(part.get("text"), str):
            raise wrong(f"{where}.content", f"A part of {where}.content has no text.")
        texts.append(part["text"])
    return "\n".join(texts)


def _number(given: Mapping[str, Any], name: str, least: float, most: float, *, whole: bool) -> float | int | None:
    value = given.get(name)
    if value is None:
        return None
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise wrong(name, f"{name} must be {'a whole number' if whole else 'a number'}.")
    if not least <= value <= most:
        raise wrong(name, f"{name} is {value}; it can be {least:g} to {most:g}.")
    return value


def _stops(stop: Any) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise wrong("stop", "stop must be a text or a list of texts, none of them empty.")
    if len(stops) > MAX_STOPS:
        raise wrong("stop", f"stop holds {len(stops)} texts; at most {MAX_STOPS} are looked for.")
    return stops


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Under llama.cpp's names."""
    options: dict[str, Any] = {}
    for name, (least, most, whole) in _NUMBERS.items():
        value = _number(given, name, least, most, whole=whole)
        if value is not None:
            options[name] = value
    if "seed" in options:
        options["seed"] %= 2**32 - 1  # the number above means "a random one"
    if "top_p" in options:
        # Who says how tokens are to be chosen gets that, not that and a default on top of it.
        options = {"top_k": 0, "min_p": 0.0, **options}
    bias = given.get("logit_bias")
    if bias:
        options["logit_bias"] = _bias(bias)
    options.update(_constraint(given.get("response_format")))
    return options


def _bias(bias: Any) -> list[list[float]]:
    if not isinstance(bias, dict) or not all(token.isascii() and token.isdigit() for token in bias):
        raise wrong("logit_bias", "logit_bias must map token ids to numbers.")
    return [[int(token), float(_number(bias, token, -100, 100, whole=False) or 0)] for token in bias]


def _constraint(response_format: Any) -> dict[str, Any]:
    if response_format is None:
        return {}
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}
    if kind == "json_schema":
        wanted = response_format.get("json_schema")
        if isinstance(wanted, dict) and isinstance(wanted.get("schema"), dict):
            return {"json_schema": wanted["schema"]}
        raise wrong("response_format", "response_format.json_schema must hold a schema.")
    raise wrong("response_format", "response_format.type must be text, json_object or json_schema.")
