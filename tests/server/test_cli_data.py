"""`tunesmith data`, as people and scripts use it: in terminals and in pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.runs.conftest import kill_all_of
from tests.server.terminal import Terminal
from tunesmith.workspace import Workspace

NOTES = """# Wells

## How deep is the well?

The well behind the mill is forty metres deep.

## 井水有多冷？

井水全年都是九度,夏天也一样冷。
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with the workspace `ws`."""
    monkeypatch.setenv("TUNESMITH_WORKSPACE", str(tmp_path / "ws"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    kill_all_of(Workspace(tmp_path / "ws"))


def tunesmith(*arguments: str, typed: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunesmith", "data", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, input=typed)


def done(*arguments: str, typed: str | None = None) -> str:
    finished = tunesmith(*arguments, typed=typed)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "\x1b" not in finished.stdout
    return finished.stdout


def told(*arguments: str, typed: str | None = None) -> Any:
    return json.loads(done(*arguments, "--json", typed=typed))


def refused(*arguments: str) -> str:
    """The one line of an error."""
    finished = tunesmith(*arguments)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert finished.stdout == ""
    line = finished.stderr.splitlines()[-1]
    assert line.startswith("[")
    assert " Next: " in line
    return line


def rows_file(place: Path, count: int = 30) -> Path:
    path = place / "qa.jsonl"
    lines = [
        {"instruction": f"第{n}个问题是什么?", "output": f"这是第{n}个答案,写得足够长,不会太短。"} for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_from_notes_to_an_export_as_a_person_types_it(place: Path) -> None:
    (place / "notes").mkdir()
    (place / "notes" / "wells.md").write_text(NOTES, encoding="utf-8")
    extracted = done("extract", "notes", "--name", "井", "--strategies", "sections,faq")
    first = extracted.splitlines()[0].split()[1]
    assert f"tunesmith data score {first}" in extracted
    scored = done("score", first)
    assert scored.startswith("Grade ")
    assert "too_few_rows" in scored
    last = scored.splitlines()[-1]
    assert last.startswith("Report: ") and Path(last.removeprefix("Report: ")).is_file()
    cleaned = done("clean", first)
    second = cleaned.splitlines()[0].split()[1]
    assert f"tunesmith data split {second}" in cleaned
    third = told("split", second[-6:], "--eval-fraction", "0.5")
    assert third["splits"]["eval"] >= 1
    exported = done("export", third["dataset_id"], "--format", "alpaca", "--path", "out.json")
    assert str(place / "out.json") in exported
    assert len(json.loads((place / "out.json").read_text(encoding="utf-8"))) == third["rows"]
    assert refused("export", first, "--format", "alpaca", "--path", "out.json").startswith("[conflict]")
    shown = done("preview", first, "--limit", "1")
    assert "wells.md:" in shown and "user:" in shown
    listed = done("list").splitlines()
    assert [line.split()[0] for line in listed[1:]] == [third["dataset_id"], second, first]
    assert f"from        {second}" in done("show", third["dataset_id"])


def test_programs_get_what_the_tools_give(place: Path) -> None:
    imported = told("import", str(rows_file(place)))
    assert (imported["rows"], imported["rejected"], imported["format"]) == (30, [], "alpaca")
    dataset_id = imported["dataset_id"]
    page = told("list", "--limit", "1")
    assert [each["dataset_id"] for each in page["datasets"]] == [dataset_id]
    assert (page["total"], page["next_cursor"]) == (1, None)
    assert told("show", dataset_id)["sha256"] == imported["sha256"]
    assert [entry["row"]["row_id"] for entry in told("preview", dataset_id, "--limit", "2")["rows"]] == ["r1", "r2"]
    run = told("score", dataset_id)
    assert (run["state"], run["result"]["rows"]) == ("succeeded", 30)
    cleaned = told("clean", dataset_id)
    assert cleaned["rows_in"] == cleaned["kept"] + cleaned["dropped"]
    assert cleaned["run_id"].startswith("run_")
    assert told("export", dataset_id, "--format", "messages")["rows"] == 30


def test_rejected_rows_are_shown_by_line_and_all_of_them_are_in_a_file(place: Path) -> None:
    path = rows_file(place)
    path.write_text(path.read_text(encoding="utf-8") + "broken\n" * 9, encoding="utf-8")
    shown = done("import", str(path))
    assert "line 31: not valid JSON" in shown
    assert "and 4 more" in shown
    (file,) = (line.split()[-1] for line in shown.splitlines() if line.startswith("all of them"))
    assert len(Path(file).read_text(encoding="utf-8").splitlines()) == 9


def test_a_file_anywhere_may_be_named_by_the_person_at_the_terminal(place: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    dataset_id = told("import", str(rows_file(elsewhere)))["dataset_id"]
    assert told("export", dataset_id, "--format", "messages", "--path", str(elsewhere / "out.jsonl"))["rows"] == 30


def test_a_large_file_is_imported_and_exported_by_runs_with_their_progress_on_standard_error(place: Path) -> None:
    path = rows_file(place, 1)
    row = json.dumps({"prompt": "q", "completion": "x" * 4000}) + "\n"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(row for _ in range(9000))
    finished = tunesmith("import", str(path), "--json")
    assert finished.returncode == 0, finished.stderr
    imported = json.loads(finished.stdout)
    assert imported["rows"] == 9000
    finished = tunesmith("export", imported["dataset_id"], "--format", "sharegpt")
    assert finished.returncode == 0, finished.stderr
    assert "write, running" in finished.stderr
    assert "9,000" in finished.stdout


def test_examples_are_added_from_a_file_or_from_what_is_typed(place: Path) -> None:
    dataset_id = told("import", str(rows_file(place)))["dataset_id"]
    typed = '{"instruction": "q", "output": "a"}\n{"instruction": "q2", "input": "i", "output": "a"}\n'
    assert told("add", dataset_id, "-", typed=typed)["rows"] == 32
    (place / "more.json").write_text(json.dumps([{"instruction": "q", "output": "a"}]), encoding="utf-8")
    assert told("add", dataset_id, "more.json")["rows"] == 31
    (place / "more.json").write_text(json.dumps([{"instruction": "q", "output": "a", "x": 1}]), encoding="utf-8")
    assert "examples[0].x" in refused("add", dataset_id, "more.json")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["show", "nothing"], "not_found"),
        (["show", "run_aaaaaaaaaaaa"], "invalid_argument"),
        (["import", "absent.jsonl"], "not_found"),
        (["import", "qa.jsonl", "--format", "alpacca"], "invalid_argument"),
        (["extract", "absent"], "not_found"),
        (["extract", ".", "--strategies", "section"], "invalid_argument"),
        (["extract", ".", "--language", "fr"], "invalid_argument"),
        (["extract", "empty"], "empty_input"),
        (["export", "LAST", "--format", "xml"], "invalid_argument"),
        (["split", "LAST", "--eval-fraction", "2"], "invalid_argument"),
        (["preview", "LAST", "--cursor", "99"], "invalid_argument"),
        (["clean", "LAST", "--drop", "nonsense"], "invalid_argument"),
        (["list", "--limit", "0"], "invalid_argument"),
    ],
)
def test_every_error_is_one_line_with_the_next_step(place: Path, arguments: list[str], code: str) -> None:
    (place / "empty").mkdir()
    last = told("import", str(rows_file(place)))["dataset_id"]
    assert refused(*(last if part == "LAST" else part for part in arguments)).startswith(f"[{code}]")


def test_looking_makes_no_workspace(tmp_path: Path) -> None:
    assert refused("list", "--workspace", str(tmp_path / "absent")).startswith("[workspace_unusable]")
    assert not (tmp_path / "absent").exists()


def test_in_a_terminal_tables_fit_and_a_run_shows_a_bar(place: Path) -> None:
    dataset_id = told("import", str(rows_file(place)), "--name", "很长的名字" * 20)["dataset_id"]
    with Terminal(["data", "list"], columns=80) as terminal:
        assert terminal.end() == 0
        assert max(cell_len(line) for line in terminal.text.splitlines()) <= 80
        assert "…" in terminal.text
    with Terminal(["data", "score", dataset_id], columns=100) as terminal:
        terminal.wait_for("score")
        terminal.wait_for(r"Report: .*report\.html")
        assert terminal.end() == 0
        assert "\x1b[" in terminal.raw
