"""A small renderer for Go's text/template, written against its documentation, to check the templates we emit.

Knows: text, comments, trim markers, variables, fields, range with index and value, if / else if / else, with, end,
define, template, assignment, string and number literals, parentheses, and the functions eq, ne, ge, and, or, not, len,
index, slice. Anything else is an error, so a template that uses more fails here rather than in Ollama. As in Go, texts
are bytes to len, index and slice, `and` and `or` stop at the first operand that decides, and a template sees none of
its caller's variables.

benchmarks/export/families.py holds it against Go itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

_ACTION = re.compile(r'\{\{(-\s)?\s*((?:"(?:\\.|[^"\\])*"|/\*.*?\*/|[^"}])*?)\s*(\s-)?\}\}', re.DOTALL)
_WORD = re.compile(
    r'\s*("(?:[^"\\]|\\.)*"|:=|=|,|\(|\)|-?\d+|\$[\w]*(?:\.[A-Za-z_]\w*)*|(?:\.[A-Za-z_]\w*)+|\.|[A-Za-z]\w*)'
)
MAX_DEPTH = 100_000  # templates calling templates, in Go


@dataclass
class Node:
    kind: str
    text: str = ""
    branches: list[tuple[list[str] | None, list[Node]]] = field(default_factory=list)


Defined = dict[str, list[Node]]


def render(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama's chat endpoint makes of `messages`: neighbours of one role joined."""
    collated: list[dict[str, str]] = []
    for message in messages:
        if collated and collated[-1]["Role"] == message["role"]:
            collated[-1]["Content"] += "\n\n" + message["content"]
        else:
            collated.append({"Role": message["role"], "Content": message["content"]})
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    data = {"System": system, "Messages": collated}
    nodes = _parsed(template)
    out: list[str] = []
    defined = {node.text: node.branches[0][1] for node in nodes if node.kind == "define"}
    _run(nodes, data, [{"$": data}], out, defined)
    return "".join(out)


@lru_cache(maxsize=32)
def _parsed(template: str) -> list[Node]:
    nodes, rest = _parse(_lex(template), top=True)
    assert not rest
    return nodes


def _lex(template: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position, trim_next = 0, False
    for match in _ACTION.finditer(template):
        text = template[position : match.start()]
        if trim_next:
            text = text.lstrip(" \t\r\n")
        if match[1]:
            text = text.rstrip(" \t\r\n")
        tokens.append(("text", text))
        if not match[2].startswith("/*"):
            tokens.append(("action", match[2]))
        position, trim_next = match.end(), bool(match[3])
    tail = template[position:]
    tokens.append(("text", tail.lstrip(" \t\r\n") if trim_next else tail))
    return [token for token in tokens if token != ("text", "")]


def _words(action: str) -> list[str]:
    words: list[str] = []
    position = 0
    while position < len(action):
        match = _WORD.match(action, position)
        assert match, f"not understood: {action[position:]!r} in {action!r}"
        words.append(match[1])
        position = match.end()
    return words


def _parse(tokens: list[tuple[str, str]], top: bool = False) -> tuple[list[Node], list[tuple[str, str]]]:
    nodes: list[Node] = []
    while tokens:
        kind, text = tokens[0]
        words = _words(text) if kind == "action" else []
        if kind == "text":
            nodes.append(Node("text", text))
            tokens = tokens[1:]
        elif words[0] in ("end", "else"):
            assert not top, f"{text!r} without a beginning"
            return nodes, tokens
        elif words[0] in ("if", "range", "with"):
            node, tokens = _parse_block(words, tokens[1:])
            nodes.append(node)
        elif words[0] == "define":
            assert top, "define inside a block"
            node, tokens = _parse_block(words, tokens[1:])
            assert len(node.branches) == 1 and len(words) == 2
            nodes.append(Node("define", json.loads(words[1]), node.branches))
        elif words[0] == "template":
            nodes.append(Node("template", json.loads(words[1]), branches=[(words[2:] or None, [])]))
            tokens = tokens[1:]
        else:
            nodes.append(Node("pipeline", branches=[(words, [])]))
            tokens = tokens[1:]
    assert top, "an end is missing"
    return nodes, tokens


def _parse_block(words: list[str], tokens: list[tuple[str, str]]) -> tuple[Node, list[tuple[str, str]]]:
    node = Node(words[0])
    condition: list[str] | None = words[1:]
    while True:
        body, tokens = _parse(tokens)
        node.branches.append((condition, body))
        closing = _words(tokens[0][1])
        tokens = tokens[1:]
        if closing == ["end"]:
            return node, tokens
        assert closing[0] == "else"
        assert closing[1:2] in ([], ["if"], ["with"])
        condition = closing[2:] or None


def _run(nodes: list[Node], dot: Any, scopes: list[dict[str, Any]], out: list[str], defined: Defined) -> None:
    for node in nodes:
        if node.kind == "text":
            out.append(node.text)
        elif node.kind == "pipeline":
            value = _assign(node.branches[0][0] or [], dot, scopes)
            if value is not None:
                out.append(_printed(value))
        elif node.kind == "range":
            _range(node, dot, scopes, out, defined)
        elif node.kind == "template":
            _template(node, dot, scopes, out, defined)
        elif node.kind != "define":
            body, inner = _chosen(node, dot, scopes)
            _run(body, inner, [*scopes, {}], out, defined)


def _chosen(node: Node, dot: Any, scopes: list[dict[str, Any]]) -> tuple[list[Node], Any]:
    """The branch of an if or with that is taken, and what dot is in it."""
    for condition, body in node.branches:
        value = True if condition is None else _evaluate(condition, dot, scopes)
        if value not in (False, 0, "", None, [], {}):
            return body, value if node.kind == "with" and condition is not None else dot
    return [], dot


def _template(node: Node, dot: Any, scopes: list[dict[str, Any]], out: list[str], defined: Defined) -> None:
    """A call of another template. One that only calls on, as its last act, is a loop here: Python's stack is small."""
    for _ in range(MAX_DEPTH):
        words = node.branches[0][0]
        dot = _evaluate(words, dot, scopes) if words else None
        scopes = [{"$": dot}]
        body = defined[node.text]
        while body and body[-1].kind in ("if", "with") and len(body) == 1:
            body, dot = _chosen(body[0], dot, scopes)
            scopes = [*scopes, {}]
        if len(body) != 1 or body[0].kind != "template":
            _run(body, dot, scopes, out, defined)
            return
        node = body[0]
    raise AssertionError("exceeded maximum template depth")


def _range(node: Node, dot: Any, scopes: list[dict[str, Any]], out: list[str], defined: Defined) -> None:
    words, body = node.branches[0]
    assert words
    names: list[str] = []
    if ":=" in words:
        cut = words.index(":=")
        names, words = [word for word in words[:cut] if word != ","], words[cut + 1 :]
    items = _evaluate(words, dot, scopes)
    assert not isinstance(items, str | int), "range over a text or number, which older Go cannot"
    if not items and len(node.branches) > 1:
        _run(node.branches[1][1], dot, [*scopes, {}], out, defined)
    for index, item in enumerate(items or []):
        values = [index, item] if len(names) == 2 else [item]
        _run(body, item, [*scopes, dict(zip(names, values, strict=False))], out, defined)


def _assign(words: list[str], dot: Any, scopes: list[dict[str, Any]]) -> Any:
    if len(words) > 2 and words[1] == ":=":
        scopes[-1][words[0]] = _evaluate(words[2:], dot, scopes)
        return None
    if len(words) > 2 and words[1] == "=":
        next(scope for scope in reversed(scopes) if words[0] in scope)[words[0]] = _evaluate(words[2:], dot, scopes)
        return None
    return _evaluate(words, dot, scopes)


def _evaluate(words: list[str], dot: Any, scopes: list[dict[str, Any]]) -> Any:
    function = words[0] if re.fullmatch(r"[A-Za-z]\w*", words[0]) and words[0] not in ("true", "false") else None
    # Evaluated one by one: what stands behind the operand that decides an `and` may be an error.
    operands = _operands(words[1:] if function else words, dot, scopes)
    if function in ("and", "or"):
        value: Any = None
        for value in operands:
            if bool(value) != (function == "and"):
                return value
        return value
    values = list(operands)
    if function is None:
        assert len(values) == 1, words
        return values[0]
    return _call(function, values)


def _operands(words: list[str], dot: Any, scopes: list[dict[str, Any]]) -> Iterator[Any]:
    position = 0
    while position < len(words):
        if words[position] == "(":
            depth, end = 1, position + 1
            while depth:
                depth += {"(": 1, ")": -1}.get(words[end], 0)
                end += 1
            value = _evaluate(words[position + 1 : end - 1], dot, scopes)
            position = end
            if position < len(words) and re.fullmatch(r"(\.[A-Za-z_]\w*)+", words[position]):
                value = _fields(value, words[position])
                position += 1
            yield value
        else:
            yield _operand(words[position], dot, scopes)
            position += 1


def _operand(word: str, dot: Any, scopes: list[dict[str, Any]]) -> Any:
    if word.startswith('"'):
        return json.loads(word)
    if re.fullmatch(r"-?\d+", word):
        return int(word)
    if word in ("true", "false"):
        return word == "true"
    if word.startswith("$"):
        name, point, path = word.partition(".")
        value = next(scope for scope in reversed(scopes) if name in scope)[name]
        return _fields(value, point + path) if point else value
    return dot if word == "." else _fields(dot, word)


def _fields(value: Any, path: str) -> Any:
    for name in path.split(".")[1:]:
        value = value[name]
    return value


def _call(name: str, operands: list[Any]) -> Any:
    if name == "eq":
        assert all(type(other) is type(operands[0]) for other in operands), operands
        return any(operands[0] == other for other in operands[1:])
    if name == "ne":
        assert type(operands[0]) is type(operands[1])
        return operands[0] != operands[1]
    if name == "not":
        return not operands[0]
    if name == "ge":
        assert all(isinstance(operand, int) for operand in operands), operands
        return operands[0] >= operands[1]
    if name == "len":
        return len(_bytes(operands[0]))
    if name == "index":
        return _bytes(operands[0])[operands[1]]
    if name == "slice":
        return _slice(operands[0], *operands[1:])
    raise AssertionError(f"unknown function {name}")


def _bytes(value: Any) -> Any:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _slice(value: Any, start: int, end: int | None = None) -> Any:
    whole = _bytes(value)
    end = len(whole) if end is None else end
    assert 0 <= start <= end <= len(whole), f"slice bounds out of range: {start}:{end} of {len(whole)}"
    part = whole[start:end]
    return part.decode("utf-8", "surrogateescape") if isinstance(part, bytes) else part


def _printed(value: Any) -> str:
    assert isinstance(value, str | int), value
    return str(value)
