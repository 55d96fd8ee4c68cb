"""The five ways people write training rows, to and from the canonical messages.

    alpaca             {"instruction", "input", "output", "system"?, "history"?: [[question, answer], …]}
    sharegpt           {"conversations": [{"from", "value"}, …], "system"?}
    messages           {"messages": [{"role", "content"}, …]}
    prompt_completion  {"prompt", "completion"}, both text, or both lists of messages
    preference         {"prompt", "chosen", "rejected"}, lists of messages; how else it is read: see `preference.py`

What else a row carries is kept in `meta["extra"]` (fields of the row) and
`meta["turns"]` (fields of a message, by its number) and written back on export,
so that a round trip gives the row that went in. Spellings are not kept: synonyms
(`human`/`user`, `response`/`output`) come back under the names above.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from tunesmith.data.fields import (
    NotExpressible,
    Role,
    RowRejected,
    decoded,
    holds_surrogate,
    join_input,
    kind_of,
    list_of,
    present,
    read_messages,
    refuse_deep,
    split_input,
    text_of,
)
from tunesmith.data.preference import ANSWERS, split_texts, taken_apart, with_rejected
from tunesmith.data.records import Message, Row

Format = Literal["alpaca", "sharegpt", "messages", "prompt_completion", "preference"]
FORMATS: tuple[Format, ...] = get_args(Format)

_SHAREGPT_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}
_CONVERSATION_FIELDS = ("conversations", "conversation")
_OUTPUT_FIELDS = ("output", "response")
_INPUT_FIELDS = ("input", "context")
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
)


def detect(record: Mapping[str, Any]) -> Format | None:
    """The format one row is written in, by its fields; None when it is none of them."""
    if all(name in record for name in ANSWERS):
        return "preference"
    if "messages" in record:
        return "messages"
    if any(name in record for name in _CONVERSATION_FIELDS):
        return "sharegpt"
    if "instruction" in record and any(name in record for name in _OUTPUT_FIELDS):
        return "alpaca"
    if any(left in record and right in record for left, right in _PAIRS):
        return "prompt_completion"
    return None


def to_row(record: Mapping[str, Any], format: Format, row_id: str = "") -> Row:
    """One row in its canonical form.

    Raises:
        RowRejected: with the reason.
    """
    rest = dict(record)
    meta: dict[str, Any] = {}
    turns: dict[str, Any] = {}
    rejected, rejected_fields = None, {}
    if format == "preference":
        rest, format, rejected, rejected_fields = taken_apart(split_texts(rest))
    if format == "alpaca":
        messages = _from_alpaca(rest, meta)
    elif format == "prompt_completion":
        messages = _from_prompt_completion(rest, turns)
    else:
        messages = _from_conversation(rest, format, turns)
    split = rest.pop("split") if rest.get("split") in ("train", "eval") else None
    if rest:
        refuse_deep(rest)
        meta["extra"] = rest
    if rejected_fields:
        turns["rejected"] = rejected_fields
    if turns:
        refuse_deep(turns)
        meta["turns"] = turns
    roles = [role for role, _content in messages]
    for wanted in ("user", "assistant"):
        if wanted not in roles:
            raise RowRejected(f"the conversation has no {wanted} message")
    if any(holds_surrogate(content) for content in (rejected or "", *(content for _role, content in messages))):
        raise RowRejected("a text holds a lone surrogate, which is not valid Unicode")
    return Row(
        row_id=row_id,
        messages=[Message(role=role, content=content) for role, content in messages],
        rejected=rejected,
        split=split,
        meta=meta,
    )


def from_row(row: Row, format: Format, *, conversational: bool = False, ranking: bool = False) -> dict[str, Any]:
    """One row as `format` writes it. A rejected answer is written by preference, and where `ranking` says so.

    Args:
        conversational: for prompt_completion, write lists of messages instead of two texts.
        ranking: for alpaca and sharegpt, write both answers, as LLaMA-Factory reads them.

    Raises:
        NotExpressible: with the reason.
    """
    if format == "alpaca":
        record = _as_alpaca(row)
    elif format in ("prompt_completion", "preference"):
        record = _as_prompt_completion(row, conversational or format == "preference")
    else:
        record = _as_conversation(row, format)
    if format == "preference" or (ranking and format in ("alpaca", "sharegpt")):
        if row.rejected is None:
            raise NotExpressible("it has no rejected answer")
        fields = (row.meta.get("turns") or {}).get("rejected", {})
        record = with_rejected(record, row.rejected, fields, format)
    if row.split is not None:
        record["split"] = row.split
    for name, value in (row.meta.get("extra") or {}).items():
        if name == "split" and row.split is not None:
            continue  # it was split anew since; its field says what it was before
        if name in record:
            raise NotExpressible(f"it has a field {name!r} of its own, which {format} uses for something else")
        record[name] = value
    return record


def is_plain_pair(row: Row) -> bool:
    """Whether the row is one question and one answer, without a system message or fields on its messages."""
    return [message.role for message in row.messages] == ["user", "assistant"] and not _turns_say_something(row)


def _turns_say_something(row: Row) -> bool:
    """Whether messages carry fields of their own. Fields that are null, as tables make them, say nothing."""
    turns = row.meta.get("turns") or {}
    return any(value is not None for fields in turns.values() for value in fields.values())


def dialogue(row: Row) -> tuple[str | None, list[tuple[str, str]]]:
    """The system text and the question-answer pairs of a row whose turns alternate.

    Raises:
        NotExpressible: they don't.
    """
    messages = row.messages
    system = messages[0].content if messages and messages[0].role == "system" else None
    turns = messages[1:] if system is not None else messages
    if not turns or len(turns) % 2 or any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        raise NotExpressible("its turns are not question, answer, question, answer …")
    contents = [turn.content for turn in turns]
    return system, list(zip(contents[::2], contents[1::2], strict=True))


def _from_alpaca(rest: dict[str, Any], meta: dict[str, Any]) -> list[tuple[Role, str]]:
    instruction = text_of(rest, "instruction")
    output = text_of(rest, present(rest, _OUTPUT_FIELDS, "output"))
    input_field = next((name for name in _INPUT_FIELDS if name in rest), None)
    input_text = ""
    if input_field is not None:
        input_text = text_of(rest, input_field, null_is_empty=True)
        meta["input"] = input_text
    messages: list[tuple[Role, str]] = []
    if system := text_of(rest, "system", null_is_empty=True) if "system" in rest else "":
        messages.append(("system", system))
    history = rest.pop("history", None) or []
    for turn in history if isinstance(history, list) else [None]:
        match turn:
            case [str(question), str(answer)]:
                messages.append(("user", question))
                messages.append(("assistant", answer))
            case _:
                raise RowRejected("history is not a list of [question, answer]")
    return [*messages, ("user", join_input(instruction, input_text)), ("assistant", output)]


def _from_conversation(rest: dict[str, Any], format: str, turns: dict[str, Any]) -> list[tuple[Role, str]]:
    fields = ("messages",) if format == "messages" else (*_CONVERSATION_FIELDS, "messages")
    name = present(rest, fields, fields[0])
    messages = read_messages(list_of(rest.pop(name), name), turns)
    if format == "sharegpt" and "system" in rest:
        system = text_of(rest, "system", null_is_empty=True)
        if system:
            if messages and messages[0][0] == "system":
                raise RowRejected("there is a system field and a system turn")
            turned = {str(int(number) + 1): fields for number, fields in turns.items()}
            turns.clear()
            turns.update(turned)
            messages.insert(0, ("system", system))
    return messages


def _from_prompt_completion(rest: dict[str, Any], turns: dict[str, Any]) -> list[tuple[Role, str]]:
    pair = next((pair for pair in _PAIRS if pair[0] in rest and pair[1] in rest), None)
    if pair is None:
        raise RowRejected("there is no prompt with a completion")
    prompt, completion = (decoded(rest.pop(name)) for name in pair)
    messages: list[tuple[Role, str]] = []
    if isinstance(prompt, list):
        messages += read_messages(prompt, turns)
    elif isinstance(prompt, str):
        messages.append(("user", prompt))
    else:
        raise RowRejected(f"{pair[0]} is {kind_of(prompt)}, not text")
    if isinstance(completion, list):
        if len(completion) != 1:
            raise RowRejected(f"{pair[1]} holds {len(completion)} messages; write such rows as messages")
        last: dict[str, Any] = {}
        messages += read_messages(completion, last)
        turns.update({str(len(messages) - 1): fields for fields in last.values()})
    elif isinstance(completion, str):
        messages.append(("assistant", completion))
    else:
        raise RowRejected(f"{pair[1]} is {kind_of(completion)}, not text")
    if messages[-1][0] != "assistant":
        raise RowRejected(f"{pair[1]} is not the assistant's")
    return messages


def _as_alpaca(row: Row) -> dict[str, Any]:
    if _turns_say_something(row):
        raise NotExpressible("its messages carry fields of their own")
    system, pairs = dialogue(row)
    kept = row.meta.get("input")
    instruction, input_text = split_input(pairs[-1][0], kept if isinstance(kept, str) else "")
    record: dict[str, Any] = {"instruction": instruction, "input": input_text, "output": pairs[-1][1]}
    if system is not None:
        record["system"] = system
    if len(pairs) > 1:
        record["history"] = [list(pair) for pair in pairs[:-1]]
    return record


def _as_conversation(row: Row, format: str) -> dict[str, Any]:
    turns = row.meta.get("turns") or {}
    entries: list[dict[str, Any]] = []
    for number, message in enumerate(row.messages):
        if format == "sharegpt":
            entry: dict[str, Any] = {"from": _SHAREGPT_NAMES[message.role], "value": message.content}
        else:
            entry = {"role": message.role, "content": message.content}
        entries.append({**turns.get(str(number), {}), **entry})
    return {"conversations" if format == "sharegpt" else "messages": entries}


def _as_prompt_completion(row: Row, conversational: bool) -> dict[str, Any]:
    if not row.messages or row.messages[-1].role != "assistant":
        raise NotExpressible("it does not end with an answer")
    if not conversational:
        if not is_plain_pair(row):
            raise NotExpressible("it is more than one question and one answer")
        return {"prompt": row.messages[0].content, "completion": row.messages[1].content}
    entries = _as_conversation(row, "messages")["messages"]
    return {"prompt": entries[:-1], "completion": entries[-1:]}
