"""Defects and look-alikes that real data has and that the row checks once judged wrongly."""

from __future__ import annotations

import random
import string

import pytest

from tests.data.rows import pair_row
from tunesmith.data.checks.rows import check_row

WHOLE = "The pump starts by itself when the tank is half empty. It stops again after ten minutes."


def _letters(count: int, alphabet: str = string.ascii_letters) -> str:
    return "".join(random.Random(7).choices(alphabet, k=count))


def _found(question: str, answer: str) -> set[str]:
    return {finding.check for finding in check_row(pair_row(question, answer))}


@pytest.mark.parametrize(
    "damaged",
    [
        "café".encode().decode("latin-1"),
        "5 €".encode().decode("latin-1"),
        "数据".encode("gbk").decode("latin-1"),
        "数据训练".encode().decode("gbk", "ignore"),
        "caf\\xe9 au lait",
        "5 \\u20ac",
        "red \x1b[31mtext",
    ],
)
def test_one_damaged_word_in_a_sound_answer_is_found(damaged: str) -> None:
    assert "encoding_damage" in _found("How does the pump work?", f"{WHOLE} It says {damaged} on the lid.")


@pytest.mark.parametrize(
    "text",
    [
        "ÄÖÜß, Ångström, VÂN and Đà Nẵng, «oui», 90° ± 0.5°, ½ × ¾.",
        "The escape \\u20ac is how Unicode writes the euro sign in JSON.",
        "溅起的水花漓漓落下，绮丽的缇骑驰骋在珏山脚下。鏈條與繁體字並存。",
        "\\usepackage{amsmath} loads a package.",
    ],
)
def test_rare_letters_and_escapes_that_are_spoken_of_are_no_damage(text: str) -> None:
    assert "encoding_damage" not in _found("How does the pump work?", f"{WHOLE} {text}")


@pytest.mark.parametrize(
    "answer",
    [
        "Primero hay que preparar los ingredientes y calentar el horno. Luego se mezcla la harina con el agua.",
        "Сначала нужно подготовить все продукты и разогреть духовку. Затем смешайте муку с сахаром.",
        "まず材料を準備して、オーブンを温めます。次に小麦粉と砂糖を混ぜて、卵を加えてください。",
    ],
)
@pytest.mark.parametrize("question", ["How do I bake this cake at home?", "这个蛋糕怎么在家里烤？"])
def test_an_answer_in_a_third_language_is_a_mismatch(question: str, answer: str) -> None:
    assert "language_mismatch" in _found(question, answer)


def test_a_chinese_answer_that_goes_over_into_english_is_a_mismatch() -> None:
    answer = "水泵会自动启动。\n\n" + f"{WHOLE} {WHOLE} Check the valve once a year and keep the filter clean."
    assert "language_mismatch" in _found("水泵是怎么工作的？", answer)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (
            "用“shimmer”和“keepsake”这两个词写一个句子。",
            "The shimmer of the lake became a keepsake that she never lost.",
        ),
        ("求下式的二阶导数：y = x^3 + 7x", "对 y = x^3 + 7x 求导，y' = 3x^2 + 7，y'' = 6x，所以 y'' = 6x。"),
        ("总结下面这段话的主要内容。\n" + WHOLE, "水泵在水箱半空的时候会自动启动，十分钟以后又会停下来。"),
    ],
)
def test_words_and_texts_asked_about_may_be_english(question: str, answer: str) -> None:
    assert "language_mismatch" not in _found(question, answer)


@pytest.mark.parametrize(
    "mark",
    [
        "[^3]",
        "{#usage}",
        "[[Install Notes]]",
        "[the guide][ref-1]",
        '<img src="a.png">',
        "&nbsp;",
        "[安装](setup/a.md)",
    ],
)
def test_marks_of_a_page_are_residue(mark: str) -> None:
    assert "markdown_residue" in _found("How does the pump work?", f"{WHOLE} {mark} Then it waits.")


@pytest.mark.parametrize("text", ["a[0][x] and b[i][j]", "the set [[1, 2], [3, 4]]", "[Bob]: Yes", "R&D and AT&T"])
def test_brackets_that_mean_something_are_no_residue(text: str) -> None:
    assert "markdown_residue" not in _found("How does the pump work?", f"{WHOLE}\n{text}\nThen it waits.")


@pytest.mark.parametrize("blank", ["${product}", "{name}", "%(user)s", "<NAME>", "[City, State]", "(insert example)"])
def test_what_a_template_should_have_filled_in_is_a_placeholder(blank: str) -> None:
    assert "placeholder" in _found("How does the pump work?", f"{WHOLE} Ask {blank} for more.")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Write an e-mail template for refunds.", f"Dear [Customer's Name], {WHOLE}"),
        ("Explain this GitHub Action: token: ${{ secrets.GITHUB_TOKEN }}", WHOLE),
        ("Who won?", "It was Super Bowl XXX that they won in the end, by ten points."),
        ("Solve it.", "x + y = 5\n- (y = 1)\n___________\nx = 4, and so the line is found at once."),
    ],
)
def test_a_template_that_was_asked_for_holds_no_forgotten_placeholder(question: str, answer: str) -> None:
    assert "placeholder" not in _found(question, answer)


@pytest.mark.parametrize(
    "secret",
    ["hf_" + _letters(34), "AccountName=st1;AccountKey=" + _letters(86, string.ascii_letters + string.digits) + "=="],
)
def test_keys_of_letters_only_and_account_keys_are_secrets(secret: str) -> None:
    assert "secret" in _found("How does the pump work?", f"{WHOLE} Use {secret} for it.")


@pytest.mark.parametrize(
    "answer",
    [
        f"{WHOLE}\n\n1. Open the valve.\n2. Close the lid.\n3.",
        f"{WHOLE}\n\n```python\ndef total(items):\n    result = 0\n    for item in items:\n        result +=",
        "The input is a string of",
        "水泵在水箱半空的时候会自动启动，十分钟以后停下来，这是它最重要的一个特点，也是各个型号都有的独特的",
    ],
)
def test_an_answer_that_stops_at_a_number_within_code_or_at_a_small_word_is_cut_off(answer: str) -> None:
    assert "truncated_output" in _found("How does the pump work?", answer)


@pytest.mark.parametrize(
    "end",
    [
        "The answer is 42",
        "x = (-b ± √(b² - 4ac)) / 2a",
        "And so they lived happily ever after...",
        "├── src\n└── tests",
        "Best wishes, Wang",
        "Call our office on 0755-86646554",
        "Get one yourself. #PuppyLove",
        "春眠不觉晓\n处处闻啼鸟",
        "1. 先打开阀门，再等一会。\n2. 然后关上盖子。\n\n- 成本更低\n- 启动更快",
    ],
)
def test_an_answer_may_end_without_a_full_stop(end: str) -> None:
    assert "truncated_output" not in _found("How does the pump work?", f"{WHOLE}\n\n{end}")
