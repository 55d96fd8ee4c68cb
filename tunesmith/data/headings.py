"""What a heading says: without its numbering, in one language, and whether it is clear on its own."""

from __future__ import annotations

import re
from functools import lru_cache

from tunesmith.data.language import HAN, Language, language_of

_CHINESE_NUMBER = "一二三四五六七八九十百零〇两"
_LABEL = re.compile(
    rf"(?:(?:知识点|要点|重点|思考|反思|感悟|步骤|阶段|模块|主题|问题|附录|练习|实验|案例|任务|小节)\s*[\d{_CHINESE_NUMBER}]{{1,3}}\s*[:：.、\-—–]\s*"
    rf"|第\s*[\d{_CHINESE_NUMBER}]{{1,4}}\s*[章节部分篇课讲天步周回条]+\s*[:：.、\-—–]?\s*"
    rf"|[(（][{_CHINESE_NUMBER}]{{1,3}}[)）]\s*|[{_CHINESE_NUMBER}]{{1,3}}[、.．]\s*"
    r"|(?:Day|Chapter|Section|Part|Step|Lesson|Week|Module|Unit|Topic|Appendix|Reflection|Thought|Exercise|Lecture)"
    r"\s+(?:\d{1,3}|[IVX]{1,5}|[A-Z])\s*(?:[:：.]|[\-—–](?=\s))\s*)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?:\d{1,3}[.)、]|\d{1,3}(?:\.\d{1,3}){1,4}[.)、]|[A-Z][.)])\s+(?=\D)|\d{1,2}、\s*")
_DECORATION = re.compile(r"^[^\w\"'“「『(（\[`.$@<+*/\-]+|[\s#]+$")
_SLASH = re.compile(r"\s+[/|]\s+|\s*[／｜]\s*")
_HAN = re.compile(f"[{HAN}]")
_LETTER = re.compile(r"[^\W\d_]")

_GENERIC_EN = (
    "overview introduction intro usage use example examples note notes notice installation install installing setup"
    " options option parameters params arguments args returns return summary conclusion background details"
    " description requirements prerequisites configuration config settings faq questions api reference commands"
    " features troubleshooting syntax properties methods events default defaults output input result results tips"
    " warning warnings caution limitations general basic basics advanced other misc miscellaneous more details steps"
    " quick-start quickstart how-it-works how-to-use why what how when who status step type types goal goals purpose"
    " table rules changes fixes fixed added changed removed deprecated security performance testing tests development"
    " deployment environment terms definitions glossary words names"
)
_GENERIC_ZH = (
    "概述 简介 介绍 引言 前言 示例 例子 用法 使用 使用方法 说明 总结 小结 结论"
    " 背景 注意 注意事项 附注 备注 安装 配置 其他 其它 参数 返回值 选项 要求 前提"
    " 前提条件 环境 步骤 流程 问答 常见问题 命令 功能 特点 特性 优点 缺点 结果"
    " 目标 目的 原理 定义 术语 名词 规则 更新 修复 新增 变更 快速开始 提示 警告"
    " 限制 测试 部署 开发 表格 附录 价格"
)
_GENERIC = frozenset(_GENERIC_EN.split()) | frozenset(_GENERIC_ZH.split())
_LEANING = re.compile(
    r"\b(?:it|its|there|they|them|their|this|that|these|those|here|we|our|us)\b|[它其](?!他|它|实|中)|这|那[里个些]|上述|上面|我们|此[处外]",
    re.I,
)
_POINTERS_ZH = (
    "另见 相关文档 相关阅读 了解更多"
    " 目录 学习路径 明日预告 下期预告 参考资料 参考文献 学习资源 参考链接 相关链接 延伸阅读"
)
_POINTERS_EN = (
    "table of contents,contents,toc,references,bibliography,see also,further reading,learning path,tomorrow's preview"
    ",related links,related,external links,related docs,learn more,read more,more information"
)
_PASSED_OVER = frozenset(_POINTERS_ZH.split()) | frozenset(_POINTERS_EN.split(","))
_GLOSSARY = re.compile(
    r"\b(?:glossary|terms?|terminology|definitions?|words|vocabulary|names|concepts|abbreviations|acronyms|jargon)\b"
    r"|术语|定义|名词|用语|词汇|概念|缩写|黑话|叫法",
    re.IGNORECASE,
)


def without_number(heading: str) -> str:
    """A heading without "知识点1:", "1.2 ", "Day 8:", a leading emoji and the like; itself when nothing is left."""
    bare = _DECORATION.sub("", heading).strip()
    for _ in range(2):
        match = _LABEL.match(bare) or _NUMBER.match(bare)
        rest = bare[match.end() :].strip() if match else ""
        if not _LETTER.search(rest):
            break
        bare = rest
    return bare or heading.strip()


@lru_cache(8192)
def in_language(heading: str, language: Language) -> str:
    """The part of a bilingual heading ("环境准备 / Environment Setup") that is in `language`, without its numbering.

    A heading in one language, or with a slash inside it, is returned whole.
    """
    bare = without_number(heading)
    parts = [part for part in _SLASH.split(bare) if part.strip()]
    if len(parts) < 2:
        return bare
    # Only a change of language makes a slash a translation: "Alpaca / ShareGPT 格式" is one name.
    for cut in range(len(parts) - 1, 0, -1):
        left, right = (_between(bare, parts, 0, cut), _between(bare, parts, cut, len(parts)))
        if _HAN.search(left) and not _HAN.search(right):
            return without_number(right if language == "en" else left)
        if _HAN.search(right) and not _HAN.search(left):
            return without_number(right if language == "zh" else left)
    return bare


def _between(bare: str, parts: list[str], first: int, last: int) -> str:
    start = 0
    for part in parts[:first]:
        start = bare.index(part, start) + len(part)
    end = start
    for part in parts[first:last]:
        end = bare.index(part, end) + len(part)
    return bare[start:end].strip(" \t/|／｜")


@lru_cache(8192)
def needs_context(heading: str) -> bool:
    """Whether a heading says too little alone: "Usage", "1.2.0", "Where it lies", "概述"."""
    lower = heading.lower().strip(" :：.")
    if lower in _GENERIC or lower.replace(" ", "-") in _GENERIC or _LEANING.search(heading):
        return True
    words = lower.split()
    if len(words) == 2 and all(word in _GENERIC for word in words):
        return True
    letters = len(_LETTER.findall(heading))
    return letters < 2 if _HAN.search(heading) else letters < 3


@lru_cache(8192)
def is_passed_over(heading: str) -> bool:
    """Whether a section only points elsewhere by its name: a table of contents, references, a preview."""
    names = {heading, *(in_language(heading, language) for language in ("zh", "en"))}
    return any(name.lower().strip(" :：") in _PASSED_OVER for name in names)


def is_glossary(heading: str) -> bool:
    """Whether a section announces definitions."""
    return bool(_GLOSSARY.search(heading))


def ends_as_question(heading: str) -> bool:
    """Whether the author wrote it as a question."""
    return heading.rstrip("*_ ").endswith(("?", "？"))


def main_language(text: str, heading: str) -> Language:
    """The language of a body; of its heading when the body has no words."""
    found = language_of(text)
    return found if found != "other" or _LETTER.search(text) else language_of(heading)
