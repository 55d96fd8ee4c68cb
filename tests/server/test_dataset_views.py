"""Datasets as resources, and the tools for files that are too large to be read inside a call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from tests.data.rows import clean_rows, pair_row, stored
from tunesmith.data import exporting, importing
from tunesmith.data.store import DatasetStore
from tunesmith.server.app import TunesmithServer
from tunesmith.tools import data

Drive = Callable[..., Any]


async def read(client: Client, uri: str) -> dict[str, Any]:
    text = (await client.read_resource(uri)).contents[0].text
    assert len(text) <= 20_000
    return json.loads(text)


async def pages(client: Client, uri: str) -> list[dict[str, Any]]:
    found = [await read(client, uri)]
    while "next" in found[-1]:
        assert found[-1]["next"].endswith(f"?cursor={found[-1]['next_cursor']}")
        found.append(await read(client, found[-1]["next"]))
    return found


def test_rows_come_in_pages_that_name_the_next_and_a_huge_row_is_cut_and_says_so(
    drive: Drive, server: TunesmithServer
) -> None:
    rows = [pair_row(f"q{n}", "答案\n" * (n * 10)) for n in range(120)]
    rows[60] = pair_row("huge", "x" * 3_000_000)
    dataset = stored(server.services.workspace, rows)

    async def talk(client: Client) -> Any:
        return await pages(client, f"datasets://{dataset.dataset_id}/rows")

    found = drive(talk)
    assert [row["row_id"] for page in found for row in page["rows"]] == [f"r{n}" for n in range(1, 121)]
    assert {page["total"] for page in found} == {120}
    (cut,) = (page for page in found if "note" in page)
    assert "of r61 are left out" in cut["note"]
    assert "characters left out]" in cut["rows"][0]["messages"][1]["content"]
    assert len(found) < 30


def test_a_report_comes_in_pages_the_score_on_the_first(drive: Drive, server: TunesmithServer) -> None:
    workspace = server.services.workspace
    dataset = stored(workspace, clean_rows(3))
    flagged = [
        {"row_id": f"r{n}", "findings": [{"check": "pii", "severity": "warning", "message": "m" * 60, "fix": "f"}]}
        for n in range(700)
    ]
    report = {"dataset_id": dataset.dataset_id, "grade": "F", "findings": [], "rows": flagged, "judged_rows": flagged}
    DatasetStore(workspace).write_report(dataset.dataset_id, "report.json", json.dumps(report))

    async def talk(client: Client) -> Any:
        uri = f"datasets://{dataset.dataset_id}/report"
        found = await pages(client, uri)
        with pytest.raises(MCPError, match="700 flagged rows"):
            await client.read_resource(f"{uri}?cursor=700")
        return found

    first, *others = drive(talk)
    assert first["grade"] == "F"
    assert "more in report.json" in first["judged_rows"][-1]
    assert all("grade" not in page for page in others)
    assert [row["row_id"] for page in (first, *others) for row in page["rows"]] == [f"r{n}" for n in range(700)]


@pytest.mark.parametrize("cursor", ["0", "3", "-1", "x", "9" * 30])
def test_a_wrong_cursor_is_said_to_be_none(drive: Drive, server: TunesmithServer, cursor: str) -> None:
    dataset = stored(server.services.workspace, clean_rows(3))

    async def talk(client: Client) -> Any:
        with pytest.raises(MCPError, match=r"not a cursor.*Next: Leave cursor out"):
            await client.read_resource(f"datasets://{dataset.dataset_id}/rows?cursor={cursor}")

    drive(talk)


def test_a_preview_of_a_huge_row_is_short_and_says_what_is_left_out(drive: Drive, server: TunesmithServer) -> None:
    dataset = stored(server.services.workspace, [pair_row("q", "x" * 3_000_000), *clean_rows(3)])

    async def talk(client: Client) -> Any:
        result = await client.call_tool("preview_dataset", {"dataset_id": dataset.dataset_id})
        return result.structured_content

    page = drive(talk)
    assert "characters of r1 are left out" in page["note"]
    assert "3 of the 4 rows asked for are left out" in page["note"]
    assert page["next_cursor"] == "1"


def test_what_is_large_is_imported_split_and_exported_by_a_run_and_the_call_returns_the_same(
    drive: Drive, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "SMALL_BYTES", 10)
    monkeypatch.setattr(exporting, "SMALL_BYTES", 10)
    monkeypatch.setattr(data, "FEW_ROWS", 1)
    lines = [json.dumps({"instruction": f"question {n}", "output": f"answer {n} of many"}) for n in range(40)]
    (notes.parent / "big.jsonl").write_text("\n".join([*lines, "broken"]), encoding="utf-8")

    async def talk(client: Client) -> Any:
        async def call(name: str, **arguments: Any) -> Any:
            result = await client.call_tool(name, arguments)
            assert not result.is_error, result.content[0].text
            return result.structured_content

        imported = await call("import_dataset", source="big.jsonl")
        split = await call("split_dataset", dataset_id=imported["dataset_id"])
        exported = await call("export_dataset", dataset_id=split["dataset_id"], format="messages")
        kinds = [run["kind"] for run in (await call("list_runs"))["runs"]]
        bad = await client.call_tool("import_dataset", {"source": "big.jsonl", "format": "sharegpt"})
        exists = await client.call_tool("export_dataset", {"dataset_id": split["dataset_id"], "format": "messages"})
        return imported, split, exported, kinds, bad.content[0].text, exists.content[0].text

    imported, split, exported, kinds, bad, exists = drive(talk)
    assert (imported["rows"], imported["rejected"][0]["line"]) == (40, 41)
    assert split["parents"] == [imported["dataset_id"]]
    assert exported["rows"] == 40
    assert kinds == ["write", "split", "import"]
    assert bad.startswith("[bad_input] None of the 41 rows")
    assert exists.startswith("[conflict]")


def test_an_import_that_takes_longer_goes_on_and_names_the_call_that_has_its_result(
    drive: Drive, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "SMALL_BYTES", 10)
    monkeypatch.setattr(data, "LARGE_WAIT_S", 0.0)
    (notes.parent / "big.jsonl").write_text('{"prompt": "q", "completion": "a"}\n' * 20, encoding="utf-8")

    async def talk(client: Client) -> Any:
        text = (await client.call_tool("import_dataset", {"source": "big.jsonl"})).content[0].text
        run_id = text.partition('run_id="')[2].partition('"')[0]
        run = (await client.call_tool("get_run", {"run_id": run_id, "wait_s": 40})).structured_content
        return text, run

    text, run = drive(talk)
    assert text.startswith("[still_running] The import goes on in run_")
    assert (run["state"], run["result"]["rows"]) == ("succeeded", 20)
    assert run["next"].startswith("score_dataset(")


def test_a_list_of_datasets_shorter_than_asked_for_goes_on_where_it_ended(
    drive: Drive, server: TunesmithServer
) -> None:
    made = [stored(server.services.workspace, clean_rows(1)).dataset_id for _ in range(70)]

    async def talk(client: Client) -> list[str]:
        found: list[str] = []
        cursor = None
        while True:
            result = await client.call_tool("list_datasets", {"limit": 100, "cursor": cursor})
            assert result.structured_content is not None
            assert len(result.content) == 1  # nothing was cut after the page was made
            found += [entry["dataset_id"] for entry in result.structured_content["datasets"]]
            assert result.structured_content["total"] == len(made)
            cursor = result.structured_content["next_cursor"]
            if cursor is None:
                return found

    assert drive(talk) == made[::-1]


@pytest.mark.parametrize("chars", [99, 20_001])
def test_an_answer_length_that_extraction_would_refuse_is_refused_before_the_run(
    drive: Drive, server: TunesmithServer, notes: Path, chars: int
) -> None:
    async def talk(client: Client) -> Any:
        result = await client.call_tool("extract_qa", {"source": str(notes), "max_answer_chars": chars})
        assert result.is_error
        return server.services.runs.workspace.database.read("SELECT COUNT(*) AS n FROM runs")[0]["n"]

    assert drive(talk) == 0
