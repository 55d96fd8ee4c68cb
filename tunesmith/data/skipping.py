"""Why a section gave no example."""

from __future__ import annotations

from tunesmith.data.candidates import MIN_ANSWER_CHARS
from tunesmith.data.headings import is_passed_over
from tunesmith.data.sections import Section
from tunesmith.data.strategies.sections import is_metadata


def reason_for(section: Section, max_chars: int) -> str:
    """The first reason that applies to a section in which no strategy found anything."""
    blocks = section.blocks
    text = "\n\n".join(block.text for block in blocks)
    if is_passed_over(section.heading):
        return "only points elsewhere (contents, references, a preview)"
    if all(block.linked for block in blocks):
        return "only links, pictures and pointers to other pages"
    if len(text) < MIN_ANSWER_CHARS:
        return f"its body has fewer than {MIN_ANSWER_CHARS} characters"
    if all(map(is_metadata, blocks)):
        return "only metadata such as dates and tags"
    if all(block.kind == "code" for block in blocks):
        if not section.heading:
            return "only code, and no heading says what it is for"
        return (
            "only code without documentation"
            if len(text) <= max_chars
            else f"only code longer than {max_chars} characters"
        )
    if all(block.kind == "table" for block in blocks):
        return "only a table from which no row could be asked about"
    if all(len(block.text) > max_chars for block in blocks):
        return f"its only block is longer than {max_chars} characters and cannot be cut whole"
    return "the strategies asked for found no question and answer in it"
