"""Ollama's TEMPLATE, in the language of Go's text/template.

Written without trim markers and with the plainest constructs, which every Ollama
that knows `.Messages` understands: range, if, else, eq, ne, ge, and, not, index, len, slice,
define and template.

The language has no function that takes blanks off a text. A template that calls
itself with one character less does it: `slice` cuts bytes, and `len (slice . 1)`
is the length less one.
"""

from __future__ import annotations

import json

from tunesmith.errors import NotSupported
from tunesmith.models.trimming import Trim
from tunesmith.models.turns import Turns

_IS_LAST = "(eq (len (slice $.Messages $i)) 1)"


def go_template(turns: Turns, *, bos: str) -> str:
    """The template that renders what `turns.text` returns, without its leading `bos`.

    Raises:
        NotSupported: the parts do not make up the model's own text.
    """
    if not turns.exact:
        raise NotSupported(
            "The model's chat template does more than put text around messages; Ollama's language cannot say it.",
            next="Train with prompt_format='alpaca', or serve the model with llama.cpp (ask_model does).",
        )
    return (
        _definitions(turns)
        + "{{ range $i, $m := .Messages }}"
        + _opening(turns, bos)
        + _branches(turns, bos)
        + "{{ end }}"
        + _literal(turns.generation_prompt)
    )


def _has_system(turns: Turns) -> str:
    """Whether the conversation has a system message, as an argument in Go."""
    role = '(eq (index $.Messages 0).Role "system")'
    return f'(and {role} (ne (index $.Messages 0).Content ""))' if turns.skips_empty_system else role


def _unless(condition: str, text: str) -> str:
    return f"{{{{ if not {condition} }}}}{text}{{{{ end }}}}" if text else ""


def _opening(turns: Turns, bos: str) -> str:
    opening = _literal(turns.opening.removeprefix(bos))
    if not opening:
        return ""
    own_turn = turns.system_prefix is not None and not turns.system_in_last_user
    return "{{ if eq $i 0 }}" + (_unless(_has_system(turns), opening) if own_turn else opening) + "{{ end }}"


def _branches(turns: Turns, bos: str) -> str:
    branches = [("user", _user(turns))]
    if turns.system_prefix is not None and not turns.system_in_last_user:
        prefix = _literal(turns.system_prefix.removeprefix(bos))
        body = prefix + _content("$m.Content", turns.system_trim, turns) + _literal(turns.system_suffix)
        if turns.skips_empty_system:
            body = "{{ if $m.Content }}" + body + "{{ end }}"
        branches.insert(0, ("system", body))
    content = _content("$m.Content", turns.assistant_trim, turns)
    answer = _literal(turns.assistant_prefix) + content + _literal(turns.assistant_suffix)
    branches.append(("assistant", answer))
    text = ""
    for number, (role, body) in enumerate(branches):
        text += ("{{ else if " if number else "{{ if ") + f'eq $m.Role "{role}" }}}}{body}'
    return text + "{{ end }}"


def _user(turns: Turns) -> str:
    prefix = _literal(turns.user_prefix)
    if turns.user_prefix_after_system != turns.user_prefix:
        # Written by the system message already, whose text stands inside the first user turn.
        prefix = _unless(f"(and (eq $i 1) {_has_system(turns)})", prefix)
    if turns.system_in_last_user:
        system = _content("(index $.Messages 0).Content", turns.system_trim, turns) + _literal(turns.system_suffix)
        prefix += f"{{{{ if and {_IS_LAST} {_has_system(turns)} }}}}{system}{{{{ end }}}}"
    return prefix + _content("$m.Content", turns.user_trim, turns) + _literal(turns.user_suffix)


def _content(argument: str, trim: Trim, turns: Turns) -> str:
    """A message's text, trimmed as its role's are."""
    if not trim:
        return f"{{{{ {argument} }}}}"
    return f'{{{{ template "trim{_trims(turns).index(trim) + 1}" {argument} }}}}'


def _trims(turns: Turns) -> list[Trim]:
    """The different ways of trimming, each once."""
    return [trim for trim in dict.fromkeys((turns.system_trim, turns.user_trim, turns.assistant_trim)) if trim]


def _definitions(turns: Turns) -> str:
    text = ""
    for number, trim in enumerate(_trims(turns), start=1):
        front, end = f"trim{number}", f"trim{number}end"
        text += _definition(front, trim.left, "(slice . 0 {})", "(slice . {})", f'template "{end}" .')
        text += _definition(end, trim.right, "(slice . (len (slice . {})))", "(slice . 0 (len (slice . {})))", ".")
    return text


def _definition(name: str, blanks: str, first: str, rest: str, otherwise: str) -> str:
    """A template that takes one blank off its argument and calls itself, until there is none.

    Args:
        blanks: the characters to take off.
        first, rest: the character in question and what is left without it, given its bytes in UTF-8.
        otherwise: what is done with a text that has no such blank.
    """
    branches = ""
    for size in (1, 2, 3):
        some = [_quoted(blank) for blank in blanks if len(blank.encode()) == size]
        if some:
            keyword = "else if" if branches else "if"
            branches += f"{{{{ {keyword} and (ge (len .) {size}) (eq {first.format(size)} {' '.join(some)}) }}}}"
            branches += f'{{{{ template "{name}" {rest.format(size)} }}}}'
    body = f"{branches}{{{{ else }}}}{{{{ {otherwise} }}}}{{{{ end }}}}" if branches else f"{{{{ {otherwise} }}}}"
    return f'{{{{ define "{name}" }}}}{body}{{{{ end }}}}'


def _literal(text: str) -> str:
    """Text as a template prints it: as it is, or quoted where it holds the language's own braces or would be lost."""
    plain = all(character in " \n\t" or character.isprintable() for character in text)
    return text if plain and "{{" not in text and not text.endswith("{") else "{{ " + _quoted(text) + " }}"


def _quoted(text: str) -> str:
    """Text as Go reads it between quotes, unprintable characters by their number: a Modelfile drops them."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(
        character if character.isprintable() else f"\\u{ord(character):04x}" if ord(character) < 0x10000
        else f"\\U{ord(character):08x}" for character in quoted
    )  # fmt: skip
