"""`tunesmith compare`, `score-sheet`, `record-scores` and `comparisons`, as people and scripts use them."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.endpoint_double import EndpointDouble, Said
from tests.evaluation import scored
from tests.runs.conftest import kill_all_of
from tunesmith.cli import application
from tunesmith.cli_compare import _labelled
from tunesmith.errors import BadInput, EmptyInput, UserError
from tunesmith.evaluation.question_files import read_questions
from tunesmith.workspace import Workspace


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("compared") / "ws"
    workspace, comparison_id = scored.make(folder, judged=True, questions=8)
    workspace.database.close()
    return folder, comparison_id


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with the workspace `ws`."""
    monkeypatch.setenv("TUNESMITH_WORKSPACE", str(tmp_path / "ws"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    kill_all_of(Workspace(tmp_path / "ws"))


@pytest.fixture
def comparison_id(original: tuple[Path, str], place: Path) -> str:
    shutil.copytree(original[0], place / "ws")
    return original[1]


def done(*arguments: str) -> str:
    """What is printed."""
    result = CliRunner().invoke(application(), list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    assert "\x1b" not in result.stdout
    return result.stdout


def refused(*arguments: str) -> UserError:
    result = CliRunner().invoke(application(), list(arguments))
    assert isinstance(result.exception, UserError), (result.output, result.exception)
    return result.exception


def test_comparing_shows_its_progress_then_the_verdict_and_the_reports_path(place: Path) -> None:
    (place / "ws").mkdir()
    (place / "asked.txt").write_text("What is a wren?\n\nWhat is a magnet?\n", encoding="utf-8")
    with EndpointDouble(lambda _: Said("A bird.")) as base, EndpointDouble(lambda _: Said("A stone.")) as tuned:
        models = [f"base=openai:a@{base.url}", f"tuned=openai:b@{tuned.url}"]
        command = [sys.executable, "-m", "tunesmith", "compare", *models, "--questions", "asked.txt"]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert finished.returncode == 0, finished.stderr
        assert sorted(base.asked()) == ["What is a magnet?", "What is a wren?"]
    lines = finished.stdout.splitlines()
    assert lines[0] == "tuned against base: no evidence"
    assert "compare" in finished.stderr
    assert lines[-1].startswith("Report: ")
    assert Path(lines[-1].removeprefix("Report: ")).is_file()


def test_a_person_scores_on_a_sheet_without_names_and_has_it_recorded(place: Path, comparison_id: str) -> None:
    told = done("score-sheet", comparison_id[-6:], "--to", "sheet.csv", "--seed", "3")
    assert "15 answers to 8 questions" in told
    assert f"tunesmith record-scores {comparison_id} sheet.csv" in told
    head, *rows = scored.table(place / "sheet.csv")
    for row in rows[:-1]:
        row[4:7] = ["4", "4", "5"] if "lid" in row[head.index("text")] else ["2", "1", "2"]
    with (place / "sheet.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    recorded = done("record-scores", comparison_id, "sheet.csv", "--by", "Ann")
    assert recorded.startswith("14 answers scored; 1 are not filled in.")
    assert "people, of 15" in recorded
    assert "Judge and people on 14 answers" in recorded
    shown = json.loads(done("comparisons", "show", comparison_id, "--json"))
    assert (shown["human"]["blind"], shown["human"]["scored"]) == (14, 14)
    assert shown["models"][1]["human"]["total"]["mean"] == 13
    listed = done("comparisons", "list").splitlines()
    assert listed[1].split()[0] == comparison_id
    page = json.loads(done("comparisons", "list", "--json"))
    assert (page["total"], page["next_cursor"]) == (1, None)


def test_the_default_sheet_is_a_page_and_none_is_overwritten(place: Path, comparison_id: str) -> None:
    done("score-sheet", comparison_id, "--questions", "2")
    page = place / f"{comparison_id}-sheet.html"
    assert page.read_text(encoding="utf-8").count("<section>") == 2
    assert refused("score-sheet", comparison_id).error_code == "conflict"
    done("score-sheet", comparison_id, "--overwrite")
    assert page.read_text(encoding="utf-8").count("<section>") == 8


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["compare", "base=embedded", "--questions", "q.txt"], "invalid_argument"),
        (["compare", "base=embedded", "tuned=nonsense", "--questions", "q.txt"], "invalid_argument"),
        (["compare", "base=embedded", "=embedded", "--questions", "q.txt"], "invalid_argument"),
        (["compare", "base=embedded", "other=openai:x", "--questions", "absent.txt"], "not_found"),
        (["compare", "base=embedded", "other=openai:x"], "empty_input"),
        (["compare", "base=embedded", "other=openai:x", "--dataset", "nothing"], "not_found"),
        (["compare", "a=embedded", "b=openai:x", "--questions", "q.txt", "--judge-base-url", "http://x"],
         "invalid_argument"),
        (["compare", "a=embedded", "b=openai:x", "--questions", "q.txt", "--judge", "embedded"], "invalid_argument"),
        (["comparisons", "show", "nothing"], "not_found"),
        (["comparisons", "show", "run_aaaaaaaaaaaa"], "invalid_argument"),
        (["comparisons", "list", "--limit", "0"], "invalid_argument"),
        (["score-sheet", "CMP", "--to", "sheet.xlsx"], "invalid_argument"),
        (["score-sheet", "CMP", "--to", "absent/sheet.csv"], "not_found"),
        (["score-sheet", "CMP", "--questions", "0"], "invalid_argument"),
        (["record-scores", "CMP", "absent.csv"], "not_found"),
        (["record-scores", "CMP", "q.txt"], "bad_input"),
        (["record-scores", "cmp_aaaaaaaaaaaa", "q.txt"], "conflict"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_the_next_step(
    place: Path, comparison_id: str, arguments: list[str], code: str
) -> None:
    (place / "q.txt").write_text("What is a wren?\n", encoding="utf-8")
    (place / "ws" / "comparisons" / "cmp_aaaaaaaaaaaa").mkdir()
    error = refused(*(comparison_id if part == "CMP" else part for part in arguments))
    assert error.error_code == code, str(error)
    assert error.next


def test_a_model_is_given_with_its_label_or_without(place: Path) -> None:
    assert _labelled("tuned=run_abc") == {"label": "tuned", "model": "run_abc"}
    assert _labelled("embedded") == {"label": "embedded", "model": "embedded"}
    assert _labelled("openai:m@http://h/v1?a=b") == {
        "label": "openai:m@http://h/v1?a=b", "model": "openai:m@http://h/v1?a=b",
    }  # fmt: skip


def test_questions_are_read_from_lists_lines_and_tables() -> None:
    wanted = [("What?", "That."), ("Who?", None)]
    objects = [{"question": "What?", "reference": "That."}, {"question": "Who?"}]
    for name, text in (
        ("a.json", json.dumps(objects)),
        ("a.json", json.dumps([objects[0], "Who?"])),
        ("a.jsonl", "\n".join(map(json.dumps, objects))),
        ("a.csv", "question,reference\nWhat?,That.\nWho?,\n"),
        ("a.csv", "\ufeffReference;Question\nThat.;What?\n;Who?\n"),
    ):
        assert [(one.question, one.reference) for one in read_questions(text.encode(), name)] == wanted
    assert [one.question for one in read_questions("什么是鹪鹩?\r\nWho?\r\n".encode("gb18030"), "a.txt")] == [
        "什么是鹪鹩?", "Who?",
    ]  # fmt: skip
    wrong: list[tuple[str, Any, type[UserError]]] = [
        ("a.json", "[", BadInput), ("a.json", '[{"question": 1}]', BadInput), ("a.json", '[{"q": "x"}]', BadInput),
        ("a.jsonl", '{"question": "x"}\n{', BadInput), ("a.csv", "a,b\n1,2\n", BadInput), ("a.txt", " \n", EmptyInput),
        ("a.json", "[]", EmptyInput),
    ]  # fmt: skip
    for name, text, error in wrong:
        with pytest.raises(error):
            read_questions(text.encode(), name)
