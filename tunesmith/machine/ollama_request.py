"""What may be sent to Ollama: model names, digests and parameters, checked before they leave."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import InvalidArgument

# Ollama's own grammar: [[host/]namespace/]model[:tag]; letters, digits and _ first.
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME_ADVICE = "Use letters, digits, '-', '_' and '.', for example my-notes or me/my-notes:v2."

# Every option that Ollama knows, with its type. Ollama stores any parameter at creation, skips unknown
# ones with a line in its log, and fails on a wrong type only when the model is first used.
_INTEGER, _NUMBER, _BOOLEAN, _STRINGS = "a whole number", "a number", "true or false", "a list of strings"
PARAMETERS: dict[str, str] = {
    "num_ctx": _INTEGER,
    "num_batch": _INTEGER,
    "num_gpu": _INTEGER,
    "main_gpu": _INTEGER,
    "num_thread": _INTEGER,
    "num_keep": _INTEGER,
    "num_predict": _INTEGER,
    "seed": _INTEGER,
    "top_k": _INTEGER,
    "repeat_last_n": _INTEGER,
    "use_mmap": _BOOLEAN,
    "top_p": _NUMBER,
    "min_p": _NUMBER,
    "typical_p": _NUMBER,
    "temperature": _NUMBER,
    "repeat_penalty": _NUMBER,
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "stop": _STRINGS,
}


def check_model_name(name: str) -> str:
    """`name`, if Ollama would take it as the name of a local model: `[[host/]namespace/]model[:tag]`.

    Raises:
        InvalidArgument: says which part is wrong.
    """
    if not isinstance(name, str) or not name:
        raise InvalidArgument("The Ollama model name is empty.", next=_NAME_ADVICE)
    if len(name) > 600 or not re.fullmatch(r"[!-~]+", name):
        raise InvalidArgument(
            "The Ollama model name holds a space, a newline or another character that names cannot have.",
            next=_NAME_ADVICE,
        )
    if name.startswith("-") or ".." in name:
        raise InvalidArgument(f"{name[:80]!r} starts with '-' or holds '..'.", next=_NAME_ADVICE)
    path, tag = _split_tag(name)
    *before, model = path.split("/")
    # Read from the right, as Ollama does: model, namespace, and whatever precedes them is one host.
    checks = [
        ("model", model, _MODEL),
        *zip(("namespace", "host"), reversed(before), (_NAMESPACE, _HOST), strict=False),
    ]
    if tag is not None:
        checks.append(("tag", tag, _MODEL))
    for part, text, pattern in checks:
        if not pattern.fullmatch(text):
            raise InvalidArgument(
                f"{name[:80]!r} is no Ollama name: its {part} {text[:80]!r} is wrong.", next=_NAME_ADVICE
            )
    if len(before) > 2:
        raise InvalidArgument(f"{name[:80]!r} has too many '/'.", next=_NAME_ADVICE)
    if tag is not None and (tag.lower() in ("cloud", "local") or tag.lower().endswith("-cloud")):
        raise InvalidArgument(
            f"The tag {tag[:80]!r} is one that Ollama reserves: it says where a model runs, not which one it is.",
            next="Choose another tag, for example :latest.",
        )
    return name


def full_name(name: str) -> str:
    """`name` with the tag Ollama lists it under: `my-notes` is `my-notes:latest`."""
    return name if _split_tag(name)[1] is not None else f"{name}:latest"


def check_digest(digest: str) -> str:
    """`digest`, if it is `sha256:` and 64 lower-case hexadecimal digits.

    Raises:
        InvalidArgument: it is not.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument(
            f"{digest[:90]!r} is no digest.", next="Give sha256: and the 64 hexadecimal digits of the file's SHA-256."
        )
    return digest


def check_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters` as Ollama needs them: known names, the right types.

    Raises:
        InvalidArgument: names every parameter that is unknown or of the wrong type, not just the first.
    """
    problems: list[str] = []
    for name, value in parameters.items():
        wanted = PARAMETERS.get(name)
        if wanted is None:
            problems.append(f"{str(name)[:40]!r} is unknown{_nearest(str(name))}")
        elif not _fits(value, wanted):
            problems.append(f"{name} must be {wanted}, not {str(value)[:40]!r}")
    if problems:
        raise InvalidArgument(
            f"Ollama parameters: {'; '.join(problems[:10])}.",
            next=f"Known parameters: {', '.join(sorted(PARAMETERS))}.",
        )
    return {name: list(value) if name == "stop" else value for name, value in parameters.items()}


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
    if stop and parameters and "stop" in parameters:
        raise InvalidArgument("stop is given twice.", next="Give it as its own argument or among the parameters.")
    body: dict[str, Any] = {"model": check_model_name(name), "stream": True}
    if from_model:
        body["from"] = check_model_name(from_model)
    for key, listing in (("files", files), ("adapters", adapters)):
        if listing:
            body[key] = {_file_name(file): check_digest(digest) for file, digest in listing.items()}
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


def _split_tag(name: str) -> tuple[str, str | None]:
    # A colon before the last slash belongs to a host's port.
    if name.rfind(":") > name.rfind("/"):
        path, _, tag = name.rpartition(":")
        return path, tag
    return name, None


def _fits(value: Any, wanted: str) -> bool:
    if wanted == _BOOLEAN:
        return isinstance(value, bool)
    if wanted == _STRINGS:
        plain = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return plain and all(isinstance(item, str) and item for item in value)
    if isinstance(value, bool):
        return False
    if wanted == _INTEGER:
        return isinstance(value, int) and abs(value) < 2**53
    return isinstance(value, int | float) and math.isfinite(value)


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, PARAMETERS, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _file_name(name: str) -> str:
    # Ollama links blobs under these names: a relative path without dots, and here simply a name.
    if not re.fullmatch(r"[^/\\\x00-\x1f]+", name) or name in (".", ".."):
        raise InvalidArgument(f"{name[:80]!r} is no file name.", next="Give a plain name such as my-notes-q4_k_m.gguf.")
    return name
