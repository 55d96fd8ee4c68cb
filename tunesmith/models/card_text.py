"""Texts of others, written so that they mean nothing to YAML, Markdown or HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&!])")


def yaml_text(text: str) -> str:
    """A YAML string in double quotes, whatever it holds."""
    return '"' + "".join(_yaml_character(character) for character in text) + '"'


def _yaml_character(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    if 0xD800 <= code <= 0xDFFF:  # half of a pair, which no file can hold
        return "\ufffd"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def line(text: str) -> str:
    """On one line, with nothing that Markdown would read."""
    return _MARKUP.sub(r"\\\1", _visible(text))


def code(text: str) -> str:
    """On one line, as code."""
    plain = _visible(text).replace("`", "'")
    return f"`{plain}`" if plain else "–"


def code_cell(text: str) -> str:
    """The same in a table, where a bar would end the cell."""
    return code(text).replace("|", "\\|")


def fenced(text: str, language: str = "") -> str:
    """As a block of code, between more backticks than it holds itself."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; empty without rows."""
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def settings(values: Mapping[str, Any]) -> str:
    """A table of names and values; those that are not set are left out."""
    return table(
        ("setting", "value"), [(code_cell(name), line(_shown(v))) for name, v in values.items() if v is not None]
    )


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text) - 300} more characters)"


def _visible(text: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
