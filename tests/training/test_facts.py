from __future__ import annotations

import random

import pytest

from tests.training.conftest import arguments_for, make_rows, outcome
from tunesmith.data.records import Message, Row
from tunesmith.training import facts
from tunesmith.training.examples import IGNORED, Example
from tunesmith.training.fact_records import Facts
from tunesmith.training.suspicion import suspicion

END = 2


def pair(question, answer):
    return Row(row_id="", messages=[Message(role="user", content=question), Message(role="assistant", content=answer)])


def example(row, *, end=True, limit=None):
    """As tokenised by a tokenizer with one token for every four characters."""
    prompt, answer = ([7] * (len(text) // 4 + 1) for text in (row.instruction, row.output))
    ids = [*prompt, *answer, *([END] if end else [])]
    labels = [IGNORED] * len(prompt) + ids[len(prompt) :]
    return Example(row.row_id, ids[:limit], labels[:limit], len(ids))


def measured(train, held_out=(), **how):
    return facts.measure(train, held_out, [example(row, **how) for row in train], vocabulary=32_000, end_token=END)


def questions(count, seed=1):
    draw = random.Random(seed)
    first = 1000 * seed
    words = ["lamp", "pump", "meter", "valve", "tower", "cellar", "garden", "harbour", "signal", "battery"]
    return [
        pair(f"What does {draw.choice(words)} {at} do?", f"Number {at} feeds the {draw.choice(words)} by night.")
        for at in range(first, first + count)
    ]


def evidence(found):
    suspect = suspicion(found)
    return suspect[0] if suspect else None


def test_ordinary_rows_are_above_suspicion():
    assert evidence(measured(questions(60), questions(20, seed=2))) is None


def test_rows_that_teach_no_end_are_named():
    assert "does not learn to stop" in evidence(measured(questions(30), end=False))
    assert "cut at max_length" in evidence(measured(questions(30), limit=12))


def test_questions_for_answers_are_named():
    exchanged = [pair(row.output, row.instruction) for row in questions(30)]
    assert "exchanged" in evidence(measured(exchanged))


def test_held_out_rows_that_are_trained_on_are_counted():
    train = questions(40)
    assert measured(train, train[:5] + [pair("Something else?", "Nothing.")] * 5).leaked_share == pytest.approx(0.5)
    assert "held-out rows" in evidence(measured(train, train[:10]))


def test_standard_replies_are_no_leak():
    reply = "Thank you for asking. Please call the support desk about it between nine and five."
    train = [pair(f"Where is part {at}?", reply if at % 2 else reply + " Or write.") for at in range(40)]
    held_out = [pair(f"Where is thing {at}?", reply) for at in range(10)]
    assert measured(train, held_out).leaked_share == 0.0


def test_one_answer_for_everything_is_named_and_labels_are_not():
    assert "one and the same answer" in evidence(measured([pair(f"Who has {at}?", "Ask.") for at in range(30)]))
    labels = ["yes", "no", "later"]
    assert evidence(measured([pair(f"Is {at} done?", labels[at % 3]) for at in range(30)])) is None


def test_repeated_rows_are_counted_once():
    rows = questions(30)
    assert measured(rows + rows).repeated_share == pytest.approx(0.5)
    assert "repeat" in evidence(measured(rows + rows))


def test_answers_cut_in_the_data_are_named():
    rows = [pair(row.instruction, (row.output * 4)[:80]) for row in questions(40)]
    assert "cut before" in evidence(measured(rows))
    alike = [
        pair(f"Who has key {at}?", f"Key {at} hangs in the tower, behind the door of the old night watchman.")
        for at in range(100, 140)
    ]
    assert evidence(measured(alike)) is None


def test_noise_among_sentences_is_counted_and_a_second_script_is_not():
    draw = random.Random(3)
    rows = questions(80)
    texts = [row.output for row in rows]
    costs = [len(text) // 4 for text in texts]
    noise = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz0123456789#&", k=40)) for _ in range(20)]
    assert facts.garbled_share(texts + noise, costs + [30] * 20) == pytest.approx(0.2, abs=0.03)
    chinese = [f"第{at}号泵位于花园旁边，由夜班检查。" for at in range(20)]
    assert facts.garbled_share(texts + chinese, costs + [len(text) * 2 for text in chinese]) == 0.0


def test_the_control_holds_the_same_answers_and_never_a_longer_row():
    rows = [Example(str(at), [1] * 4 + [at, at, END], [IGNORED] * 4 + [at, at, END], 7) for at in range(10, 50)]
    own, exchanged = facts.control_pairs(rows, seed=1)
    assert len(own) == len(exchanged) == facts.CONTROL_ROWS
    assert sorted(row.input_ids[-3] for row in own) == sorted(row.input_ids[-3] for row in exchanged)
    assert all(one.input_ids != other.input_ids for one, other in zip(own, exchanged, strict=True))
    assert max(len(row.input_ids) for row in exchanged) <= 7
    assert facts.control_pairs(rows, seed=1) == (own, exchanged)


def test_there_is_no_control_of_a_handful_of_rows():
    assert facts.control_pairs([example(row) for row in questions(5)], seed=1) == ([], [])


def test_facts_survive_being_written_and_damage_is_no_fact(tmp_path):
    known = measured(make_rows(12))
    facts.write(tmp_path, known)
    assert facts.read(tmp_path) == known
    assert facts.read(tmp_path / "nowhere") is None
    for damage in (b"", b"{", b"[]", b'{"rows": "many"}', b"\xff", b"[" * 100_000):
        (tmp_path / facts.FACTS_FILE).write_bytes(damage)
        assert facts.read(tmp_path) is None


def test_unrelated_answers_are_told_by_the_control_once_something_was_learned():
    known = measured(questions(40)).model_dump()
    of = {"rows": 24, "own": 3.0, "exchanged": 3.02}
    learned = {"rows": 24, "own": 1.5, "exchanged": 1.51}
    assert "do not depend" in evidence(Facts.model_validate({**known, "control_before": of, "control_after": learned}))
    unmoved = {"control_before": of, "control_after": of}
    assert evidence(Facts.model_validate({**known, **unmoved})) is None
    related = {"control_before": of, "control_after": {**learned, "exchanged": 1.8}}
    assert evidence(Facts.model_validate({**known, **related})) is None


@pytest.mark.slow
def test_a_run_leaves_facts_with_a_control_at_both_ends(workspace, new_dataset, tiny_base, start_worker):
    changed = {"epochs": 1, "eval_fraction": 0.4}
    process, run_dir = start_worker(arguments_for(workspace, new_dataset(make_rows(60)), tiny_base, **changed))
    assert "result" in outcome(process, run_dir)
    known = facts.read(run_dir)
    assert known is not None
    assert known.rows + known.held_out == 60
    assert known.unended_share == 0.0
    assert known.control_before is not None
    assert known.control_after is not None
    assert known.control_after.own < known.control_before.own
