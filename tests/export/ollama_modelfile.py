"""Reading a Modelfile as Ollama does: character by character, no escapes.

Its rules: a value runs to the first line break before which the text read so far, trimmed,
is a complete value. A value that begins with three double quotes is complete when it ends in three more. Outside
of a value's line breaks, tabs and spaces, characters that cannot be printed are dropped.
"""

from __future__ import annotations

COMMANDS = {"FROM", "TEMPLATE", "SYSTEM", "PARAMETER", "LICENSE", "ADAPTER", "MESSAGE"}


def read(text: str) -> list[tuple[str, str]]:
    """(command, value) pairs; ("PARAMETER name", value) for parameters."""
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        if text[position] in " \t\r\n":
            position += 1
        elif text[position] == "#":
            position = _line_end(text, position)
        else:
            command, position = _word(text, position)
            if command.upper() not in COMMANDS:
                raise ValueError(f"invalid command {command!r}")
            if command.upper() == "PARAMETER":
                name, position = _word(text, position)
                command = f"PARAMETER {name}"
            value, position = _value(text, position)
            found.append((command, value))
    return found


def _line_end(text: str, position: int) -> int:
    while position < len(text) and text[position] not in "\r\n":
        position += 1
    return position


def _word(text: str, position: int) -> tuple[str, int]:
    end = position
    while end < len(text) and (text[end].isalnum() or text[end] == "_"):
        end += 1
    return text[position:end], end + 1


def _value(text: str, position: int) -> tuple[str, int]:
    buffer = ""
    for index in range(position, len(text)):
        character = text[index]
        if character in "\r\n":
            complete = _unquoted(buffer.strip())
            if complete is not None:
                return complete, index
            buffer += character
        elif character in " \t" or character.isprintable():
            buffer += character
    complete = _unquoted(buffer.strip())
    if complete is None:
        raise ValueError(f"unexpected end of file: {buffer[:40]!r}")
    return complete, len(text)


def _unquoted(value: str) -> str | None:
    for quotes in ('"""', '"'):
        if value.startswith(quotes):
            whole = len(value) >= 2 * len(quotes) and value.endswith(quotes)
            return value[len(quotes) : -len(quotes)] if whole else None
    return value
