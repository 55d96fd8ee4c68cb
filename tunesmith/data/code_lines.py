"""Telling code from prose, line by line, where no fence says so."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.data.language import HAN

_KEYWORD = re.compile(
    r"(?:import [\w.]+|from [\w.]+ import |(?:async )?def \w+\(|class \w+\s*[(:{]|@\w+"
    r"|return\b(?! to| of)|elif |else\s*[:{]"
    r"|(?:if|for|while|with|except)\b.{1,200}[:{]$|try\s*[:{]|except\s*:|finally\s*[:{]"
    r"|raise \w+|print\(|assert |pass$|break$|continue$"
    r"|(?:const|let|var|function|export|public|private|static|void|fn|func|package|use|struct|enum|interface)\s+[\w{*$]"
    r"|#include\b|SELECT\b.{1,200}\bFROM\b|(?:sudo|pip3?|npm|npx|yarn|conda|docker|git|curl|wget|apt(?:-get)?|brew|make|cd|ls|cat|echo|mkdir"
    r"|export|chmod|ollama|python3?|node|cargo|go|kubectl|ssh|source|taskkill|nvidia-smi)\s+[\w./\-$\"'{]"
    r"|FROM \./|PARAMETER \w|SYSTEM \"|TEMPLATE \"|EOF$|\$ \w|>>> )"
)
_ASSIGNMENT = re.compile(
    r"[\w.\[\]\"']{1,60}(?:\s*:\s*[\w\[\], |.]{1,40})?\s*(?:[+\-*/|]?=|:=)\s*(?![=>])[\[({\"'\w\-]"
)
_CALL = re.compile(r"[\w.]+\(.*\)?[,;:{]?$|[\w.]+\($")
_PUNCTUATED = re.compile(
    r"[\])},;{(\[]+$|^[)\]}]+[,;:.)\]}\w\s\[\"']*|.*[;{]$|[\"'].*[\"'][,:].*|\"\"\"|'''|#|//|/\*|\*/|--\w"
)
_ENTRY = re.compile(r"f?r?[\"'][^\"']*[\"']?[,)]?$|[\"'][\w ]+[\"']\s*:")
_BOX = re.compile(r"[\u2500-\u257f]")
_HAN = re.compile(f"[{HAN}]")
_MIN_RUN = 2


def is_code_line(line: str) -> bool:
    """Whether one line, taken alone, is more likely code than prose."""
    bare = line.strip()
    if not bare or _BOX.match(bare):
        return False
    if (
        _KEYWORD.match(bare)
        or _ENTRY.match(bare)
        or _PUNCTUATED.fullmatch(bare)
        or bare.startswith(("#", "//", '"""', "/*", "<|"))
    ):
        return True
    if _ASSIGNMENT.match(bare) and not _HAN.match(bare):
        return not bare.endswith(("。", ".", "\uff09"))
    if _CALL.fullmatch(bare) and not _HAN.match(bare):
        return True
    return bare.endswith(("{", "}", ";", "(", "[", "],", "},", "),", "\\"))


def code_share(lines: Sequence[str]) -> float:
    """The share of lines with something in them that look like code, 0 to 1."""
    filled = [line for line in lines if line.strip()]
    return sum(map(is_code_line, filled)) / len(filled) if filled else 0.0


def code_runs(lines: Sequence[str], bridge: int = 4) -> list[tuple[int, int, bool]]:
    """Split lines into runs of code and prose: (first, past the last, is code), covering all of them.

    Up to `bridge` lines of prose between lines of code belong to the code (strings, docstrings), and so
    do lines between triple quotes that open in code; a single line of code in prose stays prose.
    """
    flags = _flags(lines)
    _fill_gaps(flags, bridge)
    runs: list[tuple[int, int, bool]] = []
    start = 0
    for index in range(1, len(flags) + 1):
        if index == len(flags) or flags[index] != flags[start]:
            runs.append((start, index, flags[start]))
            start = index
    return _without_single_lines(runs)


def _flags(lines: Sequence[str]) -> list[bool]:
    flags: list[bool] = []
    quoted = False
    for line in lines:
        opens = (line.count('"""') + line.count("'''")) % 2 == 1
        flags.append(quoted or opens or is_code_line(line))
        quoted = quoted != opens
    if quoted:  # never closed: the quotes say nothing
        return [is_code_line(line) for line in lines]
    return flags


def _fill_gaps(flags: list[bool], bridge: int) -> None:
    last = -1
    for index, flag in enumerate(flags):
        if not flag:
            continue
        if 0 <= last < index - 1 and index - last - 1 <= bridge:
            flags[last + 1 : index] = [True] * (index - last - 1)
        last = index


def _without_single_lines(runs: list[tuple[int, int, bool]]) -> list[tuple[int, int, bool]]:
    merged: list[tuple[int, int, bool]] = []
    for first, past, code in runs:
        really = code and (past - first >= _MIN_RUN or len(runs) == 1)
        if merged and merged[-1][2] == really:
            merged[-1] = (merged[-1][0], past, really)
        else:
            merged.append((first, past, really))
    return merged
