"""What the readers of all formats make alike: terms of list entries, fences, tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.data.sections import Block, Item
from tunesmith.data.text import plain_inline

PROSE_FENCES = frozenset(("", "text", "txt", "plain", "plaintext"))
_TERM = re.compile(
    r"(?P<mark>\*\*|__|`)(?=\S)(?P<term>.{1,80}?)(?<=\S)(?P=mark)(?:\s*\([^()]{1,60}\))?\s*(?P<sep>[:：]|[—–]+\s|(?<=\s)-\s|——)?\s*(?P<rest>.*)",
    re.DOTALL,
)
_PLAIN_TERM = re.compile(
    r"(?P<term>[^:：。.!！?？,，;；\n]{1,40}?)(?:\s(?:—|–|--)\s|——|[:：]\s?)(?P<rest>\S.*)", re.DOTALL
)
_ROLE_TITLE = re.compile(r"(\S.*?)\s+<.+>", re.DOTALL)
_ROLE_SHORTHAND = re.compile(r"^(?:\.|_[a-z]+\.)(?=\w)")


def term_of(raw: str) -> tuple[str, str, bool]:
    """The term and meaning of a list entry in Markdown source, and whether bold or code marks the term.

    Unmarked, a term is a few words before a colon or dash. Two empty strings where there is no term.
    """
    match = _TERM.match(raw) if raw.startswith(("*", "_", "`")) else None
    if match:
        term = match["term"].rstrip()
        if match["rest"] and (match["sep"] or term.endswith((":", "："))):
            return plain_inline(term.rstrip(":： ")), plain_inline(match["rest"]), True
        return "", "", False
    match = _PLAIN_TERM.match(plain_inline(raw) if "[" in raw else raw)
    if match and not match["rest"].startswith("//") and len(match["term"].split()) <= 5:
        return plain_inline(match["term"]).strip(), plain_inline(match["rest"]), False
    return "", "", False


def role_text(inner: str) -> str:
    """What a role of reStructuredText or MyST shows: the title before a target, the last name after a tilde."""
    title = _ROLE_TITLE.fullmatch(inner)
    if title:
        return title[1]
    name = inner.lstrip("!")
    if name.startswith("~"):
        return name.rstrip("()").rpartition(".")[2].lstrip("~") + ("()" if name.endswith("()") else "")
    return _ROLE_SHORTHAND.sub("", name)


def fenced(source: str, language: str) -> str:
    """Code between fences longer than any inside."""
    longest = max((len(run) for run in re.findall(r"`{3,}", source)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{source}\n{fence}"


def table_block(rows: Sequence[Item], first_line: int, last_line: int) -> Block | None:
    """A table of at least a header and one row, written as Markdown again."""
    if len(rows) < 2 or not any(cell for row in rows[1:] for cell in row.cells):
        return None
    written = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row.cells) + " |" for row in rows]
    written.insert(1, f"|{'---|' * len(rows[0].cells)}")
    return Block("table", first_line, last_line, "\n".join(written), items=tuple(rows))
