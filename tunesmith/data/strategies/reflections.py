"""Reflections: "### 思考1: …" asks what the author thinks, the body says it."""

from __future__ import annotations

import re

from tunesmith.data.answers import compose
from tunesmith.data.candidates import MIN_ANSWER_CHARS, Candidate, View
from tunesmith.data.questions import in_context, pick

PRIORITY = 10

_REFLECTION = re.compile(
    r"(?:思考|反思|感悟|心得|Reflections?|Thoughts?|Takeaways?)\s?[\d一二三四五六七八九十]{0,3}\s?[:：.、]\s*\S",
    re.IGNORECASE,
)
_ZH = ("你对「{t}」有什么思考？", "关于「{t}」，你怎么看？", "谈谈你对「{t}」的想法。", "「{t}」这一点给了你什么启发？")
_EN = (
    'What are your thoughts on "{t}"?',
    'What did you take away from "{t}"?',
    'How do you see "{t}"?',
    'Share your reflection on "{t}".',
)


def find(view: View) -> list[Candidate]:
    """One candidate for a section whose heading announces a reflection."""
    if not view.free or not _REFLECTION.match(view.section.heading):
        return []
    blocks = [view.section.blocks[number] for number in view.free]
    answer = compose(blocks, view.max_chars)
    if answer is None or len(answer.text) < MIN_ANSWER_CHARS:
        return []
    language = view.language("\n".join(block.text for block in blocks if block.is_prose))
    title = view.heading(language)
    question = title if language == "other" else pick(_ZH if language == "zh" else _EN, view.path).format(t=title)
    return [
        Candidate(
            title,
            in_context(view, language, question),
            answer.text,
            answer.first_line,
            answer.last_line,
            frozenset(view.free),
            alone=True,
            shortened=answer.shortened,
        )
    ]
