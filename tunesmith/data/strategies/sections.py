"""Sections: the heading becomes a question, the body its answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.data.answers import Answer, compose, introduces, without_introduction
from tunesmith.data.candidates import MIN_ANSWER_CHARS, Candidate, View
from tunesmith.data.headings import is_passed_over, needs_context
from tunesmith.data.language import Language, language_of
from tunesmith.data.questions import ask, ask_about, in_context, is_question, pick
from tunesmith.data.sections import Block

PRIORITY = 90  # what all others left

_LEAD = re.compile(r".{2,60}?[:：]\s*$")
# They lead to the next block and to nothing that could be asked about.
_NO_LEAD = re.compile(
    r"(?:like|for example|e\.g|example|note|the following|as follows|then|and|or|so|but|run|see)\b"
    r"|例如|比如|如下|示例|注意|其中|然后",
    re.IGNORECASE,
)
_METADATA = re.compile(
    r"\d{4}[-/年]\d{1,2}[-/月]\d{1,2}日?|(?:日期|作者|标签|分类|更新|版本|阶段|主题|Date|Author|Tags?|Updated|Version|Status|Category)\s*[:：].{0,40}",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\$\$[^$]{1,2000}+\$\$|\$[^$\n]{1,200}+\$")
_LETTER = re.compile(r"[^\W\d_]")
_ZH_PARTS = ("关于{h}，「{l}」具体是怎样的？", "{h}：请说明「{l}」。", "在{h}里，「{l}」怎么讲？")
_EN_PARTS = ('About {h}: what should I know about "{l}"?', '{h}: explain "{l}".', 'What is said about "{l}" in {h}?')


def find(view: View) -> list[Candidate]:
    """One candidate for the section; for one too long, one for each part that introduces itself."""
    if not view.free or is_passed_over(view.section.heading):
        return []
    blocks = view.section.blocks
    if view.taken and not any(blocks[number].is_prose and _says_something(blocks[number]) for number in view.free):
        return []
    kept = _usable([block for number, block in enumerate(blocks) if number not in view.alone])
    if not kept or all(map(is_metadata, kept)):
        return []
    if not view.section.heading and all(block.kind == "code" for block in kept):
        return []  # nothing says what it is for
    length = sum(len(block.text) + 2 for block in kept)
    parts = _parts(kept) if length > view.max_chars + 2 else []
    if len(parts) < 2:
        parts = [("", kept)]
    found = (_candidate(view, lead, _without_title(lead, part)) for lead, part in parts)
    return [candidate for candidate in found if candidate]


def _candidate(view: View, lead: str, part: Sequence[Block]) -> Candidate | None:
    answer = compose(part, view.max_chars)
    if answer is None or len(answer.text) < MIN_ANSWER_CHARS:
        return None
    prose = "\n".join(block.text for block in part if block.is_prose)
    # Code and formulas are in no language, unless their comments are Chinese: one asks in that of the words above.
    said = _FORMULA.sub("", prose) if "$" in prose else prose
    above = (name for name in (lead, view.section.heading) if _LETTER.search(name))
    if not _LETTER.search(said):
        said = answer.text if language_of(answer.text) == "zh" else next(above, answer.text)
    language = view.language(said, lead)
    only_code = all(block.kind == "code" for block in part)
    questions = _ask_part(view, language, lead) if lead else ask_about(view, language, code=only_code)
    about = f"{view.heading(language)}\x1f{lead}".lower()
    return _made(view, about, questions, answer, part)


def _made(view: View, about: str, questions: tuple[str, ...], answer: Answer, part: Sequence[Block]) -> Candidate:
    lines = {block.first_line for block in part}
    used = frozenset(number for number, block in enumerate(view.section.blocks) if block.first_line in lines)
    return Candidate(
        about, questions, answer.text, answer.first_line, answer.last_line, used, shortened=answer.shortened
    )


def _ask_part(view: View, language: Language, lead: str) -> tuple[str, ...]:
    heading = view.heading(language)
    if language == "other":
        return in_context(view, language, f"{heading} – {lead}")
    if is_question(lead, language):
        return in_context(view, language, ask(lead, language, view.path), vague=needs_context(lead))
    question = pick(_ZH_PARTS if language == "zh" else _EN_PARTS, view.path + lead).format(h=heading, l=lead)
    return in_context(view, language, question)


def _parts(blocks: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """The blocks in groups, each begun by a line that introduces it; what comes before the first has no lead."""
    parts: list[tuple[str, list[Block]]] = [("", [])]
    for number, block in enumerate(blocks):
        lead = _lead(block)
        if lead and (number + 1 < len(blocks) or "\n" in block.text):
            parts.append((lead, []))
        parts[-1][1].append(block)
    return [(lead, group) for lead, group in parts if sum(len(block.text) for block in group) >= MIN_ANSWER_CHARS]


def _without_title(lead: str, part: Sequence[Block]) -> Sequence[Block]:
    """A part without its first block where that says no more than the lead, which is in the question."""
    return part[1:] if lead and len(part) > 1 and part[0].text.rstrip(":： ") == lead else part


def _lead(block: Block) -> str:
    if block.kind != "paragraph":
        return ""
    first = block.text.split("\n", 1)[0].strip()
    if needs_context(first) or _NO_LEAD.match(first) or first[:1].islower():
        return ""  # "can be replaced by:" goes on with what came before
    if block.strong and first.rstrip(":： ") == block.strong.rstrip(":： "):
        return block.strong.rstrip(":： ")
    return first.rstrip(":： ") if _LEAD.fullmatch(first) else ""


def _usable(blocks: Sequence[Block]) -> list[Block]:
    """The blocks without what cannot stand in an answer, and what introduced that.

    Left out are code that stood in no fence (pasted, its indentation is lost) and links with no more than their names.
    """
    kept: list[Block] = []
    for block in blocks:
        pasted = block.kind == "code" and block.text == block.code
        if not (pasted or block.linked):
            kept.append(block)
        elif kept:
            before = without_introduction(kept.pop())
            kept += [before] if before else []
    return kept


def _says_something(block: Block) -> bool:
    """Whether a block is more than a line that introduces the next."""
    return not (block.kind == "paragraph" and introduces(block.text)) and not is_metadata(block)


def is_metadata(block: Block) -> bool:
    """Whether a block is only dates, tags and the like."""
    return block.kind == "paragraph" and all(
        _METADATA.fullmatch(line.strip()) for line in block.text.split("\n") if line.strip()
    )
