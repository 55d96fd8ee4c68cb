from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.evaluation.metrics import TrainingText, chrf, common_subsequence, rouge_l

TEXT = "Hold the magnet on the wren mark for 4 seconds until the green light comes on."


def test_an_answer_equal_to_its_reference_scores_full_and_an_empty_one_scores_nothing() -> None:
    assert chrf(TEXT, TEXT) == 100
    assert rouge_l(TEXT, TEXT) == 1
    assert chrf("", TEXT) == rouge_l("  ", TEXT) == 0


def test_a_closer_answer_scores_higher() -> None:
    near, far = "Hold the magnet on the mark for 4 seconds.", "A wren is a small bird that lives in hedges."
    assert chrf(near, TEXT) > chrf(far, TEXT) + 20
    assert rouge_l(near, TEXT) > rouge_l(far, TEXT) + 0.3


def test_chinese_is_compared_character_by_character() -> None:
    reference = "一组双联电池可以用 38 个月。"
    assert rouge_l("双联电池可以用 38 个月", reference) > 0.85
    assert 0 < rouge_l("电池用 12 年", reference) < rouge_l("电池可以用 12 个月", reference) < 1


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=30), st.text("abc", max_size=30))
def test_the_longest_common_subsequence_is_the_one_of_the_textbook(a: str, b: str) -> None:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    assert common_subsequence(a, b) == table[-1][-1]


def test_only_long_runs_of_training_answers_count_as_memorised() -> None:
    training = TrainingText([TEXT, "证书由校准实验室负责人陆鸣舟签发,有效期为十四个月。"])
    assert training.share([TEXT]) == 1
    assert training.share(["The green light comes on when you hold the magnet."]) == 0
    half = training.share([f"{TEXT} " + " ".join(f"word{number}" for number in range(16))])
    assert half == 16 / 32
    assert training.share(["证书由校准实验室负责人陆鸣舟签发,有效期为十四个月。"]) == 1
    assert training.share(["证书由实验室签发。"]) == 0
    assert training.share(["", " "]) is None
