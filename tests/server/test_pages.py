"""Pages of lists: however long their items are, the cursors lead to every one of them."""

from __future__ import annotations

import json
from typing import Any

from mcp import Client

from tests.server.test_contract import Drive
from tunesmith.server.app import TunesmithServer

MANY = 90


def test_every_run_is_on_some_page_and_every_page_fits_a_result(server: TunesmithServer, drive: Drive) -> None:
    store = server.services.runs.store
    ids = [f"run_{'a' * 10}{chr(97 + number // 20)}{chr(97 + number % 20)}" for number in range(MANY)]
    for run_id in ids:
        store.insert(run_id, "score", ("cpu0",))
        store.request_cancel(run_id)

    async def talk(client: Client) -> list[str]:
        seen: list[str] = []
        cursor: str | None = None
        while True:
            arguments: dict[str, Any] = {"limit": 100} | ({"cursor": cursor} if cursor else {})
            page = (await client.call_tool("list_runs", arguments)).structured_content or {}
            assert len(json.dumps(page, ensure_ascii=False)) < 20_000
            assert page["total"] == MANY
            seen += [run["run_id"] for run in page["runs"]]
            cursor = page["next_cursor"]
            if cursor is None:
                return seen

    assert drive(talk) == ids[::-1]
