"""Names and digests as Ollama reads them, checked before they leave."""

from __future__ import annotations

import re

from tunesmith.errors import InvalidArgument

# Ollama's own grammar: [[host/]namespace/]model[:tag]; letters, digits and _ first.
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# What a name without these parts stands for.
_OWN_HOST, _OWN_NAMESPACE, _OWN_TAG = "registry.ollama.ai", "library", "latest"
_NAME_ADVICE = "Use letters, digits, '-', '_' and '.', for example my-notes or me/my-notes:v2."


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
                f"{name[:80]!r} is no Ollama name: its {part} {text[:80]!r} is wrong{_why(text)}.", next=_NAME_ADVICE
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
    """`name` as Ollama lists it: with its tag, without what Ollama adds by itself.

    `my-notes` and `library/my-notes` are both listed as `my-notes:latest`.
    """
    path, tag = _split_tag(name)
    *before, model = path.split("/")
    namespace = before[-1] if before else _OWN_NAMESPACE
    host = before[-2] if len(before) > 1 else _OWN_HOST
    shown = f"{model}:{tag or _OWN_TAG}"
    if host.lower() != _OWN_HOST:
        return f"{host}/{namespace}/{shown}"
    return shown if namespace.lower() == _OWN_NAMESPACE else f"{namespace}/{shown}"


def same_name(one: str, other: str) -> bool:
    """Whether two names mean one model: Ollama does not tell capitals from small letters."""
    return full_name(one).lower() == full_name(other).lower()


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


def check_file_name(name: str) -> str:
    """`name`, if it can stand for a file in a creation: Ollama links blobs under it.

    Raises:
        InvalidArgument: it is more than a plain name.
    """
    if not re.fullmatch(r"[^/\\\x00-\x1f]+", name) or name in (".", ".."):
        raise InvalidArgument(f"{name[:80]!r} is no file name.", next="Give a plain name such as my-notes-q4_k_m.gguf.")
    return name


def _split_tag(name: str) -> tuple[str, str | None]:
    # A colon before the last slash belongs to a host's port.
    if name.rfind(":") > name.rfind("/"):
        path, _, tag = name.rpartition(":")
        return path, tag
    return name, None


def _why(text: str) -> str:
    if not text:
        return ": it is empty"
    return f": it has {len(text)} characters, of 80 at most" if len(text) > 80 else ""
