from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.rows import clean_pair, clean_rows, pair_row, stored
from tests.data.test_scoring import SPOILERS
from tunesmith.data.checks.private import redact
from tunesmith.data.checks.rows import check_row
from tunesmith.data.cleaning import clean
from tunesmith.data.cutting import cut_at_sentence
from tunesmith.data.records import Message, Row
from tunesmith.data.scoring import score
from tunesmith.data.store import DatasetStore
from tunesmith.errors import EmptyInput, InvalidArgument, NotFound, NotSupported
from tunesmith.workspace import Workspace


def _kept(workspace: Workspace, dataset_id: str) -> dict[str, Row]:
    return {row.row_id: row for row in DatasetStore(workspace).rows(dataset_id)}


def test_by_default_errors_and_duplicates_are_dropped_and_private_things_redacted(workspace: Workspace) -> None:
    good = clean_rows(30)
    question, answer = clean_pair(50, "zh")
    rows = [
        *good,
        pair_row("", answer, "empty"),
        pair_row(question, answer + "{{name}}。", "placeholder"),
        pair_row(good[0].instruction, good[0].output, "exact"),
        pair_row(good[1].instruction, good[1].output + " Yes.", "near"),
        pair_row(question, answer + "邮箱zhangsan@corp.cn。", "mail"),
        pair_row("Why?", "```\n" + clean_pair(51, "en")[1] + "\n```", "warned"),
    ]
    result = clean(workspace, stored(workspace, rows).dataset_id)
    assert (result.rows_in, result.kept, result.dropped, result.edited) == (36, 32, 4, 1)
    assert result.by_check == {"empty_instruction": 1, "placeholder": 1, "exact_duplicate": 1, "near_duplicate": 1}
    assert result.edited_by_check == {"pii": 1}
    kept = _kept(workspace, result.dataset_id)
    assert set(kept) == {f"r{n}" for n in range(1, 31)} | {"mail", "warned"}
    assert kept["mail"].output == answer + "邮箱[EMAIL]。"
    assert (result.created_by, result.parents[0][:3]) == ("clean_dataset", "ds_")


def test_no_character_changes_in_a_row_that_no_check_names(workspace: Workspace) -> None:
    odd = [
        "全角,标点。与半角, punctuation. 混用  两个空格\t制表符\r\n换行 \n",
        "  leading and trailing space, curly “quotes” — dashes, ﬁ ligature, ①②③ and ½ are all kept as they are.  ",
        "NFD: e\u0301 stays decomposed; zero\u200bwidth and \u3000ideographic spaces stay; v1.2.3.4 stays a version.",
        "A" + " long sentence without a finding" * 55 + ".",
        "```python\nprint(1)\n```\nThat prints one, and the fence stays where it is in this answer.",
    ]
    assert 1500 < len(odd[3]) <= 2000
    rows = [*clean_rows(20), *(pair_row(f"Question number {n} of the odd ones?", text) for n, text in enumerate(odd))]
    dataset = stored(workspace, rows)
    result = clean(workspace, dataset.dataset_id)
    assert (result.kept, result.edited) == (25, 0)
    assert _kept(workspace, result.dataset_id) == _kept(workspace, dataset.dataset_id)


def test_whatever_is_planted_only_named_rows_change(workspace: Workspace) -> None:
    chooser = random.Random(1)
    rows: list[Row] = []
    named: set[str] = set()
    for number in range(240):
        question, answer = clean_pair(number, ("zh", "en")[number % 2])
        row_id = f"r{number + 1}"
        if chooser.random() < 0.5:
            question, answer = SPOILERS[chooser.choice(list(SPOILERS))](question, answer, number)
        rows.append(pair_row(question, answer, row_id))
        if check_row(rows[-1]):
            named.add(row_id)
    dataset = stored(workspace, rows)
    result = clean(workspace, dataset.dataset_id)
    assert result.rows_in == 240 == result.kept + result.dropped
    assert sum(result.by_check.values()) == result.dropped
    kept = _kept(workspace, result.dataset_id)
    for row in rows:
        if row.row_id not in named:
            assert kept[row.row_id] == row
    plan = score(workspace, dataset.dataset_id).clean_plan
    assert (plan.would_drop, plan.would_edit) == (result.dropped, result.edited)


_PIECES = st.sampled_from(
    ["全角,标点。", " half-width, too. ", "\u3000", "\t", "\r\n", "e\u0301", "ﬁ", "\u200b", "“引号”",
     "```\ncode\n```\n",
     "| a | b |\n", "联系lisi@163.com。", "13912345678", "{{name}}", "v1.2.3.4 ", "<br>", "长" * 900, "\ufffd",
     "A sentence that ends here. ", "密码:Zk83mQp1xx "]
)  # fmt: skip
_TEXTS = st.one_of(st.text(max_size=60), st.lists(_PIECES, max_size=6).map("".join))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(_TEXTS, _TEXTS), min_size=1, max_size=12))
def test_of_any_rows_only_those_that_a_check_names_are_changed_or_lost(pairs: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        rows = [pair_row(question, answer, f"r{number}") for number, (question, answer) in enumerate(pairs, start=1)]
        rows.append(pair_row(*clean_pair(1, "zh"), "good"))
        dataset = stored(workspace, rows)
        score(workspace, dataset.dataset_id)
        report = DatasetStore(workspace).report_path(dataset.dataset_id, "report.json").read_bytes()
        named = {entry["row_id"] for entry in json.loads(report)["rows"]}
        result = clean(workspace, dataset.dataset_id)
        assert result.rows_in == len(rows) == result.kept + result.dropped
        assert sum(result.by_check.values()) == result.dropped
        kept = _kept(workspace, result.dataset_id)
        for row in rows:
            assert row.row_id in named or kept[row.row_id] == row


def test_what_is_cleaned_has_nothing_left_to_clean(workspace: Workspace) -> None:
    rows = clean_rows(40)
    rows += [pair_row(*SPOILERS[check](*clean_pair(n, "en"), n)) for n, check in enumerate(SPOILERS, start=100)]
    rows += [row.model_copy(update={"row_id": ""}) for row in rows[:5]]
    first = clean(workspace, stored(workspace, rows).dataset_id)
    again = clean(workspace, first.dataset_id)
    assert (again.dropped, again.edited, again.sha256) == (0, 0, first.sha256)


def test_duplicates_of_a_dropped_row_are_kept(workspace: Workspace) -> None:
    question, answer = clean_pair(7, "zh")
    rows = [pair_row(question, answer + "XXX。", "bad"), pair_row(question, answer, "good"), *clean_rows(5, "en")]
    dataset = stored(workspace, rows)
    result = clean(workspace, dataset.dataset_id)
    assert (result.by_check, "good" in _kept(workspace, result.dataset_id)) == ({"placeholder": 1}, True)
    assert score(workspace, dataset.dataset_id).clean_plan.would_drop == 1


def test_rows_that_editing_made_equal_are_duplicates(workspace: Workspace) -> None:
    text = "联系人的邮箱是{},有问题请直接写信给他,一般两天之内会得到回复。"
    rows = [pair_row("怎样联系?", text.format(f"{name}@corp.cn")) for name in ("zhangsan", "lisi", "wangwu")]
    result = clean(workspace, stored(workspace, rows).dataset_id)
    assert (result.kept, result.by_check) == (1, {"exact_duplicate": 2})


def test_only_named_checks_drop(workspace: Workspace) -> None:
    question, answer = clean_pair(3, "en")
    rows = [*clean_rows(4), pair_row(question, "Yes.", "short"), pair_row("", answer, "empty")]
    dataset = stored(workspace, rows)
    result = clean(workspace, dataset.dataset_id, drop=["short_output"], redact=[])
    assert (set(_kept(workspace, result.dataset_id)), result.by_check) == (
        {"r1", "r2", "r3", "r4", "empty"},
        {"short_output": 1},
    )
    assert clean(workspace, dataset.dataset_id, drop=[], redact=[]).dropped == 0


def test_conflicting_answers_and_leaks_can_be_dropped(workspace: Workspace) -> None:
    rows = [row.model_copy(update={"split": "train"}) for row in clean_rows(10)]
    rows.append(pair_row(rows[0].instruction, "另一种说法,与之前的回答互相矛盾,不能同时成立。", "conflict"))
    rows.append(pair_row(rows[1].instruction, rows[1].output + " So.", "leak", split="eval"))
    dataset = stored(workspace, rows)
    result = clean(workspace, dataset.dataset_id, drop=["conflicting_answers"])
    assert {"r1", "conflict"} & set(_kept(workspace, result.dataset_id)) == set()
    result = clean(workspace, dataset.dataset_id, drop=["train_eval_leak"])
    assert set(_kept(workspace, dataset.dataset_id)) - set(_kept(workspace, result.dataset_id)) == {"leak"}


def test_private_things_are_redacted_everywhere_in_a_row(workspace: Workspace) -> None:
    mail, key = "li.si@corp.cn", "AKIAABCDEFGHIJKLMNOP"
    row = Row(
        row_id="r1",
        messages=[
            Message(role="system", content=f"写信给{mail}"),
            Message(role="user", content=f"怎么配置?\n\n密钥{key}"),
            Message(role="assistant", content=f"用密钥{key}配置,然后把结果发到{mail}即可,一切都会自动完成。"),
        ],
        meta={"input": f"密钥{key}", "extra": {"who": [mail]}},
    )
    dataset = stored(workspace, [row, *clean_rows(2)])
    result = clean(workspace, dataset.dataset_id)
    text = DatasetStore(workspace).rows_path(result.dataset_id).read_text(encoding="utf-8")
    assert mail not in text and key not in text
    assert (result.edited, result.edited_by_check) == (1, {"pii": 1, "secret": 1})
    only_pii = clean(workspace, dataset.dataset_id, drop=[], redact=["pii"])
    text = DatasetStore(workspace).rows_path(only_pii.dataset_id).read_text(encoding="utf-8")
    assert mail not in text and key in text
    assert clean(workspace, dataset.dataset_id, redact=["pii"]).by_check == {"secret": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("联系zhangsan@corp.cn或13912345678。", "联系[EMAIL]或[PHONE]。"),
        ("身份证11010119900307803X号", None),
        ("postgres://app:s3cr3tPw@10.1.2.3:5432/db", "[CONNECTION_STRING]"),
        ("卡号6222 0200 0000 0000 000", None),
        ("password: Ab3dEf9hKq, host 10.20.30.40", "password: [PASSWORD], host [IP]"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789AB", "[GITHUB_TOKEN]"),
    ],
)
def test_placeholders_say_what_stood_there(text: str, expected: str | None) -> None:
    redacted, checks = redact(text, ("pii", "secret"))
    if expected is not None:
        assert redacted == expected
        assert checks
    assert redact(redacted, ("pii", "secret")) == (redacted, set())
    assert "placeholder" not in {finding.check for finding in check_row(pair_row("问题是什么?", redacted + "," * 20))}


@given(st.text(max_size=200))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once, _ = redact(text, ("pii", "secret"))
    assert redact(once, ("pii", "secret"))[0] == once


SENTENCES = {
    "zh": "这是一个完整的句子,用来测试截断。",
    "en": "This is a whole sentence about v1.2 and 3.5 percent, e.g. for a test. ",
}


@pytest.mark.parametrize("language", ["zh", "en"])
def test_long_answers_end_with_a_sentence(workspace: Workspace, language: str) -> None:
    long = SENTENCES[language] * (2500 // len(SENTENCES[language]))
    dataset = stored(workspace, [pair_row("Tell me all of it?", long), *clean_rows(3)])
    result = clean(workspace, dataset.dataset_id)
    output = _kept(workspace, result.dataset_id)["r1"].output
    assert long.startswith(output) and 1300 < len(output) <= 1500
    assert output.endswith(("。", "test."))
    assert result.edited_by_check == {"long_output": 1}
    short = _kept(workspace, clean(workspace, dataset.dataset_id, truncate_chars=100).dataset_id)
    assert all(len(row.output) <= 100 for row in short.values())
    whole = clean(workspace, dataset.dataset_id, truncate_chars=None)
    assert _kept(workspace, whole.dataset_id)["r1"].output == long


def test_a_cut_leaves_out_a_block_that_does_not_fit() -> None:
    text = "First sentence. Second sentence.\n\n```python\n" + "x = 1. \n" * 40 + "```\nLast."
    assert cut_at_sentence(text, 120) == "First sentence. Second sentence."
    table = "Intro is here. It is long enough.\n\n| a. | b. |\n|---|---|\n" + "| 1. | 2. |\n" * 30
    assert cut_at_sentence(table, 90) == "Intro is here. It is long enough."
    fits = "Intro.\n\n```\ncode\n```\n\n" + "Many words follow here without any end " * 10
    assert cut_at_sentence(fits, 60) == "Intro.\n\n```\ncode\n```"
    listed = "Steps:\n" + "".join(f"{n}. do the thing number {n}\n" for n in range(1, 40))
    cut = cut_at_sentence(listed, 200)
    assert cut is not None and cut.splitlines()[-1] in listed.splitlines() and not cut.endswith(":")


def test_an_answer_without_any_end_is_left_whole_and_said(workspace: Workspace) -> None:
    dataset = stored(workspace, [pair_row("What?", "word" * 800), *clean_rows(2)])
    result = clean(workspace, dataset.dataset_id)
    assert (result.not_truncated, result.edited) == (1, 0)
    assert len(_kept(workspace, result.dataset_id)["r1"].output) == 3200


@given(st.text(alphabet="ab。.!? \n|`-1", max_size=300), st.integers(10, 200))
def test_a_cut_is_a_beginning_and_keeps_the_limit(text: str, limit: int) -> None:
    cut = cut_at_sentence(text, limit)
    if len(text) <= limit:
        assert cut == text
    else:
        assert cut is None or (text.startswith(cut) and 0 < len(cut) <= limit)


def test_nothing_left_is_an_error_and_nothing_is_written(workspace: Workspace) -> None:
    dataset = stored(workspace, [pair_row("", ""), pair_row("q", "")])
    with pytest.raises(EmptyInput, match="empty_instruction 1"):
        clean(workspace, dataset.dataset_id)
    assert DatasetStore(workspace).page(10)[2] == 1


def test_bad_arguments_are_named_with_the_nearest_good_one(workspace: Workspace) -> None:
    dataset_id = stored(workspace, clean_rows(3)).dataset_id
    with pytest.raises(InvalidArgument, match="'near_duplicate'"):
        clean(workspace, dataset_id, drop=["near_duplicates"])
    with pytest.raises(InvalidArgument, match="whole dataset"):
        clean(workspace, dataset_id, drop=["too_few_rows"])
    with pytest.raises(NotSupported, match="over_max_length"):
        clean(workspace, dataset_id, drop=["over_max_length"])
    with pytest.raises(InvalidArgument, match="'emails'"):
        clean(workspace, dataset_id, redact=["emails"])
    for threshold in (float("nan"), float("inf"), 0.0, 0.49, 1.01, -1):
        with pytest.raises(InvalidArgument, match="near_duplicate_threshold"):
            clean(workspace, dataset_id, near_duplicate_threshold=threshold)
    for limit in (0, -5, 49):
        with pytest.raises(InvalidArgument, match="truncate_chars"):
            clean(workspace, dataset_id, truncate_chars=limit)
    with pytest.raises(NotFound):
        clean(workspace, "ds_aaaaaaaaaaaa")
