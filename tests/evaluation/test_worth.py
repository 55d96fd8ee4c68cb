"""Fine-tune, retrieve, prompt, or neither: each rule by the figure it rests on; money only at stated prices."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.made_comparison import answer, asked, model_score
from tunesmith.data.records import Message, Row, Source
from tunesmith.data.store import DatasetStore
from tunesmith.errors import InvalidArgument
from tunesmith.evaluation.prices import Prices
from tunesmith.evaluation.records import HeldOut, Interval, JudgeInfo, JudgeTokens, Pair, Rubric, Verdict
from tunesmith.evaluation.worth import Cost, judge_worth
from tunesmith.evaluation.worth_facts import AnswerFacts, Recall, answer_facts, figures, notes_of
from tunesmith.workspace import Workspace

ENOUGH = Cost(600, 1800.0, device="cpu", files=20, dated=0, changed=0)
KNOWS, GUESSES = Recall(40, 50), Recall(3, 50)


def verdict(answer: str) -> Verdict:
    return Verdict.model_validate({"answer": answer, "why": "", "candidate": "tuned", "baseline": "base"})


def facts(tuned: Recall = KNOWS, base: Recall = GUESSES, **more: Any) -> AnswerFacts:
    return AnswerFacts(questions=50, recall={"tuned": tuned, "base": base}, **more)


@pytest.mark.parametrize(
    ("result", "cost", "given", "advice", "evidence"),
    [
        ("better", ENOUGH, facts(), "fine_tune", "hold 40 (base: 3): it knows the facts"),
        ("better", ENOUGH, facts(GUESSES), "fine_tune_and_retrieve", "it does not know the facts"),
        ("better", Cost(600, 60.0, files=20, changed=8), facts(), "fine_tune_and_retrieve", "8 of the 20 files"),
        ("better", ENOUGH, facts(asking_for_source=3), "fine_tune_and_retrieve", "3 of 50 questions ask for a source"),
        ("no_evidence", Cost(40, 60.0), facts(GUESSES), "prompt", "40 training rows are few"),
        ("no_evidence", ENOUGH, facts(GUESSES), "retrieve", "it does not know the facts"),
        ("no_evidence", ENOUGH, facts(KNOWS, KNOWS), "neither", "base answers well already"),
        ("no_evidence", ENOUGH, AnswerFacts(), "measure_more", "no evidence that tuned answers better"),
        ("worse", ENOUGH, facts(KNOWS), "neither", "further from the references"),
        ("worse", ENOUGH, facts(GUESSES), "retrieve", "further from the references"),
    ],
)  # fmt: skip
def test_the_advice_follows_from_the_figures_and_names_them(
    result: str, cost: Cost, given: AnswerFacts, advice: str, evidence: str
) -> None:
    worth = judge_worth(verdict(result), model_score("tuned"), model_score("base"), cost, facts=given)
    assert worth.advice == advice
    assert any(evidence in line for line in [*worth.in_favour, *worth.against])
    assert worth.in_one_line


def test_memorised_quotations_and_endless_answers_speak_against_it() -> None:
    tuned, base = (
        model_score("tuned", memorised_share=0.6, stop_rate=0.2),
        model_score("base", memorised_share=0.1, stop_rate=0.9),
    )
    worth = judge_worth(verdict("better"), tuned, base, ENOUGH)
    assert any("60% of its words are long quotations" in line and "10% for base" in line for line in worth.against)
    assert any("ends only 20%" in line for line in worth.against)


def test_where_chrf_sees_nothing_and_rouge_a_difference_both_are_told() -> None:
    rouge = {"tuned": dict.fromkeys(range(20), 0.3), "base": {n: 0.1 + n / 1000 for n in range(20)}}
    scores = model_score("tuned"), model_score("base")
    worth = judge_worth(verdict("no_evidence"), *scores, ENOUGH, facts=AnswerFacts(rouge=rouge))
    assert any("By ROUGE-L" in line and "closer to the references: +0.19" in line for line in worth.in_favour)
    turned = AnswerFacts(rouge={"tuned": rouge["base"], "base": rouge["tuned"]})
    worth = judge_worth(verdict("no_evidence"), *scores, ENOUGH, facts=turned)
    assert any("further from the references" in line for line in worth.against)


def test_a_base_that_judge_or_people_find_good_needs_no_training() -> None:
    good = Interval(mean=4.5, low=4, high=5)
    rubric = Rubric(
        domain_knowledge=good, response_style=good, accuracy=good, total=Interval(mean=13.5, low=13, high=14)
    )
    worth = judge_worth(verdict("no_evidence"), model_score("tuned"), model_score("base", rubric=rubric), ENOUGH)
    assert worth.advice == "neither"


def test_a_model_that_was_not_trained_here_leaves_the_question_open() -> None:
    worth = judge_worth(verdict("better"), model_score("tuned"), model_score("base"), None)
    assert (worth.answer, worth.advice) == ("unclear", "measure_more")
    assert "was not trained here" in worth.in_one_line


def test_money_is_told_only_at_prices_the_user_stated() -> None:
    cost = Cost(600, 7200.0, device="cuda", devices=2)
    reference = model_score("claude", model="openai:big@http://127.0.0.1:9/v1", answered=50)
    pair = Pair.model_validate(
        {
            "a": "tuned", "b": "claude", "judged_by": "judge", "questions": 50, "wins": 5, "ties": 5, "losses": 40,
            "win_rate": {"mean": 0.15, "low": 0.1, "high": 0.2}, "p_value": 0.001, "position_consistency": 1.0,
        }
    )  # fmt: skip
    judge = JudgeInfo(
        model="openai:referee", base_url=None, asked=100, failed=0, requests=110,
        tokens=JudgeTokens(prompt=1_000_000, completion=100_000), position_consistency=None,
    )  # fmt: skip
    given: dict[str, Any] = {
        "models": [model_score("tuned"), reference], "pairs": [pair], "judge": judge,
        "facts": AnswerFacts(questions=50, tokens={"claude": (500_000, 50_000)}),
    }  # fmt: skip
    args = (verdict("better"), model_score("tuned"), model_score("base"), cost)
    without = judge_worth(*args, **given, prices=Prices())
    assert "TUNESMITH_GPU_PRICE_PER_HOUR" in without.cost[-1]
    assert any("110 requests, 1,000,000 tokens sent and 100,000 received." in line for line in without.cost)
    assert any("claude answers better than tuned (it wins 85%" in line for line in without.against)
    stated = Prices(gpu_price_per_hour=1.5, token_prices={"big": (2.0, 10.0), "referee": (1.0, 5.0)}, currency="EUR")
    priced = judge_worth(*args, **given, prices=stated)
    assert any(line == "Training: 2.0 h on each of 2 GPUs: 6.00 EUR." for line in priced.cost)
    assert any(line.endswith("received: 1.50 EUR.") and "claude" in line for line in priced.cost)
    assert priced.cost[-1] == "Together 9.00 EUR."
    assert any("as much as 200 answers of claude" in line for line in priced.in_favour)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GPU_PRICE_PER_HOUR", "cheap"), ("GPU_PRICE_PER_HOUR", "-1"), ("GPU_PRICE_PER_HOUR", "nan"),
        ("TOKEN_PRICES", "3"), ("TOKEN_PRICES", "{"), ("TOKEN_PRICES", '{"m": [1]}'),
        ("TOKEN_PRICES", '{"m": [1, -1]}'),
    ],
)  # fmt: skip
def test_a_price_that_cannot_be_read_is_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TUNESMITH_{name}", value)
    with pytest.raises(InvalidArgument, match=f"TUNESMITH_{name}"):
        Prices()


def test_prices_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_GPU_PRICE_PER_HOUR", "2")
    monkeypatch.setenv("TUNESMITH_TOKEN_PRICES", json.dumps({"m": [3, 15]}))
    prices = Prices()
    assert prices.of_training(0.5) == 1.0
    assert prices.of_tokens("m", 1_000_000, 100_000) == pytest.approx(4.5)
    assert prices.of_tokens("other", 1, 1) is None


def test_numbers_and_codes_are_recalled_whatever_their_spelling() -> None:
    assert figures("It costs €1,890, shows E35 at 14:30 and lasts 3.5 years.") == {"1890", "e35", "14:30", "3.5"}
    questions = asked([("How long does a Peatwren 4 run?", "A Peatwren 4 runs for 38 months."), ("Hello?", "Hello.")])
    answers = {
        "base": [answer("base", 1, "A Peatwren 4 runs for years."), answer("base", 2, "Hi 7.")],
        "tuned": [answer("tuned", 1, "38 months."), answer("tuned", 2, None, error="x")],
    }
    found = answer_facts(questions, answers)
    assert (found.recall["base"], found.recall["tuned"]) == (Recall(0, 1), Recall(1, 1))
    assert found.rouge["tuned"].keys() == {1}


def test_notes_that_changed_since_and_notes_by_day_are_counted(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    rows = []
    for name in ("2026-01-03.md", "day-04.md", "manual.md"):
        (folder / name).write_text(name)
        digest = hashlib.sha256(name.encode()).hexdigest()
        source = Source(path=name, sha256=digest, first_line=1, last_line=1, strategy="sections")
        messages = [Message(role="user", content=name), Message(role="assistant", content="Text.")]
        rows.append(Row(row_id="", messages=messages, source=source))
    store = DatasetStore(workspace)
    raw = store.create(rows, name="notes", created_by="extract_qa")
    child = store.create(rows[:2], name="notes", created_by="clean_dataset", parents=[raw.dataset_id])
    unknown = notes_of(workspace, child.dataset_id)
    assert unknown is not None
    assert (unknown.files, unknown.dated, unknown.changed) == (2, 2, None)
    run = workspace.runs / "run_aaaaaaaaaaaa"
    run.mkdir()
    (run / "spec.json").write_text(json.dumps({"args": {"source": str(folder)}}))
    (run / "result.json").write_text(json.dumps({"result": {"dataset": {"dataset_id": raw.dataset_id}}}))
    with workspace.database.transaction() as connection:
        connection.execute(
            "INSERT INTO runs (run_id, kind, state, created_at) VALUES ('run_aaaaaaaaaaaa', 'extract', 'succeeded', '')"
        )
    (folder / "day-04.md").write_text("new")
    changed = notes_of(workspace, child.dataset_id)
    assert changed is not None
    assert changed.changed == 1
    (folder / "2026-01-03.md").unlink()
    gone = notes_of(workspace, child.dataset_id)
    assert gone is not None
    assert gone.changed == 2


def test_a_lower_held_out_loss_speaks_for_it_only_on_the_same_rows() -> None:
    def measured(rows: int) -> HeldOut:
        return HeldOut(source="measured", rows=rows, tokens=100, perplexity=2.0, prompt_format_sha256="f")

    tuned = model_score("tuned", heldout_loss=2.0, heldout=measured(20).model_dump())
    for rows, told in ((20, True), (10, False)):
        base = model_score("base", heldout_loss=3.0, heldout=measured(rows).model_dump())
        worth = judge_worth(verdict("no_evidence"), tuned, base, ENOUGH)
        assert any("33% lower" in line for line in worth.in_favour) is told
