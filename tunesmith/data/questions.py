"""Questions for headings, in the language of the text under them.

Which wording is used hangs on the SHA-256 of the heading's path: varied over a document, the same every time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from tunesmith.data.candidates import View
from tunesmith.data.headings import ends_as_question, needs_context
from tunesmith.data.language import HAN, Language

_ZH_ASKS = re.compile(
    r"什么|怎么|怎样|如何|为何|哪|多久|多少|多大|多长|多远|多深|几[个种步次年天台人]|是否|谁|吗$|能不能|可不可以|值不值"
)
_HOW_TO = re.compile(r"How to (?=\w)", re.IGNORECASE)
_AUXILIARY = r"(?:is|are|do|does|did|can|should|would|will|must|was|were|happens|happened)\s"
_DIRECT = re.compile(
    rf"(?:What|Who|Where|When|Why|How)(?:'s\s|\s{_AUXILIARY})"
    rf"|(?:How\s(?:much|many|long|often|far|big|soon)|Which|What kind of)"
    rf"\s(?:\w+\s){{0,2}}?{_AUXILIARY}|(?:Can|Could|Does|Did|Should|May)\s(?!not\b)\w"
    r"|(?:Is|Are|Do|Will|Would|Must|Has|Have)\s(?:I|you|we|it|there|the|my|this|that|they)\s",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"(?:What|Who|Where|Why|How|Which|Whether)\b", re.IGNORECASE)
_MOMENT = re.compile(r"(?:When|If|Before|After|While)\s", re.IGNORECASE)
_TO_DO = re.compile(
    r"(?:Install|Create|Run|Use|Set up|Set|Configure|Build|Add|Remove|Connect|Update|Upgrade|Export|Import|Check|Start"
    r"|Stop|Open|Write|Read|Deploy|Test|Train|Load|Save|Convert|Choose|Enable|Disable|Make|Get|Define|Handle|Replace|Clean|Download"
    r"|Send|Verify)"
    r"\s+(?:the|a|an|your|it|up|to|from|with|all|new|another|one|any)\b",
    re.IGNORECASE,
)
_GERUND = re.compile(r"[A-Z]?[a-z]{3,}ing\s+(?:[a-z]|[A-Z][a-z])")
_ORDINARY = frozenset(
    (  # noqa: SIM905
        "the a an what who where why how which when if before after name names description default type value values"
        " meaning notes purpose example examples required status action command option result reason price unit version"
    ).split()
)
_LOOK_CHARS = 200_000
_HAN = re.compile(f"[{HAN}]")
_STRAY_SPACE = re.compile(r" (?=[。？，：」）])|(?<=[。？，：「（]) ")
_END = re.compile(r"[\s:：。.]+$")

_ZH_NAMES = (
    "请介绍一下{h}。",
    "{h}的要点是什么？",
    "关于{h}，需要知道什么？",
    "请说明{h}。",
    "能讲讲{h}吗？",
    "{h}具体是什么情况？",
    "{h}是怎么回事？",
    "笔记里对{h}是怎么说的？",
)
_EN_NAMES = (
    "What should I know about {h}?",
    "Tell me about {h}.",
    "Can you explain {h}?",
    "What do the notes say about {h}?",
    "Give me the key facts about {h}.",
    "Please describe {h}.",
    "How would you explain {h}?",
    "What is important about {h}?",
)
_EN_CLAUSES = (
    "Can you tell me {h}?",
    "Please explain {h}.",
    "I would like to know {h}.",
    "Tell me {h}.",
    "Do you know {h}?",
)
_EN_MOMENTS = ("What happens {h}?", "What should I know {h}?", "What applies {h}?")
_EN_GERUNDS = ("What should I know about {h}?", "How does {h} work?", "What do the notes say about {h}?")
# Of a heading that says too little ("Usage", "概述"): the part of something else that it is.
_ZH_PARTS = ("{t}的「{h}」部分讲了什么？", "{t}：「{h}」里写了什么？", "请说明{t}的「{h}」。")
_EN_PARTS = (
    'What does the "{h}" section of {t} say?',
    '{t}: what is in "{h}"?',
    'What is written under "{h}" for {t}?',
)
_EN_CODE = ("Show the code for {h}.", "What does the code for {h} look like?", "Give a code example for {h}.")
_ZH_CODE = ("请给出{h}的代码。", "{h}的代码怎么写？", "{h}的代码示例是什么样的？")
_ZH_ABOUT = ("关于「{t}」：{q}", "在「{t}」这部分，{q}", "「{t}」：{q}")
_EN_ABOUT = ("About {t}: {q}", "Regarding {t}: {q}", "{t}: {q}")


def pick(options: Sequence[str], key: str) -> str:
    """One of the options, by the SHA-256 of `key`."""
    digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
    return options[int.from_bytes(digest[:4], "big") % len(options)]


def ask_about(view: View, language: Language, *, code: bool = False) -> tuple[str, ...]:
    """Ways to ask what stands under a section's heading, ever more of its surroundings named."""
    heading = _END.sub("", view.heading(language))
    if not code and language != "other" and needs_context(heading) and not is_question(heading, language):
        topics = [topic for topic in view.topics(language, own=False) if topic != heading]
        if topics:
            whole = (" / " if language == "zh" else ", ").join(reversed(topics))
            template = pick(_ZH_PARTS if language == "zh" else _EN_PARTS, view.path)
            asked = (template.format(t=topic, h=heading) for topic in (topics[0], whole))
            return tuple(dict.fromkeys(map(tidy, asked) if language == "zh" else asked))
    question = _ask_for_code(heading, view, language) if code else ask(heading, language, view.path, view.text)
    return in_context(view, language, question, vague=needs_context(heading), own=False)


def in_context(
    view: View, language: Language, question: str, *, vague: bool = False, own: bool = True
) -> tuple[str, ...]:
    """A question alone, with the nearest topic, and with all.

    Args:
        vague: it says too little alone.
        own: the section's heading is a topic too; not when the question is the heading's.
    """
    topics = view.topics(language, own=own)
    topics = [topic for topic in topics if topic not in question] or topics
    if not topics:
        return (question,)
    if language == "other":
        options = [question, f"{topics[0]} – {question}", f"{' – '.join(reversed(topics))} – {question}"]
    else:
        about = pick(_ZH_ABOUT if language == "zh" else _EN_ABOUT, view.path)
        whole = (" / " if language == "zh" else ", ").join(reversed(topics))
        options = [question, *(about.format(t=topic, q=question) for topic in (topics[0], whole))]
    return tuple(dict.fromkeys(options[1:] if vague else options))


def is_question(heading: str, language: Language) -> bool:
    """Whether a heading asks, with or without its question mark."""
    if ends_as_question(heading):
        return True
    pattern = _ZH_ASKS if language == "zh" else _DIRECT
    return language != "other" and bool(pattern.search(heading) if language == "zh" else pattern.match(heading))


def ask(heading: str, language: Language, key: str, text: str = "") -> str:
    """One question about a heading.

    Args:
        heading: without numbering, in `language` where it is bilingual.
        language: of the question; a heading of another language than Chinese and English asks for itself.
        key: what the choice of wording hangs on.
        text: the document, in which an ordinary word is found in lower case too.
    """
    if ends_as_question(heading) or language == "other":
        return heading
    if language == "zh":
        asks = _ZH_ASKS.search(heading) and "？" not in heading and "?" not in heading
        return f"{heading}？" if asks else tidy(pick(_ZH_NAMES, key).format(h=spaced(heading)))
    if _HAN.search(heading):
        return pick(_EN_NAMES, key).format(h=f'"{heading}"')
    if _DIRECT.match(heading):
        return f"{heading}?"
    phrase = lower_first(heading, text)
    if match := _HOW_TO.match(heading):
        return f"How do I {heading[match.end() :]}?"
    if _GERUND.match(heading):
        return pick(_EN_GERUNDS, key).format(h=phrase)
    for pattern, options in ((_CLAUSE, _EN_CLAUSES), (_MOMENT, _EN_MOMENTS)):
        if pattern.match(heading):
            return pick(options, key).format(h=phrase[0].lower() + phrase[1:])
    if _TO_DO.match(heading):
        return f"How do I {heading[0].lower()}{heading[1:]}?"
    return pick(_EN_NAMES, key).format(h=phrase)


def _ask_for_code(heading: str, view: View, language: Language) -> str:
    if ends_as_question(heading) or language == "other":
        return heading
    if language == "zh":
        return tidy(pick(_ZH_CODE, view.path).format(h=spaced(heading)))
    phrase = f'"{heading}"' if _HAN.search(heading) else lower_first(heading, view.text)
    return pick(_EN_CODE, view.path).format(h=phrase)


def lower_first(heading: str, text: str) -> str:
    """A heading inside a sentence: its first word in lower case when it is an ordinary word of the document."""
    word, _, rest = heading.partition(" ")
    # "Error Code Table" is a title throughout; "Interval limits" only begins like one.
    titled = any(other[0].isupper() and other[1:].islower() for other in rest.split() if len(other) > 3)
    if not word.isalpha() or not word[1:].islower() or titled:
        return heading
    lower = word.lower()
    # Not all of a long text: this is asked for every heading.
    ordinary = lower in _ORDINARY or text.find(f" {lower} ", 0, _LOOK_CHARS) >= 0
    return f"{lower} {rest}".rstrip() if ordinary else heading


def tidy(question: str) -> str:
    """A Chinese question without the spaces that a Latin word left beside punctuation."""
    return _STRAY_SPACE.sub("", question).strip()


def spaced(heading: str) -> str:
    """A heading that ends in Latin letters is set off from the Han characters around it."""
    left = "" if _HAN.match(heading) or not heading[:1].isalnum() else " "
    right = " " if heading[-1:].isascii() and heading[-1:].isalnum() else ""
    return f"{left}{heading}{right}"
