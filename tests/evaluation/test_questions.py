"""Questions out of held-out rows, and the sets that ship."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tunesmith.data.language import language_of
from tunesmith.data.records import Message, Row, Source
from tunesmith.evaluation.question_files import read_questions
from tunesmith.evaluation.questions import dataset_questions

EXAMPLES = Path(__file__).parents[2] / "examples"


def rows_of(counts: dict[str, int], *, chinese: tuple[str, ...] = (), rows_a_section: int = 2) -> list[Row]:
    """Rows by file, some of them of one section."""
    rows = []
    for path, count in counts.items():
        for number in range(count):
            text = f"第 {number} 个零件是做什么的?" if path in chinese else f"What is part {number} of {path} for?"
            line = number // rows_a_section * 10 + 1
            rows.append(
                Row(
                    row_id=f"r{len(rows) + 1}",
                    messages=[
                        Message(role="user", content=text),
                        Message(role="assistant", content="它把盖子关上。" if path in chinese else "It shuts the lid."),
                    ],
                    source=Source(path=path, sha256="f", first_line=line, last_line=line + 4, strategy="sections"),
                    split="eval",
                )
            )
    return rows


def test_each_question_tells_the_row_and_the_lines_it_comes_from() -> None:
    (question, *_) = dataset_questions(rows_of({"a.md": 3}), 10, 1)
    assert (question.row_id, question.source, question.reference) == ("r1", "a.md:1-5", "It shuts the lid.")


def test_a_sample_has_every_file_and_language_in_its_share() -> None:
    counts = {"long.md": 60, "a.md": 10, "b.md": 10, "zh.md": 20}
    for seed in range(20):
        asked = dataset_questions(rows_of(counts, chinese=("zh.md",)), 20, seed)
        by_file = Counter((one.source or "").partition(":")[0] for one in asked)
        assert len(asked) == 20
        assert all(abs(by_file[path] - count / 5) <= 1 for path, count in counts.items())
        assert abs(sum(language_of(one.text) == "zh" for one in asked) - 4) <= 1


def test_a_sample_asks_other_sections_before_the_same_one_twice() -> None:
    asked = dataset_questions(rows_of({"a.md": 20}), 10, 3)
    assert len({one.source for one in asked}) == 10


def test_the_same_seed_draws_the_same_questions_and_another_seed_others() -> None:
    rows = rows_of({"a.md": 40, "b.md": 40})
    drawn = [[one.row_id for one in dataset_questions(rows, 12, seed)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0] == sorted(drawn[0], key=lambda name: int((name or "r0")[1:]))


def test_rows_without_a_file_are_sampled_too() -> None:
    rows = [row.model_copy(update={"source": None}) for row in rows_of({"a.md": 30})]
    asked = dataset_questions(rows, 7, 1)
    assert len(asked) == 7
    assert asked[0].source is None


def test_the_tutorials_ten_questions_ship_and_can_be_read() -> None:
    questions = read_questions((EXAMPLES / "tutorial-questions.json").read_bytes(), "tutorial-questions.json")
    assert len(questions) == 10
    assert len({one.question for one in questions}) == 10
    assert sum(one.reference is not None for one in questions) == 3
    assert all(language_of(one.question) == "zh" for one in questions)
