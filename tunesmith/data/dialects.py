"""What programs that read Markdown add to it: front matter, MDX modules, MyST roles and directives."""

from __future__ import annotations

import re
from typing import Literal

from tunesmith.data.markup import role_text

_FRONT_MATTER = re.compile(r"-{3,}[ \t]*\n(.*?\n)??-{3,}[ \t]*(?=\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title\s*[:=]\s*(.+)$", re.MULTILINE | re.IGNORECASE)
_MACHINERY = re.compile(
    r"(?:import\s.{1,300}\sfrom\s+['\"]|import\s+['\"]|export\s+(?:const|default|function|let)\s)|\([\w-]+\)=\Z"
)
_DIRECTIVE = re.compile(
    r"^[ \t]*(?::{3,}.*|!{3}\s+\w+.*|\[\[?toc\]?\]|\[_?TOC_?\])[ \t]*$", re.IGNORECASE | re.MULTILINE
)
_MYST_ROLE = re.compile(r"\{[a-z][\w:.-]{0,40}\}`([^`\n]{1,300})`")
_MYST_FENCE = re.compile(r"\{([a-z][\w:-]*)\}\s*(\S*)")
_MYST_CODE = frozenset(("code", "code-block", "code-cell", "sourcecode", "prompt", "doctest"))
_MYST_NOTE = frozenset(("note", "tip", "warning", "important", "hint", "caution", "attention", "danger", "admonition"))
# A file name with spaces is no destination to the letter of the format; authors write them all the same.
_SPACED_IMAGE = re.compile(r"!\[[^\[\]\n]{0,200}\]\([^()\s\"'<>]{1,200}(?: [^()\s\"'<>]{1,200})+\)")


def without_front_matter(text: str) -> tuple[str, str]:
    """The title in the front matter (or an empty string), and the text with blank lines in the place of the whole."""
    front = _FRONT_MATTER.match(text) if text.startswith("---") else None
    if not front:
        return "", text
    title = _TITLE.search(front[1] or "")
    return title[1].strip().strip("\"'").strip() if title else "", "\n" * front.group().count("\n") + text[
        front.end() :
    ]


def is_machinery(content: str) -> bool:
    """Whether a paragraph is no text but an MDX module line or a MyST target."""
    return _MACHINERY.match(content) is not None


def plain_dialect(content: str) -> str:
    """A block's source without directives and roles; as many lines as before."""
    if ":::" in content or "!!!" in content or ("]" in content and "toc]" in content.lower()):
        content = _DIRECTIVE.sub("", content)
    if "}`" in content:
        content = _MYST_ROLE.sub(lambda match: f"`{role_text(match[1])}`", content)
    return _SPACED_IMAGE.sub("", content) if "![" in content else content


def fence_kind(info: str) -> tuple[Literal["code", "note", "machinery"], str]:
    """What a fence is by the words after it, and the language of its code, lower case."""
    directive = _MYST_FENCE.match(info)
    if not directive:
        words = info.split()
        return "code", words[0].strip("{}.").lower() if words else ""
    name, argument = directive.groups()
    if name in _MYST_NOTE:
        return "note", ""
    return ("code", argument.lower()) if name in _MYST_CODE else ("machinery", "")
