"""Taking out of answers what tells who wrote them: a judge is not to know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from tunesmith.evaluation.records import Question

HIDDEN = "[name]"
MIN_CHARS = 3
# Families that introduce themselves by name.
_FAMILIES = (
    "chatgpt|claude|codestral|command r|deepseek|falcon|gemini|gemma|glm|gpt|granite|grok|hunyuan|internlm|kimi|llama|"
    "ministral|mistral|mixtral|nemotron|olmo|phi|qwen|qwq|smollm|tulu|vicuna|yi|通义千问|文心一言|豆包|混元"
)
_INTRODUCTION = re.compile(
    r"(?P<before>\b(?:I am|I'm|I’m|my name is|this is|as)\s+(?:an?\s+|the\s+)?|我是|我叫|作为)"
    rf"(?:{_FAMILIES})[\w.:-]*",
    re.IGNORECASE,
)
_EDGE = "[A-Za-z0-9_]"  # Han characters may touch a name


def name_hider(labels: Iterable[str], names: Iterable[str], questions: Sequence[Question]) -> Callable[[str], str]:
    """What takes contestants' names out of a text.

    A name that the questions or references use themselves is part of the matter and stays; so do labels that are
    plain words, such as "base", which answers use in earnest.

    Args:
        labels: as in the report.
        names: of the models, as their references say them.
    """
    matter = "\n".join(
        text for one in questions for text in (*(turn.content for turn in one.messages), one.reference or "")
    ).casefold()
    telling = {name.strip() for name in names} | {label.strip() for label in labels if not _is_word(label.strip())}
    wanted = sorted((one for one in telling if len(one) >= MIN_CHARS and one.casefold() not in matter), key=len)
    # Longest first: of "my-notes-v2" and "my-notes" the whole name is to go.
    pattern = "|".join(rf"(?<!{_EDGE}){re.escape(one)}(?!{_EDGE})" for one in reversed(wanted))
    known = re.compile(pattern, re.IGNORECASE) if pattern else None

    def hide(text: str) -> str:
        plain = known.sub(HIDDEN, text) if known else text
        return _INTRODUCTION.sub(lambda match: match["before"] + HIDDEN, plain)

    return hide


def _is_word(label: str) -> bool:
    return label.isalpha() and label.isascii() and (label.islower() or label.istitle())
