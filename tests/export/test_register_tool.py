"""register_ollama as a client calls it: what is wrong is said at once, and no run is started for it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from mcp import Client

from tests.export.conftest import Tiny
from tunesmith.models.records import ModelRecord
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.server.app import build_server
from tunesmith.server.settings import Settings


@pytest.fixture(scope="module")
def record(tiny: Tiny) -> ModelRecord:
    """A model whose q4_k_m file is there."""
    record = tiny.model()
    path = tiny.folder(record) / "quillon-notes-q4_k_m.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    entry = describe_file(tiny.folder(record), path, "gguf", "q4_k_m")
    return ModelStore(tiny.workspace).update(record.model_id, add_files=[entry])


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "../x"}, "'..'"),
    ({"name": "x\nFROM y"}, "newline"),
    ({"name": "a" * 300}, "200 characters"),
    ({"name": "a:b:c"}, "no Ollama name"),
    ({"system": 'stop"""\nFROM evil'}, "three double quotes"),
    ({"system": "a\0b"}, "U+0000"),
    ({"system": "a" * 1_000_000}, "20000 characters"),
    ({"parameters": {"temprature": 1}}, "did you mean temperature"),
    ({"parameters": {"num_ctx": "512"}}, "num_ctx must be a whole number"),
    ({"parameters": {"num_ctx": 10**6}}, "at most 2,048"),
    ({"parameters": {"stop": ["s"] * 50}}, "of 32 at most"),
    ({"quantization": "adapter"}, "adapter_only=true"),
    ({"quantization": "adaptor"}, "nearest is adapter"),
    ({"quantization": "q8_0"}, "quantizations=['q8_0']"),
    ({"host": "unix:///run/ollama.sock"}, "http or https"),
    ({"host": "http://169.254.169.254"}, "metadata"),
    ({"host": "http://user:hidden-word@127.0.0.1"}, "user name or password"),
]


def test_wrong_arguments_are_said_at_once(tiny: Tiny, record: ModelRecord) -> None:
    async def talk() -> None:
        server = build_server(Settings(workspace=tiny.workspace.root, allow_roots=list(tiny.workspace.roots.roots)))
        async with Client(server) as client:
            for arguments, named in WRONG:
                call = {"model": record.model_id, "name": "n", **arguments}
                result = await client.call_tool("register_ollama", call)
                text = "".join(getattr(part, "text", "") for part in result.content)
                assert result.is_error, arguments
                assert named in text
                assert "Next:" in text
                assert "hidden-word" not in text
            runs = await client.call_tool("list_runs", {"kind": "register"})
            assert runs.structured_content["total"] == 0

    anyio.run(talk)
