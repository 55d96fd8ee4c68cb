"""How LLaMA-Factory is told what an exported file holds: an entry of its `dataset_info.json`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tunesmith.data.formats import Format


def dataset_info(path: Path, format: Format, fields: Collection[str], *, conversational: bool) -> dict[str, Any] | None:
    """The entry for a file, under the file's name without its ending. None for prompts that are lists of messages.

    Args:
        fields: those that any row has; a column that is named and absent is an error there.
    """
    entry: dict[str, Any] = {"file_name": path.name}
    match format:
        case "alpaca":
            entry["columns"] = {"prompt": "instruction", "query": "input", "response": "output"}
            entry["columns"] |= {name: name for name in ("system", "history") if name in fields}
        case "sharegpt":
            entry |= {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
        case "messages":
            entry |= {
                "formatting": "sharegpt",
                "columns": {"messages": "messages"},
                "tags": {
                    "role_tag": "role",
                    "content_tag": "content",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                    "system_tag": "system",
                },
            }
        case "prompt_completion":
            if conversational:
                return None
            entry["columns"] = {"prompt": "prompt", "response": "completion"}
    return {path.stem: entry}
