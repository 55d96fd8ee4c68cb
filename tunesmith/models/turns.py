"""What a chat template writes around messages, found out by rendering marks with it.

Jinja cannot be translated to Ollama's language in general. But what these
templates do is simple: fixed text before and after each message. That text is
read off a few renderings, and then the reading is checked on others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from tunesmith.errors import BadInput, NotSupported
from tunesmith.models import chat_templates
from tunesmith.models.trimming import NO_TRIM, Trim, read_trim

# Marks that no template treats specially and that survive trimming. One a role and turn.
_SYSTEM = "\ue000S\ue001"
_USERS = tuple(f"\ue000U{number}\ue001" for number in range(4))
_EMPTY = {"role": "system", "content": ""}
_ANSWERS = tuple(f"\ue000A{number}\ue001" for number in range(3))


@dataclass(frozen=True)
class Turns:
    """The fixed text of a chat template.

    Attributes:
        opening: what stands first when there is no system message: BOS, a default system turn.
        system_prefix: everything before the system message; None: the template takes none.
        system_suffix: after it.
        system_in_last_user: it stands inside the last user turn, not at the beginning.
        skips_empty_system: a system message without text is none.
        user_prefix, user_suffix: around a user message.
        user_prefix_after_system: before a user message that follows the system message.
        assistant_prefix, assistant_suffix: around an answer that another turn follows.
        generation_prompt: what opens the answer that is asked for.
        system_trim, user_trim, assistant_trim: the blanks that are taken off the ends of messages.
        exact: the text of every conversation that was tried is these parts in a row.
    """

    opening: str
    system_prefix: str | None
    system_suffix: str
    system_in_last_user: bool
    skips_empty_system: bool
    user_prefix: str
    user_suffix: str
    user_prefix_after_system: str
    assistant_prefix: str
    assistant_suffix: str
    generation_prompt: str
    system_trim: Trim
    user_trim: Trim
    assistant_trim: Trim
    exact: bool

    @property
    def trims(self) -> bool:
        """Whether blanks are taken off the ends of any messages."""
        return bool(self.system_trim or self.user_trim or self.assistant_trim)

    def text(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt for an answer to `messages`, put together from the parts."""
        first = messages[0]
        has_system = first["role"] == "system" and not (self.skips_empty_system and not first["content"])
        own_turn = self.system_prefix is not None and not self.system_in_last_user
        parts = [] if has_system and own_turn else [self.opening]
        for index, message in enumerate(messages):
            content = message["content"]
            if message["role"] == "system":
                if own_turn and (content or not self.skips_empty_system):
                    parts += [self.system_prefix or "", self.system_trim(content), self.system_suffix]
            elif message["role"] == "user":
                parts.append(self.user_prefix_after_system if index == 1 and has_system else self.user_prefix)
                if self.system_in_last_user and has_system and index == len(messages) - 1:
                    parts += [self.system_trim(first["content"]), self.system_suffix]
                parts += [self.user_trim(content), self.user_suffix]
            else:
                parts += [self.assistant_prefix, self.assistant_trim(content), self.assistant_suffix]
        return "".join((*parts, self.generation_prompt))


@lru_cache(maxsize=32)
def read_turns(template: str, bos: str | None, eos: str) -> Turns:
    """Read a template's fixed text.

    Raises:
        BadInput: not a Jinja template.
        NotSupported: a plain conversation is refused, or its messages cannot be found in the text.
    """

    def render(messages: list[dict[str, str]], ask: bool = True) -> str:
        return chat_templates.render(template, messages, bos=bos, eos=eos, add_generation_prompt=ask)

    user, answer, second = _USERS[0], _ANSWERS[0], _USERS[1]
    single = [_user(0)]
    exchange = [_user(0), _assistant(0)]
    before_user, after_user = _around(render(single), user)
    _, between, before_second, _ = _around(render([*exchange, _user(1)]), user, answer, second)
    user_suffix = _ending(render(single, ask=False), user, eos, shared=(between, after_user))
    closing = _ending(render(exchange, ask=False), answer, eos, shared=(before_second,))
    user_prefix = before_second[len(closing) :]
    if not before_user.endswith(user_prefix):
        # The first user turn opens otherwise than later ones; take the first's, and let the check below decide.
        user_prefix = _common_suffix(before_user, user_prefix)
    system = _read_system(render, user_prefix)
    turns = Turns(
        opening=before_user[: len(before_user) - len(user_prefix)],
        user_prefix=user_prefix,
        user_suffix=user_suffix,
        assistant_prefix=between[len(user_suffix) :],
        assistant_suffix=closing,
        generation_prompt=after_user[len(user_suffix) :],
        system_trim=_trim(render, "system", lambda system: [system, *single]) if system[0] is not None else NO_TRIM,
        user_trim=_trim(render, "user", lambda first: [first]),
        assistant_trim=_trim(render, "assistant", lambda first: [*single, first, _user(1)]),
        exact=False,
        skips_empty_system=system[0] is not None and render([_EMPTY, *single]) == render(single),
        system_prefix=system[0],
        system_suffix=system[1],
        user_prefix_after_system=system[2],
        system_in_last_user=system[3],
    )
    return _checked(turns, render)


class _Render(Protocol):
    def __call__(self, messages: list[dict[str, str]], ask: bool = True) -> str: ...


def _trim(render: _Render, role: str, talk: Callable[[dict[str, str]], list[dict[str, str]]]) -> Trim:
    return read_trim(lambda content: render(talk({"role": role, "content": content})), _ANSWERS[2])


def _read_system(render: _Render, user_prefix: str) -> tuple[str | None, str, str, bool]:
    """Prefix, suffix, the user prefix right after, and whether it stands in the last user turn."""
    none = (None, "", user_prefix, False)
    try:
        text = render([_system(), _user(0)])
        long = render([_system(), _user(0), _assistant(0), _user(1)])
    except BadInput:
        return none
    if _SYSTEM not in text or _SYSTEM not in long:
        return none
    prefix, suffix, _ = _around(text, _SYSTEM, _USERS[0])
    if long.index(_SYSTEM) > long.index(_USERS[0]):
        return prefix, suffix, user_prefix, True
    if suffix.endswith(user_prefix):
        return prefix, suffix[: len(suffix) - len(user_prefix)], user_prefix, False
    return prefix, suffix, "", False


def _checked(turns: Turns, render: _Render) -> Turns:
    """The same, with `exact` set if conversations that it was not read from come out right."""
    chat = [message for number in range(3) for message in (_user(number), _assistant(number))]
    trials = [chat[:length] for length in (1, 3, 5)]
    if turns.system_prefix is not None:
        trials += [[_system(), *trial] for trial in trials]
        trials += [[{"role": "system", "content": content}, *chat[:3]] for content in ("", " \n")]
    trials += [
        [{**message, "content": f"{blanks}{message['content']}{blanks}"} for message in trial]
        for trial in trials
        for blanks in (" \n", "\u3000")
    ]
    exact = all(turns.text(trial) == render(trial) for trial in trials)
    return replace(turns, exact=exact)


def _around(text: str, *marks: str) -> list[str]:
    """The texts before, between and after marks that occur once each, in this order."""
    parts = []
    for mark in marks:
        if text.count(mark) != 1:
            raise _unreadable()
        before, _, text = text.partition(mark)
        parts.append(before)
    return [*parts, text]


def _ending(text: str, mark: str, eos: str, *, shared: tuple[str, ...]) -> str:
    """What stands after a message whatever follows it: the ending of a finished conversation where that is it.

    Some templates write an end token there that is no part of the turn, some the opening of an answer; then it
    is what all the continuations `shared` begin with.
    """
    tail = text.rpartition(mark)[2]
    for candidate in (tail, tail.removesuffix(eos) if eos else tail):
        if all(other.startswith(candidate) for other in shared):
            return candidate
    return _common_prefix(tail, *shared)


def _common_prefix(*texts: str) -> str:
    low, high = min(texts), max(texts)  # what the first and last in order share, all between share
    return next((low[:index] for index, character in enumerate(low) if character != high[index]), low)


def _common_suffix(left: str, right: str) -> str:
    return _common_prefix(left[::-1], right[::-1])[::-1]


def _system() -> dict[str, str]:
    return {"role": "system", "content": _SYSTEM}


def _user(number: int) -> dict[str, str]:
    return {"role": "user", "content": _USERS[number]}


def _assistant(number: int) -> dict[str, str]:
    return {"role": "assistant", "content": _ANSWERS[number]}


def _unreadable() -> NotSupported:
    return NotSupported(
        "The chat template drops or repeats messages, so questions and answers cannot be told apart in its text.",
        next="Use prompt_format='alpaca', or a base model of a known family.",
    )
