"""The four ways people write training rows, to and from the canonical messages.

    alpaca             {"instruction", "input", "output", "system"?, "history"?: [[question, answer], …]}
    sharegpt           {"conversations": [{"from", "value"}, …], "system"?}
    messages           {"messages": [{"role", "content"}, …]}
    prompt_completion  {"prompt", "completion"}, both text, or both lists of messages

What else a row carries is kept in `meta["extra"]` (fields of the row) and
`meta["turns"]` (fields of a message, by its number) and written back on export,
so that a round trip gives the row that went in. Spellings are not kept: synonyms
(`human`/`user`, `response`/`output`) come back under the names above.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from tunesmith.data.records import Message, Row

Format = Literal["alpaca", "sharegpt", "messages", "prompt_completion"]
FORMATS: tuple[Format, ...] = get_args(Format)
Role = Literal["system", "user", "assistant"]

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
_SHAREGPT_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}
_TOOL_ROLES = {"tool", "function", "function_call", "observation", "ipython", "tool_call", "tool_response"}
_TOOL_FIELDS = ("tool_calls", "function_call", "tool_call_id")
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
MAX_NESTING = 50
INPUT_SEPARATOR = "\n\n"


class RowRejected(ValueError):
    """A row that is not what its format says. The text is the reason, for people."""


class NotExpressible(ValueError):
    """A row that the wanted format has no words for. The text is the reason, for people."""


def join_input(instruction: str, input: str) -> str:
    """The user message of an Alpaca row. The only place that joins the two."""
    if not input.strip():
        return instruction
    return f"{instruction}{INPUT_SEPARATOR}{input}" if instruction else input


def split_input(content: str, input: str) -> tuple[str, str]:
    """The instruction and input that `join_input` made `content` of; all of it and "" if it was edited since."""
    if not input.strip():
        return content, input
    if content == input:
        return "", input
    suffix = INPUT_SEPARATOR + input
    return (content[: -len(suffix)], input) if content.endswith(suffix) else (content, "")


def detect(record: Mapping[str, Any]) -> Format | None:
    """The format one row is written in, by its fields; None when it is none of them."""
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
    if format == "alpaca":
        messages = _from_alpaca(rest, meta)
    elif format == "prompt_completion":
        messages = _from_prompt_completion(rest, turns)
    else:
        messages = _from_conversation(rest, format, turns)
    split = rest.pop("split") if rest.get("split") in ("train", "eval") else None
    if rest:
        _refuse_deep(rest)
        meta["extra"] = rest
    if turns:
        _refuse_deep(turns)
        meta["turns"] = turns
    roles = [role for role, _content in messages]
    for wanted in ("user", "assistant"):
        if wanted not in roles:
            hint = " (preference data is not supported)" if "chosen" in record else ""
            raise RowRejected(f"the conversation has no {wanted} message{hint}")
    if any(holds_surrogate(content) for _role, content in messages):
        raise RowRejected("a text holds a lone surrogate, which is not valid Unicode")
    return Row(
        row_id=row_id,
        messages=[Message(role=role, content=content) for role, content in messages],
        split=split,
        meta=meta,
    )


def holds_surrogate(text: str) -> bool:
    """Whether `text` cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def from_row(row: Row, format: Format, *, conversational: bool = False) -> dict[str, Any]:
    """One row as `format` writes it.

    Args:
        conversational: for prompt_completion, write lists of messages instead of two texts.

    Raises:
        NotExpressible: with the reason.
    """
    if format == "alpaca":
        record = _as_alpaca(row)
    elif format == "prompt_completion":
        record = _as_prompt_completion(row, conversational)
    else:
        record = _as_conversation(row, format)
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
    instruction = _text(rest, "instruction")
    output = _text(rest, _present(rest, _OUTPUT_FIELDS, "output"))
    input_field = next((name for name in _INPUT_FIELDS if name in rest), None)
    input_text = ""
    if input_field is not None:
        input_text = _text(rest, input_field, null_is_empty=True)
        meta["input"] = input_text
    messages: list[tuple[Role, str]] = []
    if system := _text(rest, "system", null_is_empty=True) if "system" in rest else "":
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
    name = _present(rest, fields, fields[0])
    messages = _messages(_list(rest.pop(name), name), turns)
    if format == "sharegpt" and "system" in rest:
        system = _text(rest, "system", null_is_empty=True)
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
    prompt, completion = (_decoded(rest.pop(name)) for name in pair)
    messages: list[tuple[Role, str]] = []
    if isinstance(prompt, list):
        messages += _messages(prompt, turns)
    elif isinstance(prompt, str):
        messages.append(("user", prompt))
    else:
        raise RowRejected(f"{pair[0]} is {_kind(prompt)}, not text")
    if isinstance(completion, list):
        if len(completion) != 1:
            raise RowRejected(f"{pair[1]} holds {len(completion)} messages; write such rows as messages")
        last: dict[str, Any] = {}
        messages += _messages(completion, last)
        turns.update({str(len(messages) - 1): fields for fields in last.values()})
    elif isinstance(completion, str):
        messages.append(("assistant", completion))
    else:
        raise RowRejected(f"{pair[1]} is {_kind(completion)}, not text")
    if messages[-1][0] != "assistant":
        raise RowRejected(f"{pair[1]} is not the assistant's")
    return messages


def _messages(entries: Iterable[Any], turns: dict[str, Any]) -> list[tuple[Role, str]]:
    messages: list[tuple[Role, str]] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise RowRejected(f"message {number + 1} is {_kind(entry)}, not an object")
        rest = dict(entry)
        for name in ("role", "from", "content", "value"):
            if rest.get(name, "") is None:
                del rest[name]
        if any(rest.get(name) for name in _TOOL_FIELDS):
            raise RowRejected(f"message {number + 1} calls a tool; tool calls are not supported")
        speaker = rest.pop(_present(rest, ("role", "from"), "role"))
        if speaker in _TOOL_ROLES:
            raise RowRejected(f"message {number + 1} is a tool's ({speaker!r}); tool calls are not supported")
        role = ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise RowRejected(f"message {number + 1} has the unknown role {str(speaker)[:40]!r}")
        content = rest.pop(_present(rest, ("content", "value"), "content"))
        messages.append((role, _content(content, number + 1)))
        if rest:
            turns[str(number)] = rest
    return messages


def _content(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if parts and len(parts) == len(content) and all(isinstance(part, str) for part in parts):
            return "".join(part for part in parts if isinstance(part, str))
        raise RowRejected(f"message {number} holds something else than text; images and sounds are not supported")
    raise RowRejected(f"message {number} is {_kind(content)}, not text")


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


def _present(record: Mapping[str, Any], names: tuple[str, ...], wanted: str) -> str:
    found = next((name for name in names if name in record), None)
    if found is None:
        raise RowRejected(f"there is no {wanted!r}")
    return found


def _text(record: dict[str, Any], name: str, *, null_is_empty: bool = False) -> str:
    if name not in record:
        raise RowRejected(f"there is no {name!r}")
    value = record.pop(name)
    if value is None and null_is_empty:
        return ""
    if not isinstance(value, str):
        raise RowRejected(f"{name!r} is {_kind(value)}, not text")
    return value


def _list(value: Any, name: str) -> list[Any]:
    value = _decoded(value)
    if not isinstance(value, list):
        raise RowRejected(f"{name!r} is {_kind(value)}, not a list of messages")
    return value


def _decoded(value: Any) -> Any:
    """A list that a table's cell holds as JSON text; everything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        import orjson

        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _refuse_deep(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_NESTING):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise RowRejected(f"its fields are nested deeper than {MAX_NESTING} levels")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
