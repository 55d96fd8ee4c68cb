"""Rows with two answers, a chosen and a rejected one, as TRL and LLaMA-Factory write them.

    {"prompt", "chosen", "rejected"}                      texts, or lists of messages; a prompt may be a list alone
    {"chosen", "rejected"}                                whole conversations that end with one answer or the other, as
                                                          lists, or as texts with "Human:" and "Assistant:" at each turn
    {"instruction", "input"?, …, "chosen", "rejected"}    Alpaca with two answers
    {"conversations" | "messages", "chosen", "rejected"}  the conversation up to the answers, each one message

A row keeps the chosen answer as its last message and the other one in `rejected`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tunesmith.data.fields import RowRejected, decoded, kind_of, read_messages, text_of

ANSWERS = ("chosen", "rejected")
_PROMPT_FIELDS = ("prompt", "question", "query", "input")
_CONVERSATION_FIELDS = ("conversations", "conversation", "messages")
_TURN = re.compile(r"\n\n(Human|Assistant):[ \t]?")


def taken_apart(record: Mapping[str, Any]) -> tuple[dict[str, Any], Literal["alpaca", "sharegpt"], str, dict[str, Any]]:
    """A row with two answers as one with the chosen answer alone.

    Returns:
        That row, the format it is written in, the rejected answer, and what fields its message has besides.

    Raises:
        RowRejected: with the reason.
    """
    rest = dict(record)
    for name in ANSWERS:
        if rest.get(name) is None:
            raise RowRejected(f"there is no {name!r}")
    chosen, rejected = (_conversation(rest.pop(name), name) for name in ANSWERS)
    fields: dict[str, Any] = {}
    both = read_messages(chosen, {}), read_messages(rejected, fields)
    if not both[0] or not both[1] or both[0][:-1] != both[1][:-1]:
        raise RowRejected("chosen and rejected differ in more than their last message")
    for name, messages in zip(ANSWERS, both, strict=True):
        if messages[-1][0] != "assistant":
            raise RowRejected(f"{name} is not the assistant's")
    answer, before = chosen[-1], chosen[:-1]
    own_fields = fields.get(str(len(rejected) - 1), {})
    if "instruction" in rest and not before:
        if rest.get("output") not in (None, "", both[0][-1][1]):
            raise RowRejected("there is an 'output' besides 'chosen'")
        return {**rest, "output": both[0][-1][1]}, "alpaca", both[1][-1][1], own_fields
    prompt = _prompt(rest, before, both[0])
    return {**rest, "conversations": [*prompt, answer]}, "sharegpt", both[1][-1][1], own_fields


def _conversation(value: Any, name: str) -> list[Any]:
    """An answer as a list of messages: one, or a conversation that ends with it."""
    value = decoded(value)
    if isinstance(value, dict):
        return [value]
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise RowRejected(f"{name!r} is {kind_of(value)}, not text")
    opening, *turns = _TURN.split(value)
    if turns and not opening.strip():
        speakers, texts = turns[::2], turns[1::2]
        return [{"role": speaker.lower(), "content": text} for speaker, text in zip(speakers, texts, strict=True)]
    return [{"role": "assistant", "content": value}]


def _prompt(rest: dict[str, Any], before: list[Any], chosen: list[tuple[Any, str]]) -> list[Any]:
    """The messages up to the answers. Fields that say the same again are taken out of `rest`.

    Args:
        before: what stands before the answer in `chosen` itself.
        chosen: all of that conversation, as (role, text).
    """
    for name in _CONVERSATION_FIELDS:
        if name not in rest:
            continue
        entries = decoded(rest.pop(name))
        if not isinstance(entries, list):
            raise RowRejected(f"{name!r} is {kind_of(entries)}, not a list of messages")
        said = read_messages(entries, {})
        if said[-1:] == chosen[-1:] and said[-1:] and said[-1][0] == "assistant":
            entries, said = entries[:-1], said[:-1]
        if before and said != chosen[:-1]:
            raise RowRejected(f"{name!r} is not what chosen begins with")
        if name == "messages" and before:
            continue  # the chosen conversation once more; a prompt may stand beside it
        return entries
    name = next((name for name in _PROMPT_FIELDS if name in rest), None)
    if name is None and before:
        return before
    if name is None:
        raise RowRejected("there is no prompt")
    value = decoded(rest[name])
    if isinstance(value, list):
        del rest[name]
        said = read_messages(value, {})
        if before and said != chosen[: len(said)]:
            raise RowRejected(f"{name!r} is not what chosen begins with")
        return before or value
    text = text_of(rest, name)
    if before:
        if text.strip() not in (content.strip() for role, content in chosen if role == "user"):
            raise RowRejected(f"{name!r} is not in the conversation that chosen is")
        return before
    return [{"role": "user", "content": text}]


def split_texts(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of two plain texts without a prompt, with what both begin with, up to a blank, as its prompt."""
    chosen, rejected = (record.get(name) for name in ANSWERS)
    if not isinstance(chosen, str) or not isinstance(rejected, str) or _has_prompt(record):
        return record
    if any(_TURN.match(text) or isinstance(decoded(text), list) for text in (chosen, rejected)):
        return record
    same = next((at for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other), 0)
    at = max(chosen.rfind(blank, 0, same) for blank in " \n\t")
    if not chosen[: max(at, 0)].strip():
        raise RowRejected("there is no prompt, and chosen and rejected do not begin alike")
    return {**record, "prompt": chosen[:at], "chosen": chosen[at:].strip(), "rejected": rejected[at:].strip()}


def _has_prompt(record: Mapping[str, Any]) -> bool:
    return any(name in record for name in ("instruction", *_CONVERSATION_FIELDS, *_PROMPT_FIELDS))


def with_rejected(
    record: dict[str, Any],
    rejected: str,
    fields: Mapping[str, Any],
    format: Literal["alpaca", "sharegpt", "preference"],
) -> dict[str, Any]:
    """A row with the chosen answer alone, written with both.

    Args:
        record: as Alpaca, ShareGPT or, for preference, as a prompt and a completion of messages.
        fields: what the rejected answer's message has besides.
    """
    if format == "alpaca":
        chosen: Any = record.pop("output")
        return {**record, "chosen": chosen, "rejected": rejected}
    if format == "sharegpt":
        turns: Sequence[Any] = record.pop("conversations")
        other = {**fields, "from": "gpt", "value": rejected}
        return {**record, "conversations": list(turns[:-1]), "chosen": turns[-1], "rejected": other}
    answer = [{**fields, "role": "assistant", "content": rejected}]
    return {"prompt": record["prompt"], "chosen": record["completion"], "rejected": answer}
