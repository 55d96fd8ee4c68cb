"""How LLaMA-Factory is told what an exported file holds: an entry of its `dataset_info.json`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tunesmith.data.formats import Format


def dataset_info(
    path: Path, format: Format, fields: Collection[str], *, conversational: bool, ranking: bool = False
) -> dict[str, Any] | None:
    """The entry for a file, under the file's name without its ending. None for prompts that are lists of messages.

    Args:
        fields: those that any row has; a column that is named and absent is an error there.
        ranking: every row holds a chosen and a rejected answer.
    """
    entry: dict[str, Any] = {"file_name": path.name}
    answers = {name: name for name in ("chosen", "rejected")} if ranking else {}
    if ranking:
        entry["ranking"] = True
    match format:
        case "alpaca":
            entry["columns"] = {"prompt": "instruction", "query": "input", **(answers or {"response": "output"})}
            entry["columns"] |= {name: name for name in ("system", "history") if name in fields}
        case "sharegpt":
            entry |= {"formatting": "sharegpt", "columns": {"messages": "conversations", **answers}}
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
        case "preference":
            return None
        case "prompt_completion":
            if conversational:
                return None
            entry["columns"] = {"prompt": "prompt", "response": "completion"}
    return {path.stem: entry}
