"""Questions that the author wrote with their answers: Q:/A: lines, folded answers, headings that ask."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tunesmith.data.answers import compose
from tunesmith.data.candidates import MIN_FAQ_ANSWER_CHARS, Candidate, View
from tunesmith.data.headings import ends_as_question, is_passed_over
from tunesmith.data.questions import ask, in_context, is_question
from tunesmith.data.sections import Block, Item
from tunesmith.data.text import cut_at_sentence, unwrap

PRIORITY = 20

_MARK = r"(?:(?:[-*+]|\d{1,3}[.)])\s+)?(?:[^\w\s【\[(（]{1,3}\s*)?[【\[(（]?"
_Q = r"(?:Q|Question|问|问题|提问)\s?\d{0,3}\s?(?:[】\])）]\s?[:：]?|[:：.、)])"
_QUESTION = re.compile(rf"{_MARK}{_Q}\s*(?P<text>\S.*)", re.IGNORECASE)
_ANSWER = re.compile(
    rf"{_MARK}(?:A|Answer|Ans|答|回答|解答|答案)\s?\d{{0,3}}\s?(?:[】\])）]\s?[:：]?|[:：.、)])\s*(?P<text>.*)",
    re.IGNORECASE,
)
_CHOICES = re.compile(rf"{_MARK}A\s?[:：.、)].*[\s。；]B\s?[:：.、)]")  # "A: the northern site. B: the southern site."
_MAY_ASK = re.compile(_Q, re.IGNORECASE)
_ASKED = re.compile(r"[?？][\s*_）)】\]]*$")
_QUESTION_COLUMN = re.compile(r"(?:common |frequent )?(?:questions?|q|faqs?)|(?:常见)?问题|问|提问|疑问", re.IGNORECASE)
_ANSWER_COLUMN = re.compile(
    r"(?:short |the )?(?:answers?|a|replies|reply|responses?)|答案?|回答|解答|回复", re.IGNORECASE
)
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
    blocks = view.section.blocks
    if not (_may_ask(view.section.heading) or any(block.kind == "details" or _may_ask(block.text) for block in blocks)):
        return []
    found = [candidate for pair in _pairs(view) if (candidate := _from_pair(view, pair))]
    for number in view.free:
        if number not in _blocks(found):
            found += _from_block(view, number)
    found += _from_bold(view, _blocks(found))
    heading = view.section.heading
    asks = "?" in heading or "？" in heading or _QUESTION.fullmatch(heading)
    if not found and asks and not is_passed_over(heading):
        found += _from_heading(view)
    return found


def _blocks(found: Sequence[Candidate]) -> frozenset[int]:
    return frozenset[int]().union(*(candidate.blocks for candidate in found))


def _may_ask(text: str) -> bool:
    """Whether a text may hold a question: most sections are told from it at a glance."""
    marked = "?" in text or "？" in text or "How to " in text or "问" in text
    return marked or (("Q" in text or "uestion" in text) and _MAY_ASK.search(text) is not None)


def _pairs(view: View) -> Iterator[_Pair]:
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
            elif answer and not pair.answered and not _CHOICES.match(text):
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


def _from_block(view: View, number: int) -> list[Candidate]:
    """Questions in one block: a folded answer, terms or list entries that ask, rows of a table of questions."""
    block = view.section.blocks[number]
    if block.kind == "table":
        pairs = _table_pairs(block.items)
    elif block.kind == "details":
        pairs = [(_written(item.term), item.meaning, item) for item in block.items]
    elif block.kind in ("list", "terms"):
        pairs = [pair for item in block.items if (pair := _item_pair(item))]
        # One entry that asks among many that tell is rhetoric.
        pairs = pairs if 2 * len(pairs) >= len(block.items) else []
    else:
        return []
    found = (
        _answered(view, question, answer, (item.first_line, item.last_line), frozenset([number]))
        for question, answer, item in pairs
    )
    return [candidate for candidate in found if candidate]


def _table_pairs(rows: Sequence[Item]) -> list[tuple[str, str, Item]]:
    names = [name.strip(" *_") for name in rows[0].cells]
    asked = next((column for column, name in enumerate(names) if _QUESTION_COLUMN.fullmatch(name)), None)
    told = next((column for column, name in enumerate(names) if _ANSWER_COLUMN.fullmatch(name)), None)
    if asked is None or told is None:
        return []
    return [(row.cells[asked], row.cells[told], row) for row in rows[1:] if len(row.cells) > max(asked, told)]


def _item_pair(item: Item) -> tuple[str, str, Item] | None:
    """A list entry of a question and its answer below or behind it."""
    if _ASKED.search(item.term) and item.meaning:
        return item.term, item.text[len(item.term) :].lstrip(" :：—–-\n") or item.meaning, item
    first, _, rest = item.text.partition("\n")
    if not _ASKED.search(first):
        return None
    lines = [line.strip() if "```" not in rest else line for line in rest.strip("\n").split("\n")]
    bulleted = all(line.startswith(("- ", "* ")) for line in lines)
    answer = "\n".join(line[2:] for line in lines) if bulleted and len(lines) == 1 else "\n".join(lines)
    return first, answer, item


def _from_bold(view: View, taken: frozenset[int]) -> list[Candidate]:
    """A bold question or one that ends a list, and what stands behind it up to the next."""
    found: list[Candidate] = []
    blocks = view.section.blocks
    starts = {
        number: question
        for number in view.free
        if (question := _bold(blocks[number])) and (number not in taken or blocks[number].kind == "list")
    }
    ends = [number for number in view.free if blocks[number].strong or number in taken or number in starts]
    for start, question in starts.items():
        stop = next((number for number in ends if number > start), len(blocks))
        own = blocks[start].text[len(question) :].strip() if blocks[start].kind == "paragraph" else ""
        rest = [replace(blocks[start], text=own)] if own else []
        rest += [blocks[number] for number in range(start + 1, stop) if number in view.free]
        answer = compose(rest, view.max_chars)
        if answer:
            span = (blocks[start].first_line, answer.last_line)
            candidate = _answered(view, question, answer.text, span, frozenset(range(start, stop)))
            found += [replace(candidate, shortened=answer.shortened)] if candidate else []
    return found


def _bold(block: Block) -> str:
    """The question a paragraph opens with in bold, or that a list ends with, its answer not indented enough."""
    if block.kind == "list" and block.items:
        last = block.items[-1].text
        return last if "\n" not in last and _ASKED.search(last) else ""
    return block.strong if _ASKED.search(block.strong) else ""


def _answered(
    view: View, question: str, answer: str, lines: tuple[int, int], blocks: frozenset[int]
) -> Candidate | None:
    """The candidate of a question that stands as it is asked; None where the answer says too little."""
    question = " ".join((match["text"] if (match := _QUESTION.fullmatch(question)) else question).split())
    match = _ANSWER.match(answer)
    whole = answer[match.start("text") :].strip() if match else answer.strip()
    kept = whole if len(whole) <= view.max_chars else cut_at_sentence(whole, view.max_chars)
    if not question or len(kept) < MIN_FAQ_ANSWER_CHARS or kept.count("```") % 2:
        return None
    questions = in_context(view, view.language(kept), question)
    return Candidate(question, questions, kept, *lines, blocks, alone=True, shortened=kept != whole)


def _written(summary: str) -> str:
    """What a folded answer is shown under, where that asks or says what to do; "History" and "Show more" do neither."""
    if _ASKED.search(summary) or _QUESTION.fullmatch(summary):
        return summary
    for language in ("zh", "en"):
        asked = ask(summary, language, summary)
        if is_question(summary, language) or asked.startswith("How do I "):
            return asked
    return ""


def _from_heading(view: View) -> list[Candidate]:
    blocks = [view.section.blocks[number] for number in view.free if not view.section.blocks[number].linked]
    answer = compose(blocks, view.max_chars)
    if answer is None:
        return []
    language = view.language("\n".join(block.text for block in blocks if block.is_prose))
    heading = view.heading(language)
    if not (ends_as_question(heading) or _QUESTION.fullmatch(heading)):
        return []
    lines = (answer.first_line, answer.last_line)
    candidate = _answered(view, heading, answer.text, lines, frozenset(view.free))
    return [replace(candidate, shortened=answer.shortened)] if candidate else []
