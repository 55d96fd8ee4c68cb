"""Extraction as a whole: everything is used or skipped with a reason, and the same notes give the same rows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith.data.extraction import extract
from tunesmith.data.extraction_records import ExtractResult
from tunesmith.data.records import Row
from tunesmith.data.store import DatasetStore
from tunesmith.data.text import comparable, plain_inline
from tunesmith.errors import BadInput, EmptyInput, InvalidArgument, NotFound, PathRefused
from tunesmith.workspace import Workspace

EXAMPLES = Path(__file__).parents[2] / "examples" / "notes"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def workspace(tmp_path: Path, notes: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", [notes, EXAMPLES])


def rows_of(workspace: Workspace, result: ExtractResult) -> list[Row]:
    return list(DatasetStore(workspace).rows(result.dataset.dataset_id))


def test_the_example_notes_give_at_least_250_examples(workspace: Workspace) -> None:
    result = extract(workspace, str(EXAMPLES))
    assert result.dataset.rows >= 250
    assert result.dataset.created_by == "extract_qa"
    assert sum(result.by_strategy.values()) == result.dataset.rows
    assert all(result.by_strategy.values())
    assert result.dataset.languages["zh"] > 50 and result.dataset.languages["en"] > 50


def test_no_question_of_the_example_notes_is_asked_twice(workspace: Workspace) -> None:
    questions = [row.instruction for row in rows_of(workspace, extract(workspace, str(EXAMPLES)))]
    assert len(set(questions)) == len(questions)


def test_questions_of_the_example_notes_begin_in_many_ways(workspace: Workspace) -> None:
    questions = [row.instruction for row in rows_of(workspace, extract(workspace, str(EXAMPLES)))]
    openings = [question[:2] if not question.isascii() else question.split()[0] for question in questions]
    assert max(map(openings.count, set(openings))) < 0.3 * len(openings)


def test_every_answer_is_found_in_its_source_lines(workspace: Workspace) -> None:
    for row in rows_of(workspace, extract(workspace, str(EXAMPLES))):
        assert row.source is not None
        lines = (EXAMPLES / row.source.path).read_text(encoding="utf-8").split("\n")
        span = comparable(plain_inline("\n".join(lines[row.source.first_line - 1 : row.source.last_line])))
        for piece in re.split(r"\n|\. |。|: |：|\|", row.output):
            assert comparable(piece) in span, (row.row_id, piece)


def test_every_section_is_used_or_skipped(workspace: Workspace) -> None:
    result = extract(workspace, str(EXAMPLES))
    assert result.sections.total == result.sections.used + result.sections.skipped_total
    assert result.sections.used >= 0.99 * result.sections.total
    assert [(skip.path, skip.reason) for skip in result.sections.skipped] == [
        ("day-17-support-desk.md", "its body has fewer than 20 characters")
    ]


def test_the_same_notes_give_the_same_bytes_in_another_process(workspace: Workspace, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tunesmith.workspace import Workspace;"
        "from tunesmith.data.extraction import extract;"
        "print(extract(Workspace(Path(sys.argv[1]), [Path(sys.argv[2])]), sys.argv[2]).dataset.sha256)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / f"other{seed}"), str(EXAMPLES)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {extract(workspace, str(EXAMPLES)).dataset.sha256}


def test_all_skips_are_written_beside_the_rows_and_the_first_are_listed(workspace: Workspace, notes: Path) -> None:
    short = "".join(f"## Short {number}\n\nToo short.\n\n" for number in range(30))
    (notes / "a.md").write_text(f"# Good\n\nThis section is long enough to be an answer.\n\n{short}")
    for number in range(25):
        (notes / f"picture{number:02}.png").write_bytes(b"x")
    result = extract(workspace, str(notes))
    assert (result.sections.total, result.sections.used, result.sections.skipped_total) == (31, 1, 30)
    assert (len(result.sections.skipped), result.sections.skipped_left_out) == (20, 10)
    assert (len(result.files.skipped), result.files.skipped_left_out, result.files.read) == (20, 5, 1)
    written = DatasetStore(workspace).folder(result.dataset.dataset_id) / "skipped.jsonl"
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert len(lines) == 55
    assert all(set(line) == {"path", "first_line", "last_line", "reason"} for line in lines)
    assert lines[0] == {
        "path": "picture00.png",
        "first_line": None,
        "last_line": None,
        "reason": "not a notes file (.png)",
    }
    assert lines[-1] == {
        "path": "a.md",
        "first_line": 121,
        "last_line": 123,
        "reason": "its body has fewer than 20 characters",
    }


def test_a_paragraph_on_every_page_is_one_example(workspace: Workspace, notes: Path) -> None:
    for name in ("a", "b", "c"):
        (notes / f"{name}.md").write_text(
            f"# Page {name}\n\n## Warranty\n\nThe warranty lasts five years for every part.\n"
        )
    result = extract(workspace, str(notes))
    assert result.dataset.rows == 1
    assert [skip.reason for skip in result.sections.skipped] == ["says what an earlier section says"] * 2


def test_one_question_with_two_answers_is_asked_with_its_surroundings(workspace: Workspace, notes: Path) -> None:
    (notes / "a.md").write_text("# Radio\n\nQ: How far?\nA: It reaches 2.4 km over open bog.\n")
    (notes / "b.md").write_text("# Cable\n\nQ: How far?\nA: It is three metres long at most.\n")
    assert [row.instruction for row in rows_of(workspace, extract(workspace, str(notes)))] != ["How far?"] * 2
    assert len({row.instruction for row in rows_of(workspace, extract(workspace, str(notes)))}) == 2


def test_chosen_strategies_alone_are_used(workspace: Workspace) -> None:
    result = extract(workspace, str(EXAMPLES), strategies=["faq", "tables"])
    assert set(result.by_strategy) == {"faq", "tables"}
    assert {row.source.strategy for row in rows_of(workspace, result) if row.source} == {"faq", "tables"}


def test_no_answer_is_longer_than_asked_for(workspace: Workspace) -> None:
    result = extract(workspace, str(EXAMPLES), max_answer_chars=100)
    assert result.dataset.chars.output.max <= 100


def test_files_can_be_chosen_by_globs(workspace: Workspace) -> None:
    result = extract(workspace, str(EXAMPLES), include=["day-0*.md"], exclude=["*-zh.md"])
    assert 0 < result.files.read < 9
    assert all(
        path.startswith("day-0") for path in {row.source.path for row in rows_of(workspace, result) if row.source}
    )


def test_progress_is_told_file_by_file(workspace: Workspace, notes: Path) -> None:
    for name in ("a", "b"):
        (notes / f"{name}.md").write_text(f"# {name}\n\nThis section is long enough, says {name}.\n")
    told: list[tuple[str, int, int]] = []
    extract(workspace, str(notes), on_progress=lambda *progress: told.append(progress))
    assert told == [("Read a.md", 1, 2), ("Read b.md", 2, 2)]


def test_stopping_in_the_middle_leaves_nothing(workspace: Workspace, notes: Path) -> None:
    (notes / "a.md").write_text("# A\n\nThis section is long enough to be an answer.\n")

    def stop(message: str, step: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(workspace, str(notes), on_progress=stop)
    assert list(workspace.datasets.iterdir()) == list(workspace.cache.iterdir()) == []


def test_bad_arguments_name_what_would_be_right(workspace: Workspace, notes: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"'magic'.*definitions, docstrings, faq, reflections, sections, tables"):
        extract(workspace, str(notes), strategies=["sections", "magic"])
    with pytest.raises(InvalidArgument, match="No strategy"):
        extract(workspace, str(notes), strategies=[])
    with pytest.raises(InvalidArgument, match="max_answer_chars is 5"):
        extract(workspace, str(notes), max_answer_chars=5)


def test_missing_and_forbidden_sources_are_refused(workspace: Workspace, notes: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        extract(workspace, str(notes / "missing"))
    with pytest.raises(PathRefused):
        extract(workspace, str(tmp_path))
    (notes / "book.pdf").write_bytes(b"%PDF")
    with pytest.raises(BadInput, match=r"book\.pdf"):
        extract(workspace, str(notes / "book.pdf"))


def test_an_empty_folder_and_one_without_notes_say_what_is_read(workspace: Workspace, notes: Path) -> None:
    with pytest.raises(EmptyInput, match=r"it is empty.*\.md \.markdown"):
        extract(workspace, str(notes))
    (notes / "a.png").write_bytes(b"x")
    with pytest.raises(EmptyInput, match=r"1× not a notes file \(\.png\).*\.ipynb"):
        extract(workspace, str(notes))
    assert list(workspace.datasets.iterdir()) == []


def test_notes_without_an_example_say_why(workspace: Workspace, notes: Path) -> None:
    (notes / "a.md").write_text("# A\n\nShort.\n\n# B\n\nAlso.\n")
    with pytest.raises(EmptyInput, match="2× its body has fewer than 20 characters"):
        extract(workspace, str(notes))
    assert list(workspace.datasets.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        "*a " * 50_000,
        "**a _b " * 20_000,
        "`" * 50_000,
        "<a " * 30_000,
        "![" * 30_000 + "](" * 30_000,
        "> " * 3_000 + "x",
        "- " * 2_000 + "x",
        "Q: a\n" * 20_000,
        "| a " * 5_000 + "|\n" + "|---" * 5_000 + "|\n",
        "# " + "x / " * 20_000,
        "```python\n" + '"""' * 30_000 + "\n```",
        "```js\n" + "/** a " * 20_000 + "\n```",
        "//// " * 20_000,
        "See [a](b) " * 5_000,
        "<details>\n<summary>x?</summary>\n\nan answer to it\n\n" * 2_000,
        "<details>\n<summary>x?</summary>\n\nan answer to it\n\n" * 500 + "</details>\n\n" * 500,
        "{{ x }} {% raw %} {0} ${a} {{{ }}} %s {" * 5_000,
        "| a | b |\n|---|---|\n" + "".join(f"| key {n} | a value of some length {n} |\n" for n in range(5_000)),
        "".join(f"[r{n}]: u\n" for n in range(10_000)) + "[r1][r2] " * 5_000,
    ],
    ids=lambda text: repr(text[:8]),
)
def test_no_text_takes_long(workspace: Workspace, notes: Path, text: str) -> None:
    (notes / "hostile.md").write_text(f"# A\n\nThis section is long enough to be an answer.\n\n## B\n\n{text}\n")
    started = time.process_time()
    extract(workspace, str(notes))
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deep.html", "<ul><li>x" * 5_000),
        ("folded.html", "<details><summary>Is it?</summary>It is, says the text. " * 5_000),
        ("tables.html", "<table><tr><td>x" * 5_000),
        ("unclosed.html", "<a <b " * 50_000),
        ("odd.html", "<script>" + "<" * 50_000 + "</script><!--" + "-" * 50_000 + "<p " + 'a="b" ' * 20_000),
        ("deep.rst", "".join(" " * depth + "quoted text\n\n" for depth in range(1, 2_000))),
        ("lists.rst", "".join("  " * depth + "- an entry\n\n" for depth in range(1, 2_000))),
        ("broken.rst", ".. foo::\n.. bar:: `\n   :x\n.. |\n.. [1\n.. code::\n+--+\n|a\n=== ==\na\n" * 2_000),
        ("headings.rst", "Heading\n-------\n\n" * 30_000),
        ("lone.txt", "Lone\n\nThis line is prose and it is long enough to stand under it.\n\n" * 20_000),
        ("headings.md", "# heading\n" * 100_000),
        ("line.txt", "word " * 1_000_000),
    ],
    ids=lambda value: value[:12],
)
def test_no_file_of_any_kind_takes_long_or_stops_the_rest(
    workspace: Workspace, notes: Path, name: str, text: str
) -> None:
    (notes / "good.md").write_text("# A\n\nThis section is long enough to be an answer.\n")
    (notes / name).write_text(text)
    started = time.process_time()
    result = extract(workspace, str(notes))
    assert result.files.read + result.files.skipped_total >= 2
    assert result.sections.total == result.sections.used + result.sections.skipped_total
    assert time.process_time() - started < 10


def test_a_section_that_only_points_elsewhere_is_skipped_with_that_reason(workspace: Workspace, notes: Path) -> None:
    (notes / "a.md").write_text(
        "# A\n\nThis section is long enough to be an answer.\n\n## More\n\nSee [the guide](g.md) for more.\n\n"
        "## Picture\n\n![a heron in the reeds](heron.png)\n"
    )
    result = extract(workspace, str(notes))
    assert (result.sections.total, result.sections.used) == (3, 1)
    assert {skip.reason for skip in result.sections.skipped} == {"only links, pictures and pointers to other pages"}
