"""Tables: each row answers what the table says of its first cell."""

from __future__ import annotations

import re
from collections import Counter

from tunesmith.data.candidates import MIN_ANSWER_CHARS, Candidate, View
from tunesmith.data.headings import is_passed_over
from tunesmith.data.language import Language
from tunesmith.data.pointers import only_points
from tunesmith.data.questions import in_context, lower_first, pick, spaced, tidy
from tunesmith.data.sections import Block, Item

PRIORITY = 50

_NUMBERING = re.compile(r"(?:#|no\.?|nr\.?|id|序号|编号|行)", re.IGNORECASE)
_CLAUSE = re.compile(
    r"^(?:what|how|who|why|when|where|which|is|can)\b|\b(?:for|by|to|of|in|on|at|with|from)$", re.IGNORECASE
)
_ENDS = re.compile(r"[。.!！?？；;]$")
_EN = (
    'What does "{h}" say about {k}?',
    "{h}: what is listed for {k}?",
    "What are the details for {k} in {h}?",
    "Look up {k} in {h}.",
)
_ZH = ("{h}里{k}对应的内容是什么？", "在{h}中，{k}是什么情况？", "查一下{h}里的{k}。", "{h}：{k}那一行写了什么？")
_EN_TWO = ("What is the {c} for {k} in {h}?", "{h}: what is the {c} of {k}?", "Give the {c} for {k} ({h}).")
_ZH_TWO = ("{h}中{k}的{c}是什么？", "在{h}里，{k}的{c}是什么？", "{k}的{c}是什么（见{h}）？")


def find(view: View) -> list[Candidate]:
    """One candidate for each row of each table that has a key and something to say about it."""
    if is_passed_over(view.section.heading):
        return []
    found: list[Candidate] = []
    for number in view.free:
        block = view.section.blocks[number]
        if block.kind == "table":
            found += _from_table(view, number, block)
    return found


def _from_table(view: View, number: int, block: Block) -> list[Candidate]:
    header, *rows = block.items
    column = 1 if len(header.cells) > 2 and _NUMBERING.fullmatch(header.cells[0]) else 0
    keys = [row.cells[column] if len(row.cells) > column else "" for row in rows]
    count = Counter(keys)
    found: list[Candidate] = []
    for row, key in zip(rows, keys, strict=True):
        # A key that stands on several rows does not tell them apart.
        if count[key] == 1 and len(key) <= 80 and any(char.isalnum() for char in key):
            candidate = _from_row(view, number, header, row, column)
            found += [candidate] if candidate else []
    return found


def _from_row(view: View, number: int, header: Item, row: Item, column: int) -> Candidate | None:
    pairs = list(zip(header.cells, row.cells, strict=False))
    key_name, key = pairs[column]
    others = [(name, cell) for index, (name, cell) in enumerate(pairs) if index != column and _has_words(cell)]
    if not others or (column == 1 and not others):
        return None
    language = view.language(" ".join(row.cells))
    answer = _sentence([(key_name, key), *others], language)
    if not MIN_ANSWER_CHARS <= len(answer) <= view.max_chars:
        return None
    question = _ask(view, language, key, others)
    return Candidate(
        f"{view.heading(language)}\x1f{key}".lower(),
        in_context(view, language, question),
        answer,
        header.first_line,
        row.last_line,
        frozenset([number]),
    )


def _has_words(cell: str) -> bool:
    if only_points(cell):
        return False
    return any(char.isalnum() for char in cell) or any(char in cell for char in "✓✔✅✗✘❌")


def _sentence(pairs: list[tuple[str, str]], language: Language) -> str:
    """ "Code: E11. Meaning: battery low. …", the cells as they are."""
    colon, gap = ("：", "") if language == "zh" else (": ", " ")
    pieces = [f"{name}{colon}{cell}" if name else cell for name, cell in pairs]
    stop = "。" if language == "zh" else "."
    return gap.join(piece if _ENDS.search(piece) else piece + stop for piece in pieces)


def _ask(view: View, language: Language, key: str, others: list[tuple[str, str]]) -> str:
    where = f"{view.path}\x1f{key}"
    heading = view.heading(language)
    if language == "other":
        return f"{heading} – {key}"
    two = len(others) == 1 and others[0][0] and len(others[0][0]) <= 30 and _is_noun(others[0][0], language)
    if language == "zh":
        templates = _ZH_TWO if two else _ZH
        return tidy(pick(templates, where).format(h=heading, k=spaced(key), c=spaced(others[0][0])))
    templates = _EN_TWO if two else _EN
    return pick(templates, where).format(h=heading, k=key, c=lower_first(others[0][0], view.text))


def _is_noun(name: str, language: Language) -> bool:
    """Whether "the … of" can go before a column's name: one or two words, no clause, no "Used for"."""
    return language == "zh" or (len(name.split()) <= 2 and not _CLAUSE.search(name))
