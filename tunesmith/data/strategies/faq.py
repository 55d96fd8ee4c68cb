"""Questions that the author wrote with their answers: Q:/A: lines, folded answers, headings that ask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tunesmith.data.answers import compose
from tunesmith.data.candidates import MIN_FAQ_ANSWER_CHARS, Candidate, View
from tunesmith.data.headings import ends_as_question, is_passed_over
from tunesmith.data.questions import in_context
from tunesmith.data.sections import Block
from tunesmith.data.text import cut_at_sentence, unwrap

PRIORITY = 20

_QUESTION = re.compile(
    r"(?:[-*+]\s+)?(?:Q|Question|问|问题|提问)\s?\d{0,3}\s?[:：.、)]\s*(?P<text>\S.*)", re.IGNORECASE
)
_ANSWER = re.compile(
    r"(?:[-*+]\s+)?(?:A|Answer|Ans|答|回答|解答|答案)\s?\d{0,3}\s?[:：.、)]\s*(?P<text>.*)", re.IGNORECASE
)
_MAY_ASK = re.compile(r"(?:Q|Question|问|问题|提问)\s?\d{0,3}\s?[:：.、)]", re.IGNORECASE)
_MAX_QUESTION_LINES = 3


@dataclass
class _Pair:
    """A question and its answer while they are read."""

    first_line: int
    last_line: int
    question: list[str]
    answered: bool = False
    answer: list[str] = field(default_factory=list)
    blocks: set[int] = field(default_factory=set)


def find(view: View) -> list[Candidate]:
    """Every written question of the section."""
    found = [candidate for pair in _pairs(view) if (candidate := _from_pair(view, pair))]
    found += [candidate for number in view.free if (candidate := _from_details(view, number))]
    if not found and "?" in view.section.heading.replace("？", "?") and not is_passed_over(view.section.heading):
        found += _from_heading(view)
    return found


def _pairs(view: View) -> Iterator[_Pair]:
    if not any(_MAY_ASK.search(block.text) for block in view.section.blocks):
        return
    pair: _Pair | None = None
    for number in view.free:
        block = view.section.blocks[number]
        for line, text in _lines(block):
            question = _QUESTION.fullmatch(text)
            answer = _ANSWER.fullmatch(text)
            if question:
                if pair and pair.answered:
                    yield pair
                pair = _Pair(line, line, [question["text"]], blocks={number})
            elif pair is None:
                continue
            elif answer and not pair.answered:
                pair.answered = True
                pair.answer.append(answer["text"])
            elif pair.answered:
                pair.answer.append(text)
            elif len(pair.question) < _MAX_QUESTION_LINES:
                pair.question.append(text)
            else:
                pair = None
                continue
            pair.blocks.add(number)
            pair.last_line = line
        if pair and not _goes_on(view, number, pair):
            if pair.answered:
                yield pair
            pair = None
        elif pair and pair.answered:
            pair.answer.append("")
    if pair and pair.answered:
        yield pair


def _lines(block: Block) -> list[tuple[int, str]]:
    """A block line by line; code and tables keep their text whole, at the line where they begin."""
    if block.kind in ("paragraph", "quote") and block.lines:
        return list(block.lines)
    if block.kind == "list":
        lines = [text for item in block.items for text in _item_lines(item.text)]
        if any(_QUESTION.fullmatch(line) for line in lines):
            return [
                (min(item.first_line + offset, item.last_line), text)
                for item in block.items
                for offset, text in enumerate(_item_lines(item.text))
            ]
    return [(block.last_line, block.text)]


def _item_lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _goes_on(view: View, number: int, pair: _Pair) -> bool:
    """Whether the block after `number` belongs to the pair: always before its answer and before a next question."""
    later = [other for other in view.free if other > number]
    if not later:
        return False
    if not pair.answered or not any(text for text in pair.answer):
        return True
    following = view.section.blocks[later[0]]
    if following.kind == "details":
        return False
    if following.kind != "paragraph" or any(_QUESTION.fullmatch(text) for _line, text in following.lines):
        return True
    return any(_QUESTION.fullmatch(text) for other in later[1:] for _line, text in _lines(view.section.blocks[other]))


def _from_pair(view: View, pair: _Pair) -> Candidate | None:
    question = " ".join(part.strip() for part in pair.question if part.strip())
    paragraphs = re.split(r"\n\n+", "\n".join(pair.answer).strip())
    answer = "\n\n".join(paragraph if "```" in paragraph else unwrap(paragraph) for paragraph in paragraphs)
    shortened = len(answer) > view.max_chars
    if shortened:
        answer = "" if "```" in answer or "\n|" in answer else cut_at_sentence(answer, view.max_chars)
    if len(answer) < MIN_FAQ_ANSWER_CHARS or not question:
        return None
    questions = in_context(view, view.language(f"{question}\n{answer}"), question)
    return Candidate(
        question,
        questions,
        answer,
        pair.first_line,
        pair.last_line,
        frozenset(pair.blocks),
        alone=True,
        shortened=shortened,
    )


def _from_details(view: View, number: int) -> Candidate | None:
    block = view.section.blocks[number]
    if block.kind != "details" or not block.items:
        return None
    item = block.items[0]
    answer = item.meaning if len(item.meaning) <= view.max_chars else cut_at_sentence(item.meaning, view.max_chars)
    if len(answer) < MIN_FAQ_ANSWER_CHARS or answer.count("```") % 2:
        return None
    questions = in_context(view, view.language(answer), item.term)
    return Candidate(
        item.term,
        questions,
        answer,
        item.first_line,
        item.last_line,
        frozenset([number]),
        alone=True,
        shortened=answer != item.meaning,
    )


def _from_heading(view: View) -> list[Candidate]:
    blocks = [view.section.blocks[number] for number in view.free]
    answer = compose(blocks, view.max_chars)
    if answer is None or len(answer.text) < MIN_FAQ_ANSWER_CHARS or all(block.linked for block in blocks):
        return []
    language = view.language("\n".join(block.text for block in blocks if block.is_prose))
    if not ends_as_question(view.heading(language)):
        return []
    questions = in_context(view, language, view.heading(language))
    taken = frozenset(view.free)
    return [
        Candidate(
            view.heading(language),
            questions,
            answer.text,
            answer.first_line,
            answer.last_line,
            taken,
            alone=True,
            shortened=answer.shortened,
        )
    ]
