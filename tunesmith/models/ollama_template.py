"""Ollama's TEMPLATE, in the language of Go's text/template.

Written without trim markers and with the plainest constructs, which every Ollama
that knows `.Messages` understands: range, if, else, eq, ne, and, not, index, len, slice.
"""

from __future__ import annotations

import json

from tunesmith.errors import NotSupported
from tunesmith.models.turns import Turns

_IS_LAST = "(eq (len (slice $.Messages $i)) 1)"


def go_template(turns: Turns, *, bos: str) -> str:
    """The template that renders what `turns.text` returns, without its leading `bos`.

    Go's language cannot take blanks off the ends of messages; where `turns.trims`, the texts are equal for
    messages without such blanks.

    Raises:
        NotSupported: the parts do not make up the model's own text.
    """
    if not turns.exact:
        raise NotSupported(
            "The model's chat template does more than put text around messages; Ollama's language cannot say it.",
            next="Train with prompt_format='alpaca', or serve the model with llama.cpp (ask_model does).",
        )
    return (
        "{{ range $i, $m := .Messages }}"
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
        body = prefix + "{{ $m.Content }}" + _literal(turns.system_suffix)
        if turns.skips_empty_system:
            body = "{{ if $m.Content }}" + body + "{{ end }}"
        branches.insert(0, ("system", body))
    answer = _literal(turns.assistant_prefix) + "{{ $m.Content }}" + _literal(turns.assistant_suffix)
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
        system = "{{ (index $.Messages 0).Content }}" + _literal(turns.system_suffix)
        prefix += f"{{{{ if and {_IS_LAST} {_has_system(turns)} }}}}{system}{{{{ end }}}}"
    return prefix + "{{ $m.Content }}" + _literal(turns.user_suffix)


def _literal(text: str) -> str:
    """Text as a template prints it: as it is, or quoted where it holds the language's own braces."""
    if "{{" in text or text.endswith("{"):
        return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"
    return text
