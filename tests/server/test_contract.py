"""What every tool promises: names, schemas, strict arguments, errors with a next step, bounded results."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from mcp import Client

NAMES = {
    *("check_gpu", "extract_qa", "import_dataset", "add_examples", "preview_dataset", "score_dataset"),
    *("clean_dataset", "split_dataset", "export_dataset", "list_datasets", "plan_training", "start_training"),
    *(
        "resume_run",
        "get_run",
        "list_runs",
        "cancel_run",
        "diagnose_run",
        "list_models",
        "export_gguf",
        "register_ollama",
    ),
    *("ask_model", "compare_models", "record_scores"),
}
DATASET = "ds_abcdefghijkl"
Drive = Callable[..., Any]


def test_the_tools_are_those_of_the_contract_and_described_in_full(drive: Drive) -> None:
    async def talk(client: Client) -> Any:
        return (await client.list_tools()).tools

    tools = drive(talk)
    assert {tool.name for tool in tools} == NAMES
    for tool in tools:
        assert tool.title
        assert "Use this when" in tool.description
        assert "Example" in tool.description
        assert "Next:" in tool.description
        assert tool.output_schema is not None
        hints = tool.annotations
        assert None not in (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint)
        assert tool.input_schema["additionalProperties"] is False
        for name, field in tool.input_schema["properties"].items():
            assert field.get("description"), f"{tool.name}.{name}"


def test_all_tools_together_cost_a_model_at_most_20000_characters(drive: Drive) -> None:
    async def talk(client: Client) -> Any:
        return (await client.list_tools()).tools

    cost = sum(len(tool.name) + len(tool.description) + len(json.dumps(tool.input_schema)) for tool in drive(talk))
    assert cost <= 20_000


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("check_gpu", {"prob": True}, "did you mean 'probe'"),
        ("check_gpu", {"probe": "true"}, "probe: "),
        ("check_gpu", {"probe": 1}, "probe: "),
        ("list_runs", {"limit": "7"}, "limit: input should be a valid integer"),
        ("list_runs", {"limit": True}, "limit: input should be a valid integer"),
        ("list_runs", {"limit": 2.0}, "limit: input should be a valid integer"),
        ("list_runs", {"limit": 0}, "limit: input should be greater than or equal to 1"),
        ("list_runs", {"limit": 2**63}, "limit: "),
        ("list_runs", {"state": "done"}, "state: "),
        ("list_runs", {"cursor": "' OR 1=1"}, "cursor"),
        ("get_run", {}, "run_id is missing"),
        ("get_run", {"run_id": "run_abcdefghijkl"}, "[not_found]"),
        ("get_run", {"run_id": "../../etc/passwd"}, "is not an id"),
        ("get_run", {"run_id": DATASET}, "is a dataset id"),
        ("get_run", {"run_id": "run_abcdefghijkl", "wait_s": 51}, "wait_s: "),
        ("cancel_run", {"run_id": "run_abcdefghijkl"}, "[not_found]"),
        ("diagnose_run", {"run_id": "run_abcdefghijkl"}, "[not_found]"),
        ("resume_run", {"run_id": "run_abcdefghijkl"}, "[not_found]"),
        ("resume_run", {"run_id": DATASET}, "is a dataset id"),
        ("resume_run", {"run_id": "run_abcdefghijkl", "recipe_changes": [1]}, "recipe_changes: "),
        ("resume_run", {"run_id": "run_abcdefghijkl", "recipe": {}}, "recipe"),
        ("extract_qa", {"source": "/etc/passwd"}, "[path_refused]"),
        ("extract_qa", {"source": "../../../etc"}, "[path_refused]"),
        ("extract_qa", {"source": "/dev/zero"}, "[path_refused]"),
        ("extract_qa", {"source": "a\0b"}, "[path_refused]"),
        ("extract_qa", {"source": "nowhere"}, "[not_found]"),
        (
            "extract_qa",
            {"source": "notes", "llm": {"model": "embedded", "pairs": 3}},
            "did you mean 'pairs_per_section'",
        ),
        ("extract_qa", {"source": "notes", "llm": {"model": "gpt"}}, "is no model reference"),
        ("extract_qa", {"source": "notes", "strategies": []}, "strategies is empty"),
        ("score_dataset", {"dataset_id": DATASET, "llm_judge": {"model": "embedded", "rows": 3}}, "'max_rows'"),
        ("score_dataset", {"dataset_id": DATASET}, "[not_found]"),
        ("score_dataset", {"dataset_id": DATASET, "wait_s": float("nan")}, "wait_s: "),
        ("clean_dataset", {"dataset_id": DATASET, "near_duplicate_threshold": 1e308}, "near_duplicate_threshold: "),
        ("split_dataset", {"dataset_id": DATASET}, "[not_found]"),
        ("preview_dataset", {"dataset_id": DATASET}, "[not_found]"),
        ("plan_training", {"dataset_id": DATASET, "recipe": {"rnk": 8}}, "did you mean rank"),
        ("plan_training", {"dataset_id": DATASET, "recipe": {"rank": "8"}}, "rank"),
        ("start_training", {"dataset_id": DATASET}, "[not_found]"),
        ("export_gguf", {"model": "run_abcdefghijkl"}, "[not_found]"),
        ("export_gguf", {"model": "run_abcdefghijkl", "quantizations": ["q4_km"]}, "q4_k_m"),
        ("register_ollama", {"model": "mdl_abcdefghijkl", "name": "../x"}, "[invalid_argument]"),
        ("ask_model", {"model": "mdl_abcdefghijkl", "prompt": "hello"}, "[not_found]"),
        ("compare_models", {"models": [{"label": "a", "model": "embedded"}], "questions": ["x"]}, "[invalid_argument]"),
        ("compare_models", {"models": [{"label": "a", "modl": "embedded"}]}, "models.0."),
        ("check_gpus", {}, "Next: call check_gpu"),
    ],
)
def test_wrong_input_gets_an_error_that_names_it_and_says_what_to_do(
    drive: Drive, tool: str, arguments: dict[str, Any], expected: str
) -> None:
    async def talk(client: Client) -> Any:
        return await client.call_tool(tool, arguments)

    result = drive(talk)
    assert result.is_error
    text = result.content[0].text
    assert expected in text
    assert text.startswith("[")
    assert "Next: " in text
    assert "Traceback" not in text


def test_links_pipes_and_sibling_folders_are_refused(drive: Drive, notes: Any, tmp_path: Any) -> None:
    import os

    (tmp_path / "allowed_evil").mkdir()
    (notes.parent / "link").symlink_to("/etc")
    os.mkfifo(notes.parent / "pipe")

    async def talk(client: Client) -> Any:
        sources = [str(tmp_path / "allowed_evil"), "link", "pipe"]
        return [await client.call_tool("extract_qa", {"source": source}) for source in sources]

    for result in drive(talk):
        assert result.is_error
        assert result.content[0].text.startswith("[path_refused]")


def test_a_folder_without_notes_fails_and_leaves_no_dataset(drive: Drive, notes: Any) -> None:
    (notes.parent / "empty").mkdir()

    async def talk(client: Client) -> Any:
        run = await client.call_tool("extract_qa", {"source": "empty", "wait_s": 40})
        return run.structured_content, (await client.call_tool("list_datasets", {})).structured_content

    run, datasets = drive(talk)
    assert run["state"] == "failed"
    assert run["error"]["code"] == "empty_input"
    assert datasets["total"] == 0


def test_a_result_is_never_longer_than_20000_characters(drive: Drive, notes: Any) -> None:
    rows = [{"instruction": f"question {n}", "output": f"answer {n} " * 150} for n in range(120)]
    (notes.parent / "big.jsonl").write_text("\n".join(map(json.dumps, rows)))

    async def talk(client: Client) -> Any:
        dataset = (await client.call_tool("import_dataset", {"source": "big.jsonl"})).structured_content
        seen, cursor = [], None
        while True:
            arguments = {"dataset_id": dataset["dataset_id"], "limit": 100} | ({"cursor": cursor} if cursor else {})
            page = await client.call_tool("preview_dataset", arguments)
            assert len(page.content[0].text) <= 20_000
            seen += [entry["row"]["row_id"] for entry in page.structured_content["rows"]]
            cursor = page.structured_content["next_cursor"]
            if cursor is None:
                return seen

    assert drive(talk) == [f"r{n}" for n in range(1, 121)]
