from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.rows import pair_row, stored
from tunesmith.data.checks.rows import check_row
from tunesmith.data.cleaning import clean
from tunesmith.data.editing import add_examples
from tunesmith.data.exporting import export_dataset
from tunesmith.data.fields import RowRejected
from tunesmith.data.formats import detect, from_row, to_row
from tunesmith.data.importing import import_dataset
from tunesmith.data.records import Row
from tunesmith.data.row_pages import shortened
from tunesmith.data.scoring import score
from tunesmith.data.splitting import split
from tunesmith.data.store import DatasetStore
from tunesmith.errors import BadInput, InvalidArgument
from tunesmith.workspace import Workspace

ASK = {"role": "user", "content": "What colour is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "It is green."}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def pair(number: int, *, question: str | None = None) -> Row:
    row = pair_row(question or f"How is lamp {number} lit?", f"Lamp {number} is lit by turning its key {number} times.")
    return row.model_copy(update={"rejected": f"Nobody knows how one might light lamp number {number}."})


def said(row: Row) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in row.messages]


@pytest.mark.parametrize(
    "record",
    [
        # TRL, explicit prompt: plain and conversational.
        {"prompt": ASK["content"], "chosen": "It is blue.", "rejected": "It is green."},
        {"prompt": [ASK], "chosen": [BLUE], "rejected": [GREEN]},
        {"prompt": ASK["content"], "chosen": [BLUE], "rejected": [GREEN]},
        {"prompt": json.dumps([ASK]), "chosen": json.dumps([BLUE]), "rejected": json.dumps([GREEN])},
        # TRL, implicit prompt: conversational, as transcripts, and with the prompt once more beside it.
        {"chosen": [ASK, BLUE], "rejected": [ASK, GREEN]},
        {
            "chosen": "\n\nHuman: What colour is the sky?\n\nAssistant: It is blue.",
            "rejected": "\n\nHuman: What colour is the sky?\n\nAssistant: It is green.",
        },
        {"prompt": ASK["content"], "chosen": [ASK, BLUE], "rejected": [ASK, GREEN], "messages": [ASK, BLUE]},
        {"prompt": [ASK], "chosen": [ASK, BLUE], "rejected": [ASK, GREEN]},
        # LLaMA-Factory with ranking: true.
        {"instruction": ASK["content"], "input": "", "chosen": "It is blue.", "rejected": "It is green."},
        {
            "conversations": [{"from": "human", "value": ASK["content"]}],
            "chosen": {"from": "gpt", "value": "It is blue."},
            "rejected": {"from": "gpt", "value": "It is green."},
        },
        {"messages": [ASK], "chosen": BLUE, "rejected": GREEN},
        # Others.
        {"question": ASK["content"], "chosen": "It is blue.", "rejected": "It is green."},
        {"messages": [ASK, BLUE], "chosen": "It is blue.", "rejected": "It is green."},
    ],
)
def test_every_way_to_write_two_answers_gives_the_same_row(record: dict[str, Any]) -> None:
    assert detect(record) == "preference"
    row = to_row(record, "preference")
    assert said(row) == [("user", ASK["content"]), ("assistant", "It is blue.")]
    assert row.rejected == "It is green."
    assert not row.meta.get("extra")


def test_the_rows_in_the_documentation_are_read_as_it_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    records = [json.loads(line) for block in blocks for line in block.splitlines()]
    formats = [detect(record) for record in records]
    assert formats == ["alpaca", "sharegpt", "messages", "prompt_completion", *["preference"] * 5]
    rows = [to_row(record, format) for record, format in zip(records, formats, strict=True) if format]
    assert {(row.instruction, row.output) for row in rows[1:]} == {("What colour is the sky?", "It is blue.")}
    assert {row.rejected for row in rows[4:]} == {"It is green."}


def test_two_texts_without_a_prompt_are_cut_where_they_part() -> None:
    row = to_row({"chosen": "The sky is blue.", "rejected": "The sky is bleak."}, "preference")
    assert said(row) == [("user", "The sky is"), ("assistant", "blue.")]
    assert row.rejected == "bleak."


def test_a_system_text_an_input_and_earlier_turns_stay_in_the_prompt() -> None:
    record = {
        "system": "Be brief.",
        "instruction": "Translate.",
        "input": "蓝色",
        "history": [["Hello", "Hi"]],
        "chosen": "blue",
        "rejected": "green",
    }
    row = to_row(record, "preference")
    assert said(row) == [
        ("system", "Be brief."),
        ("user", "Hello"),
        ("assistant", "Hi"),
        ("user", "Translate.\n\n蓝色"),
        ("assistant", "blue"),
    ]
    assert from_row(row, "alpaca", ranking=True) == record
    with_system = to_row({"system": "Be brief.", "question": "Q", "chosen": "a", "rejected": "b"}, "preference")
    assert said(with_system)[0] == ("system", "Be brief.")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": None}, "no 'rejected'"),
        ({"prompt": "q", "chosen": "a", "rejected": 3}, "'rejected' is a number"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "'prompt' is a number"),
        ({"chosen": "all", "rejected": "other"}, "do not begin alike"),
        ({"chosen": [BLUE], "rejected": [GREEN]}, "no prompt"),
        ({"chosen": [ASK, BLUE], "rejected": [{**ASK, "content": "Why?"}, GREEN]}, "more than their last"),
        ({"chosen": [ASK], "rejected": [ASK]}, "not the assistant's"),
        ({"chosen": [], "rejected": [GREEN]}, "more than their last"),
        ({"prompt": "Why?", "chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}, "not in the conversation"),
        ({"prompt": [GREEN], "chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}, "not what chosen begins with"),
        ({"instruction": "q", "output": "c", "chosen": "a", "rejected": "b"}, "besides 'chosen'"),
        ({"prompt": "q", "chosen": "a", "rejected": "\ud800"}, "lone surrogate"),
    ],
)
def test_a_row_that_is_no_preference_is_rejected_with_the_reason(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowRejected, match=reason):
        to_row(record, "preference")


@given(TEXT.filter(str.strip), TEXT, TEXT, st.none() | st.sampled_from(["train", "eval"]))
def test_a_pair_says_the_same_in_every_format_that_can_say_it(
    prompt: str, chosen: str, rejected: str, side: str | None
) -> None:
    messages = pair_row(prompt, chosen).messages
    row = Row(row_id="", messages=messages, rejected=rejected, split=side, meta={"extra": {"id": 7}})  # pyright: ignore[reportArgumentType]
    written = from_row(row, "preference")
    assert set(written) == {"prompt", "chosen", "rejected", "id"} | ({"split"} if side else set())
    for format, ranking in (("preference", False), ("sharegpt", True)):
        record = from_row(row, format, ranking=ranking)  # pyright: ignore[reportArgumentType]
        assert to_row(record, "preference") == row


def test_fields_of_the_answers_messages_survive() -> None:
    record = {"prompt": [ASK], "chosen": [{**BLUE, "score": 9}], "rejected": [{**GREEN, "score": 2}]}
    assert from_row(to_row(record, "preference"), "preference") == record


def test_a_file_of_pairs_becomes_a_dataset_and_leaves_for_trl_and_llama_factory(
    workspace: Workspace, notes: Path
) -> None:
    file = notes / "pairs.jsonl"
    lines = [{"prompt": f"Question {n}?", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(5)]
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"prompt": "p", "completion": "c"}]))
    made = import_dataset(workspace, str(file))
    assert (made.format, made.rows, made.pairs, made.rejected_total) == ("preference", 5, 5, 1)
    stored_rows = list(DatasetStore(workspace).rows(made.dataset_id))
    assert [row.rejected for row in stored_rows] == [f"bad {n}" for n in range(5)]

    trl = export_dataset(workspace, made.dataset_id, format="preference")
    first = json.loads(Path(trl.path).read_text().splitlines()[0])
    assert first == {
        "prompt": [{"role": "user", "content": "Question 0?"}],
        "chosen": [{"role": "assistant", "content": "good 0"}],
        "rejected": [{"role": "assistant", "content": "bad 0"}],
    }
    assert (trl.llama_factory, trl.rejected_left_out) == (None, 0)

    alpaca = export_dataset(workspace, made.dataset_id, format="alpaca")
    assert alpaca.llama_factory == {
        "alpaca": {
            "file_name": "alpaca.jsonl",
            "ranking": True,
            "columns": {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"},
        }
    }
    sharegpt = export_dataset(workspace, made.dataset_id, format="sharegpt")
    assert sharegpt.llama_factory is not None
    assert sharegpt.llama_factory["sharegpt"]["ranking"] is True
    assert json.loads(Path(sharegpt.path).read_text().splitlines()[0]) == {
        "conversations": [{"from": "human", "value": "Question 0?"}],
        "chosen": {"from": "gpt", "value": "good 0"},
        "rejected": {"from": "gpt", "value": "bad 0"},
    }
    chosen_only = export_dataset(workspace, made.dataset_id, format="messages")
    assert chosen_only.rejected_left_out == 5


def test_rows_with_and_without_a_second_answer_are_counted_and_can_be_told_apart(workspace: Workspace) -> None:
    pairs = stored(workspace, [pair(number) for number in range(4)])
    mixed = add_examples(
        workspace,
        pairs.dataset_id,
        [
            {"instruction": "Who built the tower?", "output": "Nobody wrote down who built the tower."},
            {
                "instruction": "Where does it stand?",
                "output": "At the end of the long pier.",
                "rejected": "On the hill.",
            },
        ],
    )
    assert (mixed.rows, mixed.pairs) == (6, 5)
    found = {entry.check: entry for entry in score(workspace, mixed.dataset_id).findings}
    assert found["rejected_missing"].sample_row_ids == ["r5"]
    with pytest.raises(BadInput, match="1 of 6 rows have no rejected answer"):
        export_dataset(workspace, mixed.dataset_id, format="preference")
    alpaca = export_dataset(workspace, mixed.dataset_id, format="alpaca")
    assert "output" in json.loads(Path(alpaca.path).read_text().splitlines()[0])
    assert alpaca.rejected_left_out == 5
    cleaned = clean(workspace, mixed.dataset_id, drop=["rejected_missing"])
    assert (cleaned.rows, cleaned.pairs) == (5, 5)
    with pytest.raises(InvalidArgument, match="rejected is empty"):
        add_examples(workspace, pairs.dataset_id, [{"instruction": "q", "output": "a", "rejected": " "}])


def test_a_pair_that_prefers_nothing_is_found() -> None:
    same = pair(1).model_copy(update={"rejected": pair(1).output.replace(" ", "  ")})
    assert [finding.check for finding in check_row(same)] == ["rejected_equals_chosen"]
    empty = pair(1).model_copy(update={"rejected": " \u200b"})
    assert [finding.check for finding in check_row(empty)] == ["empty_rejected"]
    assert check_row(pair(1)) == []


def test_personal_data_in_the_rejected_answer_is_found_and_redacted(workspace: Workspace) -> None:
    row = pair(1).model_copy(update={"rejected": "Write to anna.berg@example-mail.org about lighting that lamp."})
    assert "pii" in {finding.check for finding in check_row(row)}
    cleaned = clean(workspace, stored(workspace, [row, pair(2)]).dataset_id)
    rows = list(DatasetStore(workspace).rows(cleaned.dataset_id))
    assert rows[0].rejected == "Write to [EMAIL] about lighting that lamp."
    assert rows[1].rejected == pair(2).rejected


def test_several_pairs_for_one_question_are_no_conflict_but_one_pair_both_ways_is(workspace: Workspace) -> None:
    first, second = pair(1, question="How is it lit?"), pair(2, question="How is it lit?")
    turned = pair_row("How is it lit?", first.rejected or "").model_copy(update={"rejected": first.output})
    checks = {entry.check for entry in score(workspace, stored(workspace, [first, second]).dataset_id).findings}
    assert "conflicting_answers" not in checks
    found = {
        entry.check: entry for entry in score(workspace, stored(workspace, [first, second, turned]).dataset_id).findings
    }
    assert found["conflicting_answers"].sample_row_ids == ["r1", "r3"]


def test_pairs_for_one_question_stay_on_one_side_of_a_split(workspace: Workspace) -> None:
    topics = ("sails", "ropes", "anchors", "compass", "rudder", "ballast", "keel", "mast")
    rows = [
        pair_row(f"Why care about {topic}?", f"{topic} {style} {number * 7919}").model_copy(
            update={"rejected": f"{number} {style * 3} unrelated"}
        )
        for topic in topics
        for number, style in enumerate(("keep the crew safe at night", "hold against a falling tide", "cost a fortune"))
    ]
    made = split(workspace, stored(workspace, rows).dataset_id, eval_fraction=0.3)
    sides: dict[str, set[str | None]] = {}
    for row in DatasetStore(workspace).rows(made.dataset_id):
        sides.setdefault(row.instruction, set()).add(row.split)
    assert all(len(side) == 1 for side in sides.values())
    assert made.splits.eval > 0


def test_a_long_rejected_answer_is_shortened_where_rows_are_shown() -> None:
    shown, left_out = shortened(pair(1).model_copy(update={"rejected": "x" * 50_000}), 4000)
    assert left_out > 40_000
    assert len(shown.model_dump_json()) <= 4000
