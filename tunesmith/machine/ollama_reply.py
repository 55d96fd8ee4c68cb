"""Reading what Ollama answers: JSON with a limit, error texts, and the errors they become."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ServiceFailed, Unreachable
from tunesmith.machine.records import InstalledModel, LoadedModel

if TYPE_CHECKING:
    import httpx2

GIB = 2**30
LARGEST_REPLY = 32 << 20  # bytes; a model's description is well below 1 MiB
_NO_ROOM = re.compile(r"no space left|not enough (disk )?space|disk quota|disk full", re.IGNORECASE)


def unreachable(host: str) -> Unreachable:
    """Nothing answers at `host`: how to start Ollama, or where to say that it is elsewhere."""
    return Unreachable(
        f"Ollama does not answer at {host}.",
        next="Start it with `ollama serve` (or open the Ollama app); if it runs elsewhere, "
        "set OLLAMA_HOST, for example OLLAMA_HOST=http://192.168.1.20:11434. Then call again.",
    )


def service_failed(host: str, status: int, message: str, doing: str) -> ServiceFailed:
    """Ollama answered with an error: its message, and a step that fits it."""
    said = message or f"HTTP status {status}"
    if _NO_ROOM.search(said):
        step = (
            "Free some space where Ollama keeps its models (OLLAMA_MODELS; `ollama rm NAME` removes one), "
            "then call again."
        )
    elif status in (502, 503, 504, 507):
        step = "Something before Ollama answered in its place, or Ollama is busy: see whether it runs, then call again."
    elif 300 <= status < 400:
        step = "Give the address that it leads to as host; redirections are not followed."
    elif status in (401, 403):
        step = "Check that this host lets you in: Ollama answers only callers that it knows as local or allowed."
    else:
        step = "Look at Ollama's own log for the cause, mend it and call again."
    return ServiceFailed(f"Ollama at {host} failed while {doing}: {said}", next=step)


def clean(text: str, limit: int = 500) -> str:
    """Another program's message on one line: no control characters, at most `limit` characters."""
    line = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text)
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", line).split())
    return line if len(line) <= limit else f"{line[:limit]}… ({len(line) - limit} more characters)"


def read_limited(reply: httpx2.Response, host: str) -> bytes:
    content = bytearray()
    for chunk in reply.iter_bytes():
        content += chunk
        if len(content) > LARGEST_REPLY:
            raise ServiceFailed(
                f"{host} sent more than {LARGEST_REPLY >> 20} MiB for a short answer.", next="Check that it is Ollama."
            )
    return bytes(content)


def error_text(content: bytes) -> str:
    """The message in an error body: {"error": …}, the title of a web page, or the body itself."""
    try:
        parsed = json.loads(content)
    except ValueError:
        text = content.decode("utf-8", "replace")
        if not re.match(r"\s*<", text):
            return clean(text)
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        return f"a web page, not an answer of Ollama ({clean(title[1], 100) if title else 'without a title'})"
    if isinstance(parsed, dict) and "error" in parsed:
        return clean(str(parsed["error"]))
    return clean(content.decode("utf-8", "replace"))


def json_object(content: bytes, host: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise not_ollama(host) from error
    if not isinstance(parsed, dict):
        raise not_ollama(host)
    return parsed


def not_ollama(host: str) -> ServiceFailed:
    return ServiceFailed(
        f"What answers at {host} does not speak Ollama's API.",
        next="Check the address: Ollama listens on port 11434 unless OLLAMA_HOST says otherwise. If a proxy answers in "
        "its place, take this host out of the proxy (NO_PROXY).",
    )


def text_field(record: Mapping[str, Any], key: str, host: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise not_ollama(host)
    return clean(value, 80)


def list_field(record: Mapping[str, Any], key: str, host: str) -> list[dict[str, Any]]:
    value = record.get(key)
    # Go writes an empty list as null in some versions.
    if value is None and key in record:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise not_ollama(host)
    return value


def number_field(record: Mapping[str, Any], key: str) -> float:
    value = record.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def installed_model(model: Mapping[str, Any]) -> InstalledModel:
    details = model.get("details")
    details = details if isinstance(details, dict) else {}
    return InstalledModel(
        name=str(model.get("name") or model.get("model") or ""),
        gib=round(number_field(model, "size") / GIB, 3),
        digest=str(model.get("digest", "")),
        family=str(details.get("family") or "") or None,
        parameters=str(details.get("parameter_size") or "") or None,
        quantization=str(details.get("quantization_level") or "") or None,
        modified_at=str(model.get("modified_at") or "") or None,
    )


def loaded_model(model: Mapping[str, Any]) -> LoadedModel:
    return LoadedModel(
        name=str(model.get("name") or model.get("model") or ""),
        total_gib=round(number_field(model, "size") / GIB, 3),
        gpu_gib=round(number_field(model, "size_vram") / GIB, 3),
        expires_at=str(model["expires_at"]) if model.get("expires_at") else None,
    )
