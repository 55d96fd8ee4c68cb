"""Jupyter notebooks: Markdown cells are read as Markdown, code cells are code, outputs are left out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tunesmith.data.decoding import tidy
from tunesmith.data.markup import fenced
from tunesmith.data.sections import Block, Heading

_NO_TITLE: tuple[str, list[Heading | Block]] = ("", [])


def read_notebook(text: str) -> tuple[str, list[Heading | Block]]:
    """Title (empty), headings and blocks; lines are those of the `.ipynb` file.

    What is no notebook has no sections.
    """
    import orjson

    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError:
        content = _loads(text)
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list):
        return _NO_TITLE
    metadata = content.get("metadata")
    language = _language(metadata if isinstance(metadata, dict) else {})
    places = _Places(text)
    parts: list[Heading | Block] = []
    for cell in cells:
        if isinstance(cell, dict):
            parts += _read_cell(cell, language, places)
    return "", parts


def _loads(text: str) -> Any:
    try:
        return json.loads(text)  # lone surrogates, which orjson refuses
    except (ValueError, RecursionError):
        return None


def _language(metadata: dict[str, Any]) -> str:
    for key, name in (("language_info", "name"), ("kernelspec", "language")):
        found = metadata.get(key)
        if isinstance(found, dict) and isinstance(found.get(name), str):
            return found[name].lower()
    return "python"


def _read_cell(cell: dict[str, Any], language: str, places: _Places) -> list[Heading | Block]:
    from tunesmith.data.markdown import read_markdown

    source = cell.get("source")
    written = source if isinstance(source, list) else [source]
    pieces = [piece for piece in written if isinstance(piece, str)]
    lines = tidy("".join(pieces)).split("\n")
    numbers = places.find("".join(pieces).split("\n"))
    if cell.get("cell_type") == "markdown":
        _title, parts = read_markdown("\n".join(lines))
        return [_moved(part, numbers) for part in parts]
    code = "\n".join(lines).strip("\n")
    if cell.get("cell_type") != "code" or not code.strip():
        return []
    name = "bash" if code.startswith(("!", "%%bash", "%%sh")) else language
    span = (numbers[0], numbers[-1])
    return [Block("code", *span, fenced(code, name), code=code, language=name, code_line=numbers[0])]


class _Places:
    """Finds, in order, the lines of the file that hold the lines of its cells."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = max(text.find('"cells"'), 0)
        self.line = text.count("\n", 0, self.position) + 1

    def find(self, lines: list[str]) -> list[int]:
        """The line of the file for each line of a cell's source."""
        return [self._find(line) for line in lines]

    def _find(self, line: str) -> int:
        if not line.strip():
            return self.line
        written = (json.dumps(line, ensure_ascii=False)[1:-1], json.dumps(line)[1:-1])
        places = [(self.text.find(form, self.position), form) for form in dict.fromkeys(written)]
        found = min(((place, form) for place, form in places if place >= 0), default=None)
        if found:
            place, form = found
            self.line += self.text.count("\n", self.position, place)
            self.position = place + len(form)
        return self.line


def _moved(part: Heading | Block, numbers: list[int]) -> Heading | Block:
    """A part whose lines count from the cell's first, with lines of the file instead."""

    def at(line: int) -> int:
        return numbers[min(max(line - 1, 0), len(numbers) - 1)]

    if isinstance(part, Heading):
        return Heading(part.text, part.level, at(part.line))
    items = tuple(replace(item, first_line=at(item.first_line), last_line=at(item.last_line)) for item in part.items)
    return replace(
        part,
        first_line=at(part.first_line),
        last_line=at(part.last_line),
        lines=tuple((at(number), line) for number, line in part.lines),
        items=items,
        code_line=at(part.code_line),
    )
