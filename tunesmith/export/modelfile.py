"""The text of an Ollama Modelfile that means exactly what it was made from.

Ollama's parser has no escapes. A value between triple double quotes ends at the
first line break before which the text read so far, right-trimmed, ends in three
double quotes; characters that Go calls unprintable are dropped as it reads. So a
few texts cannot be written down, and those are refused rather than bent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import InvalidArgument

QUOTES = '"""'
# Sampling as in the notes this project follows; num_ctx and stop come from the training.
DEFAULT_PARAMETERS: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "top_k": 40}
SMALLEST_CONTEXT = 512
_PARAMETER = re.compile(r"[a-z0-9_]+")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def default_parameters(max_length: int | None, context: int | None) -> dict[str, Any]:
    """What a model is created with unless the caller says otherwise, stops aside.

    Args:
        max_length: the longest training row allowed, in tokens. Beyond it the model saw nothing in training.
        context: the longest text the base model takes, in tokens.
    """
    num_ctx = max(max_length or 2048, SMALLEST_CONTEXT)
    return {**DEFAULT_PARAMETERS, "num_ctx": min(num_ctx, context) if context else num_ctx}


def modelfile(
    gguf: str,
    *,
    template: str,
    stops: Sequence[str],
    parameters: Mapping[str, Any],
    base: str | None = None,
    system: str | None = None,
    comment: str = "",
) -> str:
    """A Modelfile for a GGUF that lies beside it.

    Args:
        gguf: the file's plain name.
        base: where that is an adapter: what it is put on, the absolute path of a GGUF or the name of a model that
            Ollama has. None: the GGUF is a whole model.
        template: Ollama's TEMPLATE, Go syntax.
        stops: texts that end an answer.
        parameters: name → number, truth value, text or list of texts.
        system: the system prompt.
        comment: one line at the top.

    Raises:
        InvalidArgument: a value cannot be written in a Modelfile.
    """
    if not _FILE.fullmatch(gguf):
        raise InvalidArgument(f"{gguf[:60]!r} is no plain file name.", next="Use letters, digits, dots and dashes.")
    lines = [f"# {' '.join(comment.split())}"] if comment.strip() else []
    for what, text in (("system prompt", system or ""), ("stops", "".join(stops))):
        dropped = unreadable(text)
        if dropped:
            codes = ", ".join(f"U+{ord(character):04X}" for character in dropped[:8])
            lines.append(f"# Characters of the {what} that Ollama drops when it reads this file: {codes}")
    lines += [f"FROM ./{gguf}"] if base is None else [f"FROM {_place(base)}", f"ADAPTER ./{gguf}"]
    lines.append(f"TEMPLATE {quoted(template, 'template')}")
    if system:
        lines.append(f"SYSTEM {quoted(system, 'system')}")
    for name, value in parameters.items():
        if not _PARAMETER.fullmatch(name):
            raise InvalidArgument(f"{name[:40]!r} is no parameter name.", next="Use names such as temperature.")
        values = value if isinstance(value, list | tuple) else [value]
        lines += [f"PARAMETER {name} {_value(item, name)}" for item in values]
    lines += [f"PARAMETER stop {quoted(stop, 'stop')}" for stop in stops]
    return "\n".join(lines) + "\n"


def quoted(text: str, name: str) -> str:
    """`text` between triple quotes, such that Ollama reads it back whole and goes on after it.

    Raises:
        InvalidArgument: it holds what would end the value early.
    """
    # What is dropped on reading can bring quotes together, so look at the text as it will be read.
    read = "".join(character for character in text if not _is_dropped(character))
    before_breaks = re.split(r"[\r\n]", QUOTES + read)[:-1]
    # The opening quotes alone are three characters, too few to be a whole value.
    if any(line.rstrip().endswith(QUOTES) and line.rstrip() != QUOTES for line in before_breaks) or any(
        line.rstrip() == QUOTES for line in before_breaks[1:]
    ):
        raise InvalidArgument(
            f"{name} has a line that ends in three double quotes, which a Modelfile cannot hold: it would end there.",
            next=f"Write three single quotes in {name} instead, or put another character after them.",
        )
    return f"{QUOTES}{text}{QUOTES}"


def unreadable(text: str) -> list[str]:
    """The characters of `text` that Ollama drops when it reads a Modelfile, each once."""
    return sorted({character for character in text if _is_dropped(character)})


def _is_dropped(character: str) -> bool:
    # Go's strconv.IsPrint, which Python's isprintable matches; spaces, tabs and line breaks are kept by the parser.
    return character not in " \t\r\n" and not character.isprintable()


def _place(base: str) -> str:
    """A path or name after FROM: as it is, or quoted where it holds blanks."""
    if unreadable(base) or re.search(r"[\r\n]", base):
        raise InvalidArgument(
            f"The path of the base model holds characters that a Modelfile cannot: {base[:120]!r}.",
            next="Choose another workspace with --workspace, one with a plain path.",
        )
    return base if re.fullmatch(r"[^\s\"#]+", base) else quoted(base, "the path of the base model")


def _value(value: Any, name: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else quoted(str(value), name)
