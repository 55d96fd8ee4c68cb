"""A server in this process, connected to by real clients of both protocol eras."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from tunesmith.server.app import TunesmithServer, build_server
from tunesmith.server.settings import Settings

NOTES = """# Wren manual

## Waking the logger

Hold the magnet on the wren mark for four seconds. The light then blinks green twice and the logger is awake.

## Error E32

E32 means that water got into the tube. Stop using the logger, open a return and send it to the workshop.

Q: How long does the battery last?
A: The battery lasts thirty-eight months at the default interval of fifteen minutes.

## 校准周期

校准每十四个月做一次,在二十度的水槽里等待二十五分钟之后才开始读数。
"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed" / "notes"
    folder.mkdir(parents=True)
    (folder / "wren.md").write_text(NOTES, encoding="utf-8")
    return folder


@pytest.fixture
def server(tmp_path: Path, notes: Path) -> TunesmithServer:
    return build_server(Settings(workspace=tmp_path / "ws", allow_roots=[notes.parent]))


@pytest.fixture(params=["auto", "legacy"])
def drive(
    request: pytest.FixtureRequest, server: TunesmithServer
) -> Callable[[Callable[[Client], Awaitable[Any]]], Any]:
    """Runs a conversation with the server, once in each protocol era."""

    def run(talk: Callable[[Client], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with Client(server, mode=request.param) as client:
                return await talk(client)

        return anyio.run(main)

    return run
