"""Tools whose arguments are never guessed and whose errors always say what to do next."""

from __future__ import annotations

import difflib
import json
import logging
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, ConfigDict, ValidationError

from tunesmith.errors import UserError
from tunesmith.tools.services import ToolSpec

logger = logging.getLogger(__name__)

RESULT_LIMIT = 20_000
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


class StrictTool(Tool):
    """A tool that refuses unknown arguments and wrong types by name and cuts results that are too long."""

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        try:
            validated = self.fn_metadata.validate_arguments(arguments)
        except ValidationError as error:
            names = list(self.fn_metadata.arg_model.model_fields)
            raise ToolError(explain(error, self.name, names)) from None
        try:
            result = await self.fn_metadata.call_fn(self.fn, self.is_async, validated)
        except MCPError:
            raise
        except UserError as error:
            raise ToolError(str(error)) from error
        except Exception as error:
            raise UnexpectedToolError(
                f"[internal_error] {self.name} failed: a fault of tunesmith, not yours. "
                "Next: read the traceback in the server's log (standard error) and report it."
            ) from error
        return to_result(result) if convert_result else result


def build(spec: ToolSpec) -> Tool:
    """The MCP tool of a specification."""
    tool = StrictTool.from_function(
        spec.fn,
        title=spec.title,
        description=" ".join((spec.fn.__doc__ or "").split()),
        annotations=ToolAnnotations(
            title=spec.title,
            read_only_hint=spec.read_only,
            destructive_hint=spec.destructive,
            idempotent_hint=spec.idempotent,
            open_world_hint=spec.open_world,
        ),
    )
    loose = tool.fn_metadata.arg_model
    strict = type(loose.__name__, (loose,), {"model_config": _STRICT, "__module__": loose.__module__})
    tool.fn_metadata.arg_model = strict
    tool.parameters = _lean(strict.model_json_schema(by_alias=True))
    return tool


def explain(error: ValidationError, tool: str, names: list[str]) -> str:
    """All that is wrong with the arguments, in words, without the rejected values."""
    problems = []
    for detail in error.errors():
        where = ".".join(str(part) for part in detail["loc"] if not str(part).startswith(("function-", "constrained-")))
        if detail["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where, names, n=1) if len(detail["loc"]) == 1 else []
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            problems.append(f"{where!r} is not an argument of {tool}{hint}")
        elif detail["type"] == "missing":
            problems.append(f"{where} is missing")
        else:
            problems.append(f"{where}: {detail['msg'][0].lower()}{detail['msg'][1:]}")
    text = "; ".join(dict.fromkeys(problems))
    return (
        f"[invalid_argument] {text[:1500]}. Next: correct that and call {tool} again; "
        f"its arguments are {', '.join(names) or 'none'}."
    )


def unknown_tool(name: str, known: list[str]) -> str:
    """The error for a tool that is not there, the nearest one named."""
    near = difflib.get_close_matches(name, known, n=1)
    step = f"call {near[0]}" if near else f"use one of {', '.join(known)}"
    return f"[invalid_argument] There is no tool {name[:60]!r}. Next: {step}."


def to_result(result: BaseModel) -> CallToolResult:
    """Structured content and the same as compact JSON text, both within the limit."""
    content = result.model_dump(mode="json", by_alias=True)
    text = json.dumps(content, ensure_ascii=False)
    cut: list[str] = []
    while len(text) > RESULT_LIMIT - 500 and (shortened := _shorten_largest(content)):
        cut.append(shortened)
        text = json.dumps(content, ensure_ascii=False)
    blocks = [TextContent(type="text", text=text)]
    if cut:
        note = f"Cut to keep the result short: {', '.join(dict.fromkeys(cut))}. The resources have all of it."
        blocks.append(TextContent(type="text", text=note[:480]))
    return CallToolResult(content=list(blocks), structured_content=content)


def _shorten_largest(content: Any) -> str | None:
    """Halve the list or text that weighs most; its path, or None when nothing is left to cut."""
    best: tuple[int, Any, Any, str] | None = None
    stack: list[tuple[Any, str]] = [(content, "")]
    while stack:
        node, path = stack.pop()
        entries = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in entries:
            here = f"{path}.{key}" if path else str(key)
            if isinstance(value, str):
                weight = len(value) if len(value) > 400 else 0
            elif isinstance(value, list):
                weight = len(json.dumps(value, ensure_ascii=False)) if len(value) > 3 else 0
                stack.append((value, here))
            elif isinstance(value, dict):
                weight = 0
                stack.append((value, here))
            else:
                continue
            if weight and (best is None or weight > best[0]):
                best = (weight, node, key, here)
    if best is None:
        return None
    _, node, key, path = best
    node[key] = node[key][: len(node[key]) // 2]
    return path


def _lean(schema: Any) -> Any:
    """What says nothing costs every model that reads the list: generated titles, null defaults, that an object may hold
    anything, and that an argument which may be left out may be null. (It still may.)
    """
    if isinstance(schema, list):
        return [_lean(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: _lean(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "default" and value is None)
        and not (key == "additionalProperties" and value is True)
    }
    kinds = found.get("anyOf", [])
    if {"type": "null"} in kinds:
        kinds = [kind for kind in kinds if kind != {"type": "null"}]
        del found["anyOf"]
        found = {**kinds[0], **found} if len(kinds) == 1 else {"anyOf": kinds, **found}
    for entry in found.get("$defs", {}).values():
        entry.pop("description", None)  # where it is used, the argument says what it is
    return found
