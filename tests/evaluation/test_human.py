"""Scores by people: kept beside the judge's, checked before anything is written, blind where it matters."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation import scored
from tests.evaluation.scored import ATTACK, FAILED, QUESTIONS, entry
from tunesmith.data import intervals
from tunesmith.errors import BadInput, Conflict, EmptyInput, InvalidArgument, NotFound
from tunesmith.evaluation.agreement import agree, spearman, weighted_kappa
from tunesmith.evaluation.human import HumanFile, record_scores
from tunesmith.evaluation.human_reading import Filled, read_filled
from tunesmith.evaluation.human_sheet import make_sheet, sheet_csv
from tunesmith.evaluation.human_sheet_html import sheet_html
from tunesmith.evaluation.store import ComparisonStore
from tunesmith.workspace import Workspace

Compared = tuple[Workspace, str]
TUNED = "my tuned"
ALL = [number for number in range(1, QUESTIONS + 1) if number != FAILED]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[Path, str]]:
    made = {}
    for judged in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("OPENAI_API_KEY", "TUNESMITH_OPENAI_API_KEY", "OPENAI_BASE_URL", "OLLAMA_HOST"):
                patch.delenv(name, raising=False)
            folder = tmp_path_factory.mktemp("compared") / "ws"
            workspace, comparison_id = scored.make(folder, judged=judged)
            workspace.database.close()
            made[judged] = (folder, comparison_id)
    return made


def copy_of(original: tuple[Path, str], target: Path) -> Compared:
    shutil.copytree(original[0], target)
    return Workspace(target, [target]), original[1]


@pytest.fixture
def judged(originals: dict[bool, tuple[Path, str]], tmp_path: Path) -> Compared:
    """Compared with a judge, which finds tuned better."""
    return copy_of(originals[True], tmp_path / "ws")


@pytest.fixture
def unjudged(originals: dict[bool, tuple[Path, str]], tmp_path: Path) -> Compared:
    """Compared by similarity alone."""
    return copy_of(originals[False], tmp_path / "ws")


def fill(content: bytes, score: Any) -> bytes:
    """A sheet with scores for each answer, by its text; None leaves it out."""
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    head = rows[0]
    for row in rows[1:]:
        given = score(row[head.index("text")])
        if given is not None:
            row[4:7] = [str(given)] * 3
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()


def blind(compared: Compared, score: Any, by: str | None = None, **options: Any) -> Any:
    """Score by a sheet."""
    workspace, comparison_id = compared
    content = fill(sheet_csv(make_sheet(workspace, comparison_id, **options)), score)
    found: Filled = read_filled(workspace, comparison_id, content, "sheet.csv")
    return record_scores(
        workspace, comparison_id, found.entries, by=by, via="sheet", blind=found.blind, where=found.where
    )


# what is recorded, and what comes of it


def test_scores_are_means_with_intervals_beside_the_judges_with_their_agreement(judged: Compared) -> None:
    workspace, comparison_id = judged
    before = ComparisonStore(workspace).get(comparison_id)
    assert before.human is None
    draw = random.Random(1)
    given = [entry(n, label, *(draw.choice(level) for _ in range(3))) for n in ALL for label, level in LEVELS]
    after = record_scores(workspace, comparison_id, given)
    base, tuned = after.models
    assert tuned.human and base.human and tuned.rubric
    assert tuned.human.questions == len(ALL)
    assert tuned.human.total.low <= tuned.human.total.mean <= tuned.human.total.high
    assert tuned.human.total.mean > base.human.total.mean
    assert tuned.rubric == before.models[1].rubric, "the judge's scores stay what they were"
    human = after.human
    assert human and human.agreement
    assert (human.scored, human.questions, human.people, human.blind) == (2 * len(ALL), len(ALL), 1, 0)
    assert human.agreement.pairs == 2 * len(ALL)
    assert 0 < human.agreement.exact < human.agreement.within_one <= 1
    assert human.agreement.weighted_kappa and human.agreement.weighted_kappa > 0.5
    assert human.agreement.rank_correlation and human.agreement.rank_correlation > 0.5
    (pair,) = human.pairs
    assert (pair.judged_by, pair.questions, pair.losses) == ("people", len(ALL), len(ALL))
    assert pair.criteria and len(pair.criteria) == 3
    assert ComparisonStore(workspace).get(comparison_id) == after
    assert after.created_at == before.created_at
    assert len(after.model_dump_json()) < 20_000


LEVELS = (("base", (1, 2, 3)), (TUNED, (4, 5)))


def test_the_reports_are_written_anew_and_hold_both(judged: Compared) -> None:
    workspace, comparison_id = judged
    folder = ComparisonStore(workspace).folder(comparison_id)
    before = {name: (folder / name).read_text() for name in ("report.md", "report.html", "comparison.json")}
    record_scores(workspace, comparison_id, [entry(n, label, 4, 3, 5) for n in (1, 2, 3) for label in ("base", TUNED)])
    for name, text in before.items():
        assert (folder / name).read_text() != text, name
    assert "people" in (folder / "report.md").read_text().lower()
    assert "4 / 3 / 5" in (folder / "report.html").read_text()


def test_the_last_score_of_an_answer_counts_and_the_earlier_ones_stay_in_the_file(unjudged: Compared) -> None:
    workspace, comparison_id = unjudged
    record_scores(workspace, comparison_id, [entry(1, TUNED, 1), entry(2, TUNED, 3)])
    after = record_scores(workspace, comparison_id, [entry(1, TUNED, 5, note="  I was\ttoo\x1b[31m strict.  ")])
    assert after.models[1].human and after.models[1].human.total.mean == (15 + 9) / 2
    assert after.models[0].human is None
    folder = ComparisonStore(workspace).folder(comparison_id)
    assert [line["accuracy"] for line in scored.lines(folder)] == [1, 3, 5]
    (newest, _) = HumanFile(folder).read()
    assert newest.note == "I was\ttoo strict."
    assert newest.at.startswith("20") and newest.by is None and newest.via == "tool"


def test_half_a_line_of_a_process_that_was_killed_is_passed_over(unjudged: Compared) -> None:
    workspace, comparison_id = unjudged
    record_scores(workspace, comparison_id, [entry(1, TUNED, 2)])
    path = ComparisonStore(workspace).folder(comparison_id) / "human_scores.jsonl"
    with path.open("ab") as file:
        file.write(b'{"at": "2026-')
    after = record_scores(workspace, comparison_id, [entry(2, TUNED, 4)])
    assert after.human and after.human.scored == 2


def test_calls_at_once_lose_nothing_and_the_comparison_knows_all_of_them(unjudged: Compared) -> None:
    workspace, comparison_id = unjudged
    failures: list[Exception] = []

    def one(number: int) -> None:
        try:
            record_scores(Workspace(workspace.root), comparison_id, [entry(number, TUNED, 4), entry(number, "base", 2)])
        except Exception as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in ALL[:3]]
    command = (
        "import sys; from pathlib import Path; from tunesmith.workspace import Workspace;"
        "from tunesmith.evaluation.human import ScoreEntry, record_scores;"
        "record_scores(Workspace(Path(sys.argv[1])), sys.argv[2], [ScoreEntry(question=int(sys.argv[3]), label='base',"
        "domain_knowledge=1, response_style=1, accuracy=1)])"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", command, str(workspace.root), comparison_id, str(number)])
        for number in ALL[3:4]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [other.wait(60) for other in others] == [0]
    assert not failures
    found = ComparisonStore(workspace).get(comparison_id)
    assert found.human and found.human.scored == 7


def test_two_people_are_averaged_and_their_agreement_is_told(unjudged: Compared) -> None:
    workspace, comparison_id = unjudged
    for by, base, tuned in (("Ann", 2, 4), ("Bo", 3, 5)):
        given = [entry(n, label, score) for n in ALL[:12] for label, score in (("base", base), (TUNED, tuned))]
        after = record_scores(workspace, comparison_id, given, by=by)
    assert after.human and after.human.people == 2 and after.human.between_people
    assert after.human.agreement is None, "there is no judge"
    assert after.models[0].human and after.models[0].human.accuracy.mean == 2.5
    assert (after.human.between_people.exact, after.human.between_people.within_one) == (0, 1)
    assert after.human.scored == 24


# what the verdict rests on


def test_without_a_judge_people_decide_once_they_scored_twenty_questions_or_all(unjudged: Compared) -> None:
    workspace, comparison_id = unjudged
    some = [entry(n, label, score) for n in ALL[:19] for label, score in (("base", 4), (TUNED, 2))]
    after = record_scores(workspace, comparison_id, some)
    assert after.human and after.human.verdict
    assert not after.human.decides
    assert (after.verdict.rests_on, after.verdict.answer) == ("similarity", "better")
    assert (after.human.verdict.rests_on, after.human.verdict.answer) == ("people", "worse")
    rest = [entry(n, label, score) for n in ALL[19:] for label, score in (("base", 4), (TUNED, 2))]
    after = record_scores(workspace, comparison_id, rest)
    assert after.human and after.human.decides
    assert (after.verdict.rests_on, after.verdict.answer) == ("people", "worse")
    assert "seeing which model had answered" in after.verdict.why
    assert any("By similarity alone the verdict is: better" in note for note in after.notes)
    assert after.human.otherwise and after.human.otherwise.answer == "better"


def test_over_a_judge_only_scores_without_names_decide(judged: Compared) -> None:
    workspace, comparison_id = judged
    named = [entry(n, label, score) for n in ALL for label, score in (("base", 4), (TUNED, 2))]
    after = record_scores(workspace, comparison_id, named)
    assert after.human and not after.human.decides
    assert (after.verdict.rests_on, after.verdict.answer) == ("judge", "better")
    assert after.human.verdict and after.human.verdict.answer == "worse"
    assert any("People alone say: worse" in note and "score-sheet" in note for note in after.notes)
    after = blind(judged, lambda text: 2 if "lid" in text else 4)
    assert after.human and after.human.decides and after.human.blind == 2 * len(ALL) + 1
    assert (after.verdict.rests_on, after.verdict.answer) == ("people", "worse")
    assert "without seeing which model had answered" in after.verdict.why


def test_few_scores_say_how_little_can_be_seen(unjudged: Compared) -> None:
    workspace, comparison_id = unjudged
    given = [entry(n, label, score) for n in (1, 2, 3) for label, score in (("base", 1), (TUNED, 5))]
    after = record_scores(workspace, comparison_id, given)
    assert after.human and after.human.verdict
    assert after.human.verdict.answer == "no_evidence"
    assert "3 scored questions no test can reach 5 %" in after.human.verdict.why


def test_people_to_whom_both_are_alike_seldom_find_one_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 100)
    from tunesmith.evaluation.human import HumanScore
    from tunesmith.evaluation.human_figures import hear_people
    from tunesmith.evaluation.records import Verdict

    otherwise = Verdict(answer="no_evidence", why="", candidate="b", baseline="a", rests_on="similarity")
    found = 0
    for seed in range(100):
        draw = random.Random(seed)
        given = [
            HumanScore.model_validate(
                {
                    "at": "2026", "by": None, "via": "sheet", "blind": True, "question": n, "label": label,
                    "domain_knowledge": draw.randint(1, 5), "response_style": draw.randint(1, 5),
                    "accuracy": draw.randint(1, 5),
                }
            )
            for n in range(20)
            for label in "ab"
        ]  # fmt: skip
        answered = {label: set(range(20)) for label in "ab"}
        people = hear_people(given, ["a", "b"], answered=answered, judged=[], otherwise=otherwise, seed=42)
        assert people and people.info.decides
        found += people.verdict.answer != "no_evidence"
    assert found <= 0.05 * 100 + 4, "two standard deviations over 5 %"


def test_agreement_is_cohens_and_spearmans_and_null_where_it_says_nothing() -> None:
    # By hand: seen disagreement 2/4; by chance (both 1, 2, 3, 4 once each) 40/16.
    assert weighted_kappa([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(1 - (2 / 4) / (40 / 16))
    assert weighted_kappa([3, 3], [3, 3]) is None
    assert spearman([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)
    assert spearman([1, 1, 2, 3], [2, 2, 4, 5]) == pytest.approx(1)
    assert spearman([2, 2], [1, 3]) is None
    few = agree([((3, 3, 3), (3, 4, 1))] * 9)
    assert few and (few.weighted_kappa, few.rank_correlation) == (None, None)
    assert (few.pairs, few.exact, few.within_one) == (9, 0.3333, 0.6667)
    assert agree([]) is None


# wrong input


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([entry(99, TUNED, 3)], "there is no question 99; they are 1 to 24"),
        ([entry(1, "tuend", 3)], "no model has the label 'tuend'; did you mean 'my tuned'"),
        ([entry(1, "My Tuned", 3)], "did you mean 'my tuned'"),
        ([entry(1, "base", 3), entry(1, " base ", 4)], "'base' in question 1 stands in scores[0] already"),
        ([entry(FAILED, "base", 3)], f"'base' gave no answer to question {FAILED}"),
        ([entry(FAILED, "base", 3)], "too long"),
        ([entry(n, "nobody", 3) for n in range(1, 11)], "and 6 more"),
    ],
)
def test_what_is_not_there_cannot_be_scored_and_nothing_is_recorded(
    unjudged: Compared, given: list[Any], expected: str
) -> None:
    workspace, comparison_id = unjudged
    with pytest.raises(InvalidArgument) as caught:
        record_scores(workspace, comparison_id, [entry(2, TUNED, 5), *given][1:] if len(given) > 1 else given)
    assert expected in caught.value.message
    assert "Nothing was recorded" in caught.value.message
    assert "base, my tuned" in caught.value.next
    assert not (ComparisonStore(workspace).folder(comparison_id) / "human_scores.jsonl").exists()


def test_only_a_complete_comparison_can_be_scored(unjudged: Compared) -> None:
    workspace, comparison_id = unjudged
    (workspace.comparisons / "cmp_aaaaaaaaaaaa").mkdir()
    with pytest.raises(Conflict, match="is not complete"):
        record_scores(workspace, "cmp_aaaaaaaaaaaa", [entry(1, TUNED, 3)])
    other = comparison_id[:-1] + ("a" if comparison_id[-1] != "a" else "b")
    with pytest.raises(NotFound) as caught:
        record_scores(workspace, other, [entry(1, TUNED, 3)])
    assert comparison_id in caught.value.next
    with pytest.raises(InvalidArgument, match="is a run id"):
        record_scores(workspace, "run_aaaaaaaaaaaa", [entry(1, TUNED, 3)])
    with pytest.raises(EmptyInput):
        record_scores(workspace, comparison_id, [])
    (workspace.comparisons / comparison_id / "material.json").unlink()
    with pytest.raises(NotFound, match="concluded from"):
        record_scores(workspace, comparison_id, [entry(1, TUNED, 3)])
    assert not (workspace.comparisons / comparison_id / "human_scores.jsonl").exists()


def test_hostile_notes_and_names_are_text_wherever_they_are_shown(unjudged: Compared) -> None:
    workspace, comparison_id = unjudged
    record_scores(workspace, comparison_id, [entry(1, TUNED, 3, note=ATTACK)], by="<b>\x1b[31mEve\n")
    folder = ComparisonStore(workspace).folder(comparison_id)
    assert HumanFile(folder).read()[0].by == "<b>Eve"
    for name in ("report.md", "report.html", "comparison.json", "human_scores.jsonl"):
        assert "\x1b" not in (folder / name).read_text()
    page = (folder / "report.html").read_text()
    assert "<script>alert" not in page
    assert "people (&lt;b&gt;Eve): 3 / 3 / 3" in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page


# sheets


def test_a_sheet_hides_who_answered_and_lays_the_answers_in_another_order_for_every_question(judged: Compared) -> None:
    workspace, comparison_id = judged
    sheet = make_sheet(workspace, comparison_id, seed=7)
    assert sheet == make_sheet(workspace, comparison_id, seed=7)
    assert sheet != make_sheet(workspace, comparison_id, seed=8)
    orders = {"".join("t" if "lid" in one.text else "b" for one in q.answers) for q in sheet.questions}
    assert {"tb", "bt"} <= orders
    for text in (sheet_csv(sheet).decode(), sheet_html(sheet)):
        for name in (TUNED, "Qwen", "mynotes-7b", "openai:"):
            assert name not in text
    failed = next(one for one in sheet.questions if one.number == FAILED)
    assert len(failed.answers) == 1
    assert len(make_sheet(workspace, comparison_id, most=6).questions) == 6


def test_answers_on_a_sheet_run_nothing_in_a_browser_or_a_spreadsheet(judged: Compared) -> None:
    workspace, comparison_id = judged
    sheet = make_sheet(workspace, comparison_id)
    for row in csv.reader(io.StringIO(sheet_csv(sheet).decode("utf-8-sig"), newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)
    page = sheet_html(sheet)
    assert page.count("<script>") == 1
    assert "alert(1)&lt;/script&gt;" in page
    assert re.search(r"default-src &#x27;none&#x27;.*script-src &#x27;sha256-", page)
    assert "http:" not in page and "https:" not in page


def test_a_filled_sheet_is_read_as_spreadsheets_write_it(judged: Compared) -> None:
    workspace, comparison_id = judged
    content = fill(sheet_csv(make_sheet(workspace, comparison_id)), lambda text: 5 if "lid" in text else 2)
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    rows[0] = [name.upper() for name in rows[0]]
    rows[1][4:7] = ["3.0", "3,0", "３"]
    rows[3][7] = "这个回答说得很清楚,没有明显的错误。"
    rows[2][4:8] = ["", "", "", "a note without scores"]
    for encoding, delimiter, before in (("utf-8-sig", ";", ""), ("utf-16", "\t", ""), ("gb18030", ",", "sep=,\r\n")):
        file = io.StringIO()
        csv.writer(file, delimiter=delimiter).writerows(rows)
        found = read_filled(workspace, comparison_id, (before + file.getvalue()).encode(encoding), "sheet.csv")
        assert found.blind
        assert (len(found.entries), found.empty) == (len(rows) - 2, 1)
        assert found.entries[0].accuracy == 3
        assert {one.label for one in found.entries if one.accuracy == 5} == {TUNED}
        assert {one.label for one in found.entries if one.accuracy == 2} == {"base"}


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        (lambda text: text.replace(",4,4,4,", ",4,6,4,", 1), InvalidArgument, "response_style is '6'"),
        (lambda text: text.replace(",4,4,4,", ",4,4.5,4,", 1), InvalidArgument, "response_style is '4.5'"),
        (lambda text: text.replace(",4,4,4,", ",4,,4,", 1), InvalidArgument, "response_style is missing"),
        (lambda text: text.replace(",A,4", ",Q,4", 1), InvalidArgument, "has no answer 'Q' on this sheet"),
        (lambda text: text.replace("cmp_", "cmp_x", 1), InvalidArgument, "is of comparison cmp_x"),
        (lambda text: text.replace(",42,1,", ",43,1,"), NotFound, "key of sheet 43"),
        (lambda text: text.replace("accuracy", "acuracy", 1), BadInput, "does not name the columns"),
        (lambda text: text.replace(",4,4,4,", ",,,,"), EmptyInput, "holds no score"),
        (lambda text: "PK\x03\x04" + text, BadInput, "is a workbook"),
        (lambda text: "\x00\x01\x02\x03" * 99, BadInput, "is not text"),
        (lambda text: "", BadInput, "does not name the columns"),
        (lambda text: "[{}]", InvalidArgument, "entry 1: question: field required"),
        (lambda text: '{"question": 1,', BadInput, "is not JSON"),
    ],
)
def test_a_sheet_that_is_wrong_says_where(judged: Compared, change: Any, error: type[Exception], expected: str) -> None:
    workspace, comparison_id = judged
    content = fill(sheet_csv(make_sheet(workspace, comparison_id)), lambda _: 4).decode()
    with pytest.raises(error) as caught:
        read_filled(workspace, comparison_id, change(content).encode(), "sheet.csv")
    assert expected in caught.value.message  # type: ignore[attr-defined]


def test_scores_by_label_are_read_from_json_and_tables_too(judged: Compared) -> None:
    workspace, comparison_id = judged
    one = {"question": 1, "label": TUNED, "domain_knowledge": 4, "response_style": 3, "accuracy": 5}
    lines = json.dumps(one) + "\n" + json.dumps({**one, "question": 2}) + "\n"
    table = f"question,label,domain_knowledge,response_style,accuracy\n1,{TUNED},4,3,5\n2,{TUNED},4,3,5\n"
    asked = json.dumps({"comparison_id": comparison_id, "scores": [one, {**one, "question": 2}]})
    for text in (lines, table, asked, json.dumps([one, {**one, "question": 2}])):
        found = read_filled(workspace, comparison_id, text.encode(), "scores")
        assert [(each.question, each.accuracy) for each in found.entries] == [(1, 5), (2, 5)]
        assert not found.blind
    for value in (True, "4", 4.5):
        with pytest.raises(InvalidArgument, match="accuracy: "):
            read_filled(workspace, comparison_id, json.dumps([{**one, "accuracy": value}]).encode(), "scores")


def test_twice_the_same_answer_in_a_file_is_refused_by_line(judged: Compared) -> None:
    workspace, comparison_id = judged
    table = f"question,label,domain_knowledge,response_style,accuracy\n1,{TUNED},4,3,5\n1,{TUNED},4,3,5\n"
    found = read_filled(workspace, comparison_id, table.encode(), "scores.csv")
    with pytest.raises(InvalidArgument, match="line 3: 'my tuned' in question 1 stands in line 2 already"):
        record_scores(workspace, comparison_id, found.entries, where=found.where)
