from __future__ import annotations

import subprocess
import sys

import pytest

from tests.training.conftest import make_rows
from tunesmith.data.records import Message, Row
from tunesmith.errors import BadInput, EmptyInput
from tunesmith.models.bases import prompt_format_for, tokenizer_for
from tunesmith.training.examples import IGNORED, refuse_untrained, split_rows, tokenise


def numbered(count, **options):
    rows = make_rows(count, **options)
    return [row.model_copy(update={"row_id": f"r{number}"}) for number, row in enumerate(rows, start=1)]


def test_a_section_is_never_divided_and_about_a_tenth_is_held_out():
    split = split_rows(numbered(120, group_size=3), eval_fraction=0.1, seed=42)
    sections = lambda rows: {row.source.first_line for row in rows}  # noqa: E731
    assert sections(split.train).isdisjoint(sections(split.eval))
    assert 9 <= len(split.eval) <= 18
    assert len(split.train) + len(split.eval) == 120


def test_the_split_is_the_same_in_another_process_and_another_with_another_seed():
    program = (
        "from tests.training.test_examples import numbered\n"
        "from tunesmith.training.examples import split_rows\n"
        "print([row.row_id for row in split_rows(numbered(60), eval_fraction=0.1, seed=42).eval])"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    assert told == str([row.row_id for row in split_rows(numbered(60), eval_fraction=0.1, seed=42).eval])
    assert told != str([row.row_id for row in split_rows(numbered(60), eval_fraction=0.1, seed=7).eval])


def test_the_datasets_own_split_is_used_where_it_has_one():
    rows = [
        row.model_copy(update={"split": "eval" if number < 3 else "train"}) for number, row in enumerate(numbered(10))
    ]
    split = split_rows(rows, eval_fraction=0.5, seed=1)
    assert [row.row_id for row in split.eval] == ["r1", "r2", "r3"]
    assert split.by == "the dataset's own split"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_too_few_rows_are_refused(count):
    with pytest.raises(EmptyInput, match="at least 4 and 1"):
        split_rows(numbered(count), eval_fraction=0.1, seed=42)


def test_loss_is_on_the_answer_and_its_end_token_alone(workspace, tiny_base):
    tokenizer = tokenizer_for(workspace, str(tiny_base))
    prompt_format = prompt_format_for(workspace, str(tiny_base))
    row = numbered(1)[0]
    example = tokenise([row], prompt_format, tokenizer)[0]
    trained = [token for token in example.labels if token != IGNORED]
    assert tokenizer.decode(trained, skip_special_tokens=False) == "Lamp 0 shines red.<|im_end|>"
    assert tokenizer.decode(example.input_ids, skip_special_tokens=False) == prompt_format.render(row.messages)


def test_what_is_cut_is_counted_and_an_answer_cut_off_whole_is_refused(workspace, tiny_base):
    tokenizer = tokenizer_for(workspace, str(tiny_base))
    prompt_format = prompt_format_for(workspace, str(tiny_base))
    whole = tokenise(numbered(5), prompt_format, tokenizer)
    shorter = tokenise(numbered(5), prompt_format, tokenizer, max_length=len(whole[0].input_ids) - 5)
    assert all(example.was_cut for example in shorter)
    refuse_untrained(shorter, 60)
    with pytest.raises(BadInput, match="cuts off the whole answer"):
        refuse_untrained(tokenise(numbered(5), prompt_format, tokenizer, max_length=20), 20)


def test_a_long_row_list_is_tokenised_batch_by_batch_in_order(workspace, tiny_base):
    tokenizer = tokenizer_for(workspace, str(tiny_base))
    seen = []
    rows = [
        Row(row_id=f"r{n}", messages=[Message(role="user", content="?"), Message(role="assistant", content=str(n))])
        for n in range(600)
    ]
    examples = tokenise(
        rows, prompt_format_for(workspace, str(tiny_base)), tokenizer, on_batch=lambda: seen.append(None)
    )
    assert [example.row_id for example in examples] == [row.row_id for row in rows]
    assert len(seen) == 3
    assert tokenizer.decode([t for t in examples[599].labels if t != IGNORED]) == "599"


def test_rows_of_one_template_are_divided_all_the_same_and_the_near_copies_are_named():
    split = split_rows(numbered(24, answer="It is a lamp of the usual kind."), eval_fraction=0.1, seed=42)
    assert 1 <= len(split.eval) <= 6
    assert len(split.train) + len(split.eval) == 24
    assert "near copies" in split.by
