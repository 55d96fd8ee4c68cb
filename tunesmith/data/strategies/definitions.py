"""Definitions: lists of terms, "term — meaning" lines, and sentences that define ("X 是指…", "X refers to …")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tunesmith.data.candidates import MIN_ANSWER_CHARS, Candidate, View
from tunesmith.data.headings import is_glossary, is_passed_over
from tunesmith.data.language import Language
from tunesmith.data.questions import in_context, pick, spaced, tidy
from tunesmith.data.sections import Block
from tunesmith.data.text import sentences

PRIORITY = 30

_GENERIC = re.compile(
    r"(?:(?:step|phase|stage|part|option|example|case|day|week|level|tier|question|note|week|pro|con)s?\s*[\dA-Z]{0,3}"
    r"|notes?|tips?|warnings?|important|caution|hint|info|todo|why|how|what|when|where|who|input|output|result|default|before|after"
    r"|required|optional|yes|no|true|false|ok|good|bad|do|don'?t|symptoms?|causes?|fix|solution|problem|answer|summary|goal|usage"
    r""
    r"|q|a|types?|returns?|references?|see also|details|参考|另见|类型"
    r"|返回值?|详情|优点|缺点|注意|提示|警告|示例|例子|步骤|结论|原因|症状|解决|检查|输入|输出|结果|目标|说明|默认|备注|问|答|问题|答案"
    r"|第[\d一二三四五六七八九十]+[步天周章节]"
    r"|(?:步骤|方法|原因|检查|策略|阶段|优势|思考|知识点)\s*[\d一二三四五六七八九十]+|[\d.\W_]+)",
    re.IGNORECASE,
)
_SENTENCE_MARKS = re.compile(r"[。.!！?？；;，]")
_DASHED = re.compile(r"(?P<term>[^\n—–:：。？！]{1,40}?)(?:\s(?:—|–)\s|\s?——\s?)(?P<rest>\S.*)")
_ZH_DEFINES = re.compile(
    r"(?:所谓|[“「]?)(?P<term>[^,，。;；:：\s“”「」(（]{1,16}(?:\s[A-Za-z0-9.+-]{1,20}){0,2}"
    r"|[A-Za-z][\w .+-]{0,30}?)[”」]?"
    r"(?:\s?[(（][^()（）]{1,60}[)）])?\s?[，,]?\s?(?:是指|指的是|就是指|的定义是|定义为)"
)
_EN_DEFINES = re.compile(
    r"(?:An?\s|The\s)?(?P<term>[A-Za-z][\w\-/+]*(?:\s[\w\-/+]+){0,4}?)(?:\s\([^()]{1,60}\))?\s"
    r"(?:is defined as|are defined as|refers to|refer to|stands for|is short for|is the name for|is the term for)\s"
)
_NOT_TERMS = re.compile(
    r"^(?:it|this|that|these|those|they|he|she|we|you|which|what|there|one|the|here|to|see|please|if|when|for|in|also)\b"
    r"|\b(?:can|could|may|might|will|would|shall|should|must|to|not|also|always|never|only|please|both|and|or|users?|I)$"
    r"|^(?:这|那|它|其|也|都|就|还|主要|通常|一般|上述|本|该)",
    re.IGNORECASE,
)
_ZH = ("什么是{t}？", "{t}是什么？", "{t}是什么意思？", "请解释{t}。")
_EN = ("What is {t}?", "What does {t} mean?", "Define {t}.", "Explain the term {t}.")
_ZH_POINTS = ("{h}：{t}是怎么回事？", "关于{h}，{t}指的是什么？", "在{h}中，{t}怎么说？")
_EN_POINTS = (
    'What is {t} in "{h}"?',
    'What do the notes say about {t} under "{h}"?',
    "Explain {t} ({h}).",
    "{h}: what should I know about {t}?",
)


def find(view: View) -> list[Candidate]:
    """Every term that is given with its meaning."""
    found: list[Candidate] = []
    for number in view.free:
        block = view.section.blocks[number]
        if block.kind in ("list", "terms"):
            found += _from_list(view, number, block)
        elif block.kind in ("paragraph", "quote"):
            found += _from_lines(view, number, block) or _from_sentences(view, number, block)
    return found


def _from_list(view: View, number: int, block: Block) -> Iterator[Candidate]:
    # "Fixed: …" in a change log is no definition: without marks, only a glossary's entries are.
    glossary = is_glossary(view.section.heading)
    items = [item for item in block.items if item.term and (item.marked or glossary)]
    # One bold word in a long list is emphasis; a list of definitions is one nearly throughout.
    if not items or (block.kind == "list" and len(items) < max(2, 0.6 * len(block.items))):
        return
    for item in items:
        if (
            _is_term(item.term)
            and not is_passed_over(item.term)
            and MIN_ANSWER_CHARS <= len(item.text) <= view.max_chars
            and len(item.meaning) >= 8
        ):
            yield _candidate(view, number, item.term, item.text, (item.first_line, item.last_line))


def _from_lines(view: View, number: int, block: Block) -> list[Candidate]:
    """Two lines or more, all of the form "term — meaning"."""
    if len(block.lines) < 2 or not ("—" in block.text or "–" in block.text):
        return []
    matches = [(line, text, _DASHED.fullmatch(text)) for line, text in block.lines if text]
    if len(matches) < 2 or not all(match and _is_term(match["term"]) for _line, _text, match in matches):
        return []
    return [
        _candidate(view, number, match["term"].strip(), text, (line, line))
        for line, text, match in matches
        if match and MIN_ANSWER_CHARS <= len(text) <= view.max_chars
    ]


def _from_sentences(view: View, number: int, block: Block) -> list[Candidate]:
    if not any(
        mark in block.text for mark in ("指", "定义", "defined as", "refer", "stands for", "is short for", "is the ")
    ):
        return []
    split = sentences(block.text)
    for position, sentence in enumerate(split):
        match = _ZH_DEFINES.match(sentence) or _EN_DEFINES.match(sentence)
        if not match or not _is_term(match["term"]) or _NOT_TERMS.search(match["term"]):
            continue
        answer = _enough(split[position:], block.text, view.max_chars) if position == 0 else sentence
        if MIN_ANSWER_CHARS <= len(answer) <= view.max_chars:
            lines = (block.first_line, block.last_line)
            return [_candidate(view, number, match["term"].strip(), answer, lines, sentence=True)]
    return []


def _enough(split: Sequence[str], text: str, limit: int) -> str:
    """The whole paragraph where it fits, else its first sentence."""
    return text if len(text) <= limit else split[0]


def _is_term(term: str) -> bool:
    return (
        2 <= len(term) <= 60
        and any(char.isalpha() for char in term)
        and not _GENERIC.fullmatch(term.strip())
        and not _SENTENCE_MARKS.search(term.replace(".", "", 3))
        and len(term.split()) <= 6
    )


def _candidate(
    view: View, number: int, term: str, answer: str, lines: tuple[int, int], *, sentence: bool = False
) -> Candidate:
    language = view.language(answer)
    plain = sentence or is_glossary(view.section.heading)
    question = _ask(view, language, term, plain)
    about = term if plain else f"{view.heading(language)}\x1f{term}"
    return Candidate(about.lower(), in_context(view, language, question), answer, *lines, frozenset([number]))


def _ask(view: View, language: Language, term: str, defined: bool) -> str:
    """ "What is X?" where definitions were announced; else what the section says of X."""
    key = f"{view.path}\x1f{term}"
    if language == "other":
        return term
    if defined or not view.section.heading:
        template = pick(_ZH if language == "zh" else _EN, key)
        return tidy(template.format(t=spaced(term))) if language == "zh" else template.format(t=term)
    heading = view.heading(language)
    if language == "zh":
        return tidy(pick(_ZH_POINTS, key).format(h=heading, t=spaced(term)))
    return pick(_EN_POINTS, key).format(h=heading, t=term)
