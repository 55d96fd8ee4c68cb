"""Defects seen in the words of a row: markup, placeholders, cut-off answers, another language."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunesmith.data.checks.endings import CODE_LIKE, FENCE, SENTENCE_LINE, truncation
from tunesmith.data.checks.findings import Finding
from tunesmith.data.language import HAN, foreign_language, language_of
from tunesmith.data.records import Row

_MARKUP_TAG = re.compile(r"(?i)<!doctype|<html|<body|<table|<form")
_ASKS_FOR_MARKUP = re.compile(r"(?i)html|markup|markdown|web ?page|website|<\w+>|网页|标签(?!页)|模板|前端")
_FIRST_FENCE = re.compile(r"(?:```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:\n[ \t]*(?:```|~~~)|\Z)", re.DOTALL)
_SAID = re.compile(rf"{SENTENCE_LINE.pattern}|^(?:[0-9]{{1,2}}[.、]|[-*•]) ?\w[\w ,'’-]*[.。]?$")
_PROSE_FENCES = {"markdown", "md", "text", "txt", "plaintext", "plain"}
_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`", re.DOTALL)
_TILDES = re.compile(r"^ {0,3}~~~", re.MULTILINE)
_RULE_START = re.compile(r"(?:---|\*\*\*(?!\w)|___(?!\w)|\+\+\+\s)")
_LAST_HEADING = re.compile(r"\n#{1,6} [^\n]+\s*\Z")
_RULE_END = re.compile(r"\n[ \t]*(?:-{3,}|\*{3,}|_{3,})\s*\Z")
_PAGE_MARKUP = re.compile(
    r"!\[[^\]\n]*\]\([^)\n]+\)|\[(?:TOC|toc)\]|\[\^(?:[0-9]{1,3}|note[\w-]{0,20})\]|^\[\^[^\]\n]+\]:|\]\((?:\.{1,2}/|#)[^)\n]*\)"
    r"|\]\((?![a-z]+:)[^()\s]{1,200}\.(?:md|mdx|rst|html?|ipynb)(?:#[^()\s]*)?\)"
    r"|(?<!\w)\[[^\[\]\n]{1,80}\]\[[A-Za-z][\w.-]{0,30}\]|^ {0,3}\[[^\[\]\n]{1,40}\]: +\S*[/.#]\w\S*[ \t]*$"
    rf"|\[\[[A-Za-z{HAN}][^\[\]\n,'\"]{{0,60}}\]\]|\{{[#.][A-Za-z][\w-]{{0,40}}\}}|\{{:\s*[.#][\w-]+"
    r"|\{%-?\s*\w+|\{\{[<%]|^:::|:::(?:tip|note|info|warning|caution|danger|details)|!!!\s+(?:note|tip|info|warning|danger)"
    r"|^!!!\s+\w+|^\s*参照文档|[（(。]参照文档",
    re.MULTILINE,
)
_PAGE_TAG = re.compile(
    r"<!--|^\s*-->|</?(?:div|span|details|summary|center|font|br|p|sup|kbd)\b[^<>\n]*>"
    r"|<a\s+(?:name|id)=|<img\s[^<>\n]*>|&(?:nbsp|lt|gt|amp|quot|#[0-9]{2,5});",
    re.MULTILINE,
)
_PLACEHOLDER = re.compile(
    r"(?<!\$)\{\{(?=[^{}\n]{0,58}[^\W_]{2})[^{}\n]{1,60}\}\}"
    r"|\{%-? *\w{2,20}[._][\w.]{1,30} *-?%\}"
    r"|(?<![A-Za-z])(?:TODO|FIXME|TBD)(?![A-Za-z])(?! ?(?:list|app|item|清单|列表|应用|项))"
    r"|[Ll]orem [Ii]psum"
    r"|(?=X{3}|x{4})(?<![A-Za-z0-9./:_-])(?<!Bowl )(?<!Part )(?<!Chapter )(?<!Book )(?:X{3,}|x{4,})(?![A-Za-z0-9])"
    r"|<(?:NAME|EMAIL|DATE|ADDRESS|COMPANY|PHONE|CITY|URL|FIRST NAME|LAST NAME|FULL NAME|COMPANY NAME)>"
    r"|[（(](?:insert|Insert|INSERT)\s(?:an? |the |your )?(?:example|name|date|link|text|number|address|company|image"
    r"|title)\b[^()\n]{0,30}[)）]"
    r"|(?:^|[:：,，] ?)to be (?:added|completed|determined|filled in)\.?$"
    r"|_{2,} ?年 ?_{2,} ?月|内容待[填补定]|[（(【\[]待[填补定]"
    r"|<(?:[Yy]our|YOUR|[Ii]nsert|INSERT|[Pp]laceholder|PLACEHOLDER|请|此处|填|你的|您的)[^<>\n]{0,40}>"
    r"|\[(?:INSERT|Insert|insert|PLACEHOLDER|Placeholder|placeholder|请|此处|待|填|插入)[^\[\]\n]{0,40}\]"
    r"|【(?:请|此处|待|填|插入)[^】\n]{0,30}】"
    r"|(?<![A-Za-z])your[_-](?:[\w-]+[_-])?here(?![A-Za-z])"
    r"|(?<![A-Za-z])x{3,}@x{2,}\."
    r"|(?<![A-Za-z0-9])(?:X{2,}|×{2,}|某某)"
    r"(?:公司|大学|学院|学校|先生|女士|小姐|老师|同学|部门|项目|产品|市|省|专业|职位|单位|有限)"
    r"|[\[【（(](?:您|你)的(?:姓名|名字|公司|职位|电话|邮箱|地址|联系方式|学校)[^\]】）)\n]{0,10}[\]】）)]"
    r"|[\[【](?:姓名|名字|日期|公司名?称?|地址|电话|联系人|收件人|客户姓名|职位|时间|地点"
    r"|产品名称?|链接|图片)[\]】](?!\()"
    r"|待补充|待完善|待填写|此处填写|此处省略|示例文本|占位文本",
    re.MULTILINE,
)
_LETTER_PLACEHOLDER = re.compile(
    r"\[(?:[Yy]our|YOUR) [^\[\]\n]{1,40}\](?!\()"
    r"|\[(?:(?:Recipient|Customer|Client|Company|Manager|Employee|Sender|Salesperson|Product|Candidate|Friend"
    r"|Hiring Manager)(?:['’]s)?(?: Name)?|Name|Date|Address|Title|Phone Number|Email Address"
    r"|Signature|Position|Job Title|City|State|City, State(?:,? Zip(?: Code)?)?|Street Address)\](?!\()"
)
# What templates fill in, by itself in a line of prose: `${product}`, `%(user)s`, `{name}`.
# One of these is in every placeholder; looking for them first saves most texts the patterns.
_PLACEHOLDER_MARKS = (
    *(
        "{{",
        "{%",
        "[",
        "【",
        "<",
        "XX",
        "xxx",
        "××",
        "某某",
        "TODO",
        "FIXME",
        "TBD",
        "orem ",
        "your_",
        "your-",
        "待",
        "此处",
    ),
    *("示例文本", "占位文本", "(insert", "(Insert", "(INSERT", "to be ", "__", "您的", "你的"),
)
_WANTS_TEMPLATE = re.compile(r"(?i)\btemplate|(?<![\[<{(])placeholder|fill[- ]in|模板|占位符?[^）)\]】]|范本|填空")
_VARIABLE = re.compile(
    r"\$\{[A-Za-z_][\w.]{1,30}\}|%\([A-Za-z_]\w{1,30}\)s|(?<![A-Za-z0-9_{}$\\])\{[A-Za-z_]{3,30}\}(?!\})"
)
_CODE_LINE = re.compile(r"[;=<>`\\\"\[\]]|\(f?'|\bprint\b")
_ASKS_FOR_TEMPLATE = re.compile(
    r"(?i)template|format string|variable|script|code|program|function|python|java|bash|shell|sql|latex|regex|yaml|json"
    r"|模板|变量|脚本|代码|程序|函数|命令|集合|表达式"
)
# A blank to write in, within a sentence. Forms and exercises have them rightly.
_WORDS = re.compile(rf"[A-Za-z]{{2,}}[ :] ?[A-Za-z_]{{2,}}|[{HAN}]{{2}}")
_BLANK = re.compile(r"(?<=[ \w:：,，])_{5,}|_{5,}(?=[ \w,，.。])")
_ASKS_FOR_BLANKS = re.compile(
    r"(?i)blank|form\b|quiz|survey|worksheet|template|question|contract|exercise|test|letter|puzzle|riddle|__"
    r"|填空|表|问卷|模板|试|合同|题|练习|协议|信"
)
_HAN = re.compile(f"[{HAN}]")
_LATIN_WORD = re.compile(r"[A-Za-z]{2,}")
# A sentence with “shimmer”, what “painting the town red” means: the words asked about are English.
_ASKS_OF_WORDS = re.compile(
    r"(?s)[“\"「『'][A-Za-z][A-Za-z ,'-]*[”\"」』'].*[词句]|[词句].*[“\"「『'][A-Za-z][A-Za-z ,'-]*[”\"」』']"
)
_SAYS_ENGLISH = re.compile(r"(?i)\b(?:the|a|an|of|to|is|are|for|what|how|why|your|this)\b")
_ASKS_FOR_LANGUAGE = re.compile(
    r"(?i)translat|language|chinese|english|mandarin|french|spanish|german|japanese|korean|russian|italian|portuguese|latin\b"
    r"|翻译|译[为成]|中译|英译|英文|英语|中文|汉语|法语|法文|日语|日文|德语|西班牙语|俄语|韩语|外语|语言|例句|造句|单词|短语|拼音|pinyin|双语|bilingual"
)


def wording_findings(row: Row, instruction: str, output: str) -> Iterator[Finding]:
    """markdown_residue, placeholder, truncated_output, language_mismatch."""
    prose = _CODE.sub(" ", output) if "`" in output or "~~~" in output else output
    if problem := _markdown_residue(instruction, output, prose):
        yield Finding("markdown_residue", problem)
    asked = _CODE.sub(" ", instruction) if "`" in instruction else instruction
    if (problem := _placeholder(instruction, asked, prose)) and not _WANTS_TEMPLATE.search(instruction):
        yield Finding("placeholder", problem)
    if problem := truncation(output):
        yield Finding("truncated_output", problem)
    if problem := _mismatch(row, prose):
        yield Finding("language_mismatch", problem)


def _placeholder(instruction: str, asked: str, prose: str) -> str | None:
    if any(mark in prose for mark in _PLACEHOLDER_MARKS) and (
        _PLACEHOLDER.search(prose) or _LETTER_PLACEHOLDER.search(prose)
    ):
        return "The answer holds a placeholder that was never filled in."
    if _has_variable(instruction, prose) or _has_blank(instruction, prose):
        return "The answer holds a blank that was never filled in."
    if any(mark in asked for mark in _PLACEHOLDER_MARKS) and _PLACEHOLDER.search(asked):
        return "The question holds a placeholder that was never filled in."
    return "The question holds a blank that was never filled in." if _has_variable(instruction, asked) else None


def _has_blank(instruction: str, prose: str) -> bool:
    """Whether a sentence holds a blank to write in; rules and drawings are made of underscores too."""
    if "_____" not in prose or _ASKS_FOR_BLANKS.search(instruction):
        return False
    return any(_BLANK.search(line) and "|" not in line and _WORDS.search(line) for line in prose.split("\n"))


def _has_variable(instruction: str, prose: str) -> bool:
    """Whether a line of prose holds a variable that a template should have filled in."""
    if ("{" not in prose and "%(" not in prose) or _ASKS_FOR_TEMPLATE.search(instruction):
        return False
    return any(_VARIABLE.search(line) and not _CODE_LINE.search(line) for line in prose.split("\n"))


def offending_part(text: str, check: str) -> Iterator[tuple[int, int]]:
    """Where `check` (placeholder or markdown_residue) sees what it names, from where to before where."""
    patterns = (_PLACEHOLDER, _LETTER_PLACEHOLDER, _VARIABLE, _BLANK)
    if check == "markdown_residue":
        patterns = (
            _PAGE_MARKUP,
            _PAGE_TAG,
            _LAST_HEADING,
            _RULE_END,
            re.compile(r"\A\s*(?:```[^\n]*|---|\+\+\+|\*{3})"),
            FENCE,
        )
    code = [match.span() for match in _CODE.finditer(text)] if check == "placeholder" else []
    for pattern in patterns:
        found = [match.span() for match in pattern.finditer(text)]
        found = [span for span in found if not any(start <= span[0] < end for start, end in code)]
        if found:
            yield from found
            return


def _markdown_residue(instruction: str, output: str, prose: str) -> str | None:
    start = output.lstrip()
    if _RULE_START.match(start):
        if start.startswith(("---", "+++")) and re.match(r"(---|\+\+\+)\s*\n.*?\n\1\s*(?:\n|\Z)", start, re.DOTALL):
            return "The answer begins with front matter."
        return "The answer begins with a rule."
    if start.startswith(("```", "~~~")) and _is_wrapped_prose(start):
        return "The answer begins with a code fence around what is no code."
    if any(mark in output and len(fence.findall(output)) % 2 for mark, fence in (("```", FENCE), ("~~~", _TILDES))):
        return "A code fence is opened and not closed."
    if _LAST_HEADING.search(output):
        return "The answer ends with a heading that nothing follows."
    if _RULE_END.search(output):
        return "The answer ends with a rule."
    if any(mark in prose for mark in ("[", "{", ":::", "!!!", "参照文档")) and _PAGE_MARKUP.search(prose):
        return "Markup of the page is left: an image, a footnote, a block of the site's own or a link within the notes."
    # A page that was asked for is the answer itself.
    if ("<" in prose or "&" in prose) and _PAGE_TAG.search(prose) and not _MARKUP_TAG.search(prose):
        return None if _ASKS_FOR_MARKUP.search(instruction) else "Markup of the page is left: an HTML tag or a comment."
    return None


def _is_wrapped_prose(start: str) -> bool:
    """Whether the fence that a text begins with holds sentences. A fence around code is as it should be."""
    match = _FIRST_FENCE.match(start)
    if match is None:
        return not re.match(r"(?:```+|~~~+)[\w+-]", start)
    language, body = match[1].lower(), match[2]
    if language not in _PROSE_FENCES and language:
        return False
    if start[match.end() :].strip() and language:
        return False  # an example of a text, explained after it
    lines = [line.strip() for line in body.split("\n") if line.strip()]
    said = sum(bool(_SAID.search(line)) and not CODE_LIKE.search(line) for line in lines)
    return 2 * said >= len(lines)


def _mismatch(row: Row, answer: str) -> str | None:
    question = next((message.content for message in reversed(row.messages) if message.role == "user"), "")
    if question.isascii() and answer.isascii() and not foreign_language(answer):
        return None
    asked = language_of(question)
    answered = language_of(answer)
    if asked == "other":
        return None
    if (foreign := foreign_language(answer)) and foreign_language(question) != foreign:
        answered = foreign
    turned = asked == "zh" and answered != "other" and _turns_english(answer)
    if turned:
        answered = "en"
    if asked == "en" and answered == "zh" and len(_HAN.findall(question)) >= 6:
        return None  # asked in Chinese, about an English text
    if answered in (asked, "other"):
        # Too little is known about the other languages lumped together as "other".
        return None
    if (
        _ASKS_FOR_LANGUAGE.search(question)
        or _ASKS_OF_WORDS.search(question)
        or any(message.role == "system" and _ASKS_FOR_LANGUAGE.search(message.content) for message in row.messages)
    ):
        return None
    enough = 6 if len(_SAYS_ENGLISH.findall(answer)) >= 2 else 12
    least = 3 if asked == "en" and _SAYS_ENGLISH.search(question) else 4
    if not _is_plain(question, asked, least) or not (foreign or turned or _is_plain(answer, answered, enough)):
        return None
    names = {"zh": "Chinese", "en": "English"}
    return f"The question is {names[asked]}, the answer {names.get(answered, answered)}."


def _turns_english(answer: str) -> bool:
    """Whether a Chinese answer goes over into English sentences and stays there: most of it, in a line of 15 words."""
    words = len(_LATIN_WORD.findall(answer))
    return words > len(_HAN.findall(answer)) and any(
        len(_LATIN_WORD.findall(line)) >= 15 and not _HAN.search(line) and SENTENCE_LINE.search(line)
        for line in answer.split("\n")
    )


def _is_plain(text: str, language: str, least: int) -> bool:
    """Whether `text` is clearly in one language: at least so many units of it, and few of the other."""
    han = len(_HAN.findall(text))
    words = len(_LATIN_WORD.findall(text))
    if language == "zh":
        return han >= least and words < han / 2
    code = sum(text.count(mark) for mark in "{}();=_<>")
    return words >= least and han < words / 4 and code < words / 2
