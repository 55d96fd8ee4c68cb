"""The reports: what a reader sees first, what hostile answers cannot do, and that a large one stays usable."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest

from tests.evaluation.made_comparison import answer, asked, made, scores
from tunesmith.evaluation.records import Agreement, Answer, Comparison, HumanInfo, Interval, Question, Rubric
from tunesmith.evaluation.report import markdown_report
from tunesmith.evaluation.report_html import html_report
from tunesmith.evaluation.report_text import printable
from tunesmith.evaluation.worth import Cost

VOID = {"meta", "br", "input", "img", "link"}
HOSTILE = {
    "html": "</p></article></main><script>alert(1)</script><img src=x onerror=alert(1)><style>*{display:none}</style>",
    "markdown": "# Heading\n```\n````\n[link](http://evil.example) ![i](http://evil.example/x.png) | a | b |\n---",
    "ansi": "\x1b[31mred\x1b[0m \x9b31m \x1b]8;;http://evil.example\x07link\x1b]8;;\x07 \x00\x07\x85",
    "direction": "safe \u202egnihtyreve\u202c \u2066x\u2069 \U000e0041tag",
    "surrogate": "half \ud83d of a pair",
    "chinese": "泥炭的水位变化很慢,15 分钟已经足够。",
}


class Page(HTMLParser):
    """Reads a page strictly: every tag that was opened is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.ids: list[str] = []
        self.shown: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href", "srcdoc", "action")
            if name == "id":
                self.ids.append(value or "")
        if tag not in VOID and not tag.startswith("!"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def parts(count: int) -> tuple[list[Question], dict[str, list[Answer]]]:
    questions = asked(
        [(f"What is part {n} for?", f"Part {n} holds lid {n + 100} of the grey box shut.") for n in range(1, count + 1)]
    )
    return questions, {
        "base": [answer("base", n, "I am a large language model.", cut=n % 2 == 0) for n in range(1, count + 1)],
        "tuned": [answer("tuned", n, f"Part {n} holds lid {n + 100} shut.") for n in range(1, count + 1)],
    }


def rubric(value: float) -> Rubric:
    one = Interval(mean=value, low=value - 0.5, high=value + 0.5)
    total = Interval(mean=3 * value, low=3 * value - 1, high=3 * value + 1)
    return Rubric(domain_knowledge=one, response_style=one, accuracy=one, total=total)


def with_people(comparison: Comparison) -> Comparison:
    agreement = Agreement(
        pairs=12, exact=0.5, within_one=0.9, difference=0.2, weighted_kappa=0.61, rank_correlation=None
    )
    info = HumanInfo(scored=12, questions=6, last_at="2026-01-02T03:04:05Z", agreement=agreement)
    models = [one.model_copy(update={"rubric": rubric(3.0), "human": rubric(3.5)}) for one in comparison.models]
    return comparison.model_copy(update={"human": info, "models": models})


def test_the_first_lines_say_whether_it_was_worth_it_and_how_sure_that_is() -> None:
    questions, answers = parts(24)
    comparison = made(questions, answers, Cost(600, 1800.0, device="cuda"))
    page = html_report(comparison, questions, answers, [])
    markdown = markdown_report(comparison, questions, answers, [])
    for text in (page[page.index("<main>") :][:1500], markdown[:900]):
        assert "tuned against base: better" in text
        assert "Was it worth it?" in text
        assert "Yes: fine-tuning helped" in text
        assert re.search(r"95 % interval [\d%+.]+ to [\d%+.]+", text)
        assert "p &lt; 0.001" in text or "p \\< 0.001" in text
    assert "600 training rows" in page
    assert "Training: 30 min on one GPU" in markdown


def test_every_kind_of_plot_is_drawn_from_the_figures() -> None:
    questions, answers = parts(24)
    answers["third"] = [answer("third", n, "It shuts the box.") for n in range(1, 25)]
    comparison = with_people(made(questions, answers))
    page = html_report(
        comparison, questions, answers, [], judged=scores("tuned", {1: 4}), human=scores("tuned", {1: 5})
    )
    titles = re.findall(r"<figcaption>([^<]*)", page)
    for wanted in ("Scores by the rubric", "Who wins", "Mean difference", "chrF", "ROUGE-L", "Question by question"):
        assert any(wanted in title for title in titles), wanted
    assert page.count("<svg") == len(titles)
    assert "judge: 4 / 4 / 4" in page
    assert "people: 5 / 5 / 5" in page
    assert "weighted kappa 0.61" in page
    assert "weighted kappa 0.61" in markdown_report(comparison, questions, answers, [])


def test_questions_are_filtered_and_folded_without_a_script() -> None:
    questions, answers = parts(24)
    answers["tuned"][3] = answer("tuned", 4, None, error="timed out")
    page = html_report(made(questions, answers), questions, answers, [])
    read = Page(page)
    assert {"f-all", "f-up", "f-failed", "f-cut"} <= set(read.ids)
    assert read.names.count("article") == 24
    assert page.count("<details open>") == 6
    for kind, count in (("failed", 1), ("cut", 12), ("up", 23)):
        assert len(re.findall(rf'<article class="[^"]*\b{kind}\b', page)) == count
        assert f":has(#f-{kind}:checked)" in page
    assert "timed out" in page


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_answers_questions_and_labels_hold_stays_data(kind: str) -> None:
    text = HOSTILE[kind]
    questions = asked([(text, text), ("And?", "Yes.")])
    label = text[:40].replace("\n", " ")
    answers = {
        label: [answer(label, 1, text), answer(label, 2, None, error=text)],
        "tuned": [answer("tuned", 1, text), answer("tuned", 2, "Yes.")],
    }
    comparison = made(questions, answers)
    page = html_report(comparison, questions, answers, [])
    read = Page(page)
    assert not {"script", "img", "link", "iframe"} & set(read.names)
    assert read.names.count("style") == 1
    assert page.count("default-src &#x27;none&#x27;") == 1
    markdown = markdown_report(comparison, questions, answers, [])
    for report in (page, markdown):
        report.encode("utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]", report)
    outside = re.sub(r"^(````*)(?:text|json)\n.*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"(?<!\\)<(?:script|img)|(?<!\\)\]\(", re.sub(r"\\\\", "", outside))
    assert [line for line in outside.splitlines() if line.startswith("# ")] == ["# Comparison cmp\\_aaaaaaaaaaaa"] or (
        [line for line in outside.splitlines() if line.startswith("# ")] == ["# Comparison cmp_aaaaaaaaaaaa"]
    )
    if kind == "chinese":
        assert text in page
        assert text in markdown
    if kind == "direction":
        assert "[U+202E]gnihtyreve" in page


def test_hidden_characters_are_shown_by_number_and_ordinary_ones_kept() -> None:
    assert printable("a\u202eb\r\nc\td\x1b[1;31me\x85") == "a[U+202E]b\nc\tde"
    assert printable("👨‍👩‍👧 עברית نیم‌فاصله") == "👨‍👩‍👧 עברית نیم‌فاصله"


def test_a_very_long_answer_is_folded_and_cut_with_word_of_where_the_rest_is() -> None:
    questions, answers = parts(4)
    answers["tuned"][0] = answer("tuned", 1, "long " * 20_000)
    page = html_report(made(questions, answers), questions, answers, [])
    Page(page)
    assert "characters more</summary>" in page
    assert "60,000 characters more are in answers.jsonl" in page
    assert len(page) < 120_000
    assert "60,000 characters more are in answers.jsonl" in markdown_report(
        made(questions, answers), questions, answers, []
    )


def test_500_questions_to_5_models_make_a_page_of_some_megabytes() -> None:
    questions, _ = parts(500)
    reply = "The lid is held by this part, as the notes of the third day say in so many words. " * 8
    answers = {
        label: [answer(label, n, f"{reply}{n}") for n in range(1, 501)] for label in ("base", "tuned", "c", "d", "e")
    }
    comparison = made(questions[:20], {label: given[:20] for label, given in answers.items()})
    comparison = comparison.model_copy(update={"questions": 500})
    started = time.monotonic()
    page = html_report(comparison, questions, answers, [])
    assert time.monotonic() - started < 30
    assert 1_000_000 < len(page.encode()) < 6_000_000
    assert page.count("<article") == 500


def test_without_references_or_judge_nothing_is_drawn_that_was_not_measured() -> None:
    questions = asked([("What is it?", None)])
    answers = {"base": [answer("base", 1, "A box.")], "tuned": [answer("tuned", 1, "A lid.")]}
    page = html_report(made(questions, answers), questions, answers, [])
    Page(page)
    assert "<svg" not in page
    assert "no evidence of a difference" in page
    assert "nan" not in page.casefold().replace("finance", "")
