"""The parts that rows of every format are made of: roles, messages, texts, and how a table's cell holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

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
_TOOL_ROLES = {"tool", "function", "function_call", "observation", "ipython", "tool_call", "tool_response"}
_TOOL_FIELDS = ("tool_calls", "function_call", "tool_call_id")
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


def holds_surrogate(text: str) -> bool:
    """Whether `text` cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def read_messages(entries: Iterable[Any], turns: dict[str, Any]) -> list[tuple[Role, str]]:
    messages: list[tuple[Role, str]] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise RowRejected(f"message {number + 1} is {kind_of(entry)}, not an object")
        rest = dict(entry)
        for name in ("role", "from", "content", "value"):
            if rest.get(name, "") is None:
                del rest[name]
        if any(rest.get(name) for name in _TOOL_FIELDS):
            raise RowRejected(f"message {number + 1} calls a tool; tool calls are not supported")
        speaker = rest.pop(present(rest, ("role", "from"), "role"))
        if speaker in _TOOL_ROLES:
            raise RowRejected(f"message {number + 1} is a tool's ({speaker!r}); tool calls are not supported")
        role = ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise RowRejected(f"message {number + 1} has the unknown role {str(speaker)[:40]!r}")
        content = rest.pop(present(rest, ("content", "value"), "content"))
        messages.append((role, read_content(content, number + 1)))
        if rest:
            turns[str(number)] = rest
    return messages


def read_content(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if parts and len(parts) == len(content) and all(isinstance(part, str) for part in parts):
            return "".join(part for part in parts if isinstance(part, str))
        raise RowRejected(f"message {number} holds something else than text; images and sounds are not supported")
    raise RowRejected(f"message {number} is {kind_of(content)}, not text")


def present(record: Mapping[str, Any], names: tuple[str, ...], wanted: str) -> str:
    found = next((name for name in names if name in record), None)
    if found is None:
        raise RowRejected(f"there is no {wanted!r}")
    return found


def text_of(record: dict[str, Any], name: str, *, null_is_empty: bool = False) -> str:
    if name not in record:
        raise RowRejected(f"there is no {name!r}")
    value = record.pop(name)
    if value is None and null_is_empty:
        return ""
    if not isinstance(value, str):
        raise RowRejected(f"{name!r} is {kind_of(value)}, not text")
    return value


def list_of(value: Any, name: str) -> list[Any]:
    value = decoded(value)
    if not isinstance(value, list):
        raise RowRejected(f"{name!r} is {kind_of(value)}, not a list of messages")
    return value


def decoded(value: Any) -> Any:
    """A list that a table's cell holds as JSON text; everything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        import orjson

        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def refuse_deep(value: Any) -> None:
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


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
