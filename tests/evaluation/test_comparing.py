from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.endpoint_double import EndpointDouble, Said, Stall, Status
from tests.evaluation.conftest import make_dataset
from tunesmith.errors import Conflict, EmptyInput, InvalidArgument, NotFound, NotSupported, ServiceFailed, UserError
from tunesmith.evaluation import asking
from tunesmith.evaluation.comparing import Comparing
from tunesmith.evaluation.records import Comparison
from tunesmith.evaluation.request import check_request, read_request
from tunesmith.evaluation.store import ComparisonStore
from tunesmith.evaluation.worker import compare
from tunesmith.models.serving import child_environment
from tunesmith.work import Work
from tunesmith.workspace import Workspace

NewWork = Callable[..., Work]
ATTACK = "</p><script>alert(1)</script><img src=http://evil.example/x.png onerror=alert(1)> ``` & \x1b[31mred"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_PAUSE_S", 0.02)


def questions(count: int) -> list[dict[str, str]]:
    return [
        {"question": f"What is part {n} for?", "reference": f"Part {n} holds the lid of the grey box number {n} shut."}
        for n in range(1, count + 1)
    ]


def right(request: dict[str, Any]) -> Said:
    number = re.findall(r"\d+", request["messages"][-1]["content"])[0]
    return Said(f"Part {number} keeps the lid of the grey box {number} shut.")


def wrong(request: dict[str, Any]) -> Said:
    return Said("I am a large language model and know of no such thing.", finish_reason="length")


def two(a: EndpointDouble, b: EndpointDouble) -> list[dict[str, str]]:
    return [{"label": "base", "model": f"openai:a@{a.url}"}, {"label": "tuned", "model": f"openai:b@{b.url}"}]


def test_the_model_that_answers_as_the_references_do_is_called_better(new_work: NewWork, workspace: Workspace) -> None:
    with EndpointDouble(wrong) as base, EndpointDouble(right) as tuned:
        work = new_work(models=two(base, tuned), questions=questions(24))
        result = compare(work)
        assert sorted(base.asked()) == sorted(tuned.asked())
    assert result["verdict"]["answer"] == "better"
    assert result["verdict"]["candidate"] == "tuned"
    first, second = result["models"]
    assert second["similarity"]["chrf"]["low"] > first["similarity"]["chrf"]["high"]
    assert (first["stop_rate"], second["stop_rate"]) == (0, 1)
    assert first["rubric"] is None
    assert first["heldout_loss"] is None
    (pair,) = result["pairs"]
    assert (pair["a"], pair["b"], pair["wins"], pair["losses"]) == ("base", "tuned", 0, 24)
    assert pair["win_rate"]["mean"] == 0
    assert set(result["worth_it"]) == {"answer", "for", "against", "advice", "in_one_line", "cost"}
    stored = ComparisonStore(workspace).get(result["comparison_id"])
    assert stored.model_dump(mode="json") == result
    assert len(json.dumps(result, ensure_ascii=False)) < 20_000


def test_the_held_out_rows_of_a_dataset_are_asked_and_nothing_else(new_work: NewWork, workspace: Workspace) -> None:
    dataset = make_dataset(workspace, train=6, held_out=4)
    with EndpointDouble(wrong) as base, EndpointDouble(right) as tuned:
        result = compare(new_work(models=two(base, tuned), dataset_id=dataset.dataset_id, max_tokens=64))
    assert sorted(base.asked()) == [f"What is part {n} for?" for n in (10, 7, 8, 9)]
    assert result["questions"] == 4
    assert result["lineage"]["datasets"][0]["sha256"] == dataset.sha256
    assert "no test can reach 5 %" in result["verdict"]["why"]
    assert result["models"][1]["memorised_share"] is not None


def test_a_sample_of_a_large_eval_split_is_drawn_and_said(new_work: NewWork, workspace: Workspace) -> None:
    dataset = make_dataset(workspace, train=4, held_out=12)
    with EndpointDouble(wrong) as base, EndpointDouble(right) as tuned:
        result = compare(new_work(models=two(base, tuned), dataset_id=dataset.dataset_id, max_questions=5))
        assert len(base.requests) == 5
    assert any("5 of 12 held-out rows" in note for note in result["notes"])


def test_errors_are_counted_and_never_scored(new_work: NewWork) -> None:
    def flaky(request: dict[str, Any]) -> Said | Status:
        return Status(400, "too long") if "part 2 " in request["messages"][-1]["content"] else right(request)

    with EndpointDouble(flaky) as base, EndpointDouble(right) as tuned:
        result = compare(new_work(models=two(base, tuned), questions=questions(8)))
    assert [model["errors"] for model in result["models"]] == [1, 0]
    assert result["pairs"][0]["questions"] == 7
    assert result["pairs"][0]["ties"] == 7
    assert result["verdict"]["answer"] == "no_evidence"
    assert result["samples"][1]["replies"]["base"] is None


def test_a_model_that_never_answers_fails_the_comparison_with_its_reason(
    new_work: NewWork, workspace: Workspace
) -> None:
    with EndpointDouble(right) as base, EndpointDouble(lambda _: Status(404, "model 'b' not found")) as tuned:
        with pytest.raises(ServiceFailed, match="model 'b' not found") as caught:
            compare(new_work(models=two(base, tuned), questions=questions(6)))
        assert "compare_models" in caught.value.next
    assert ComparisonStore(workspace).page(20)[0] == []


def test_without_references_nothing_is_judged(new_work: NewWork) -> None:
    with EndpointDouble(wrong) as base, EndpointDouble(right) as tuned:
        result = compare(new_work(models=two(base, tuned), questions=["What is part 1 for?", "And part 2?"]))
    assert result["verdict"]["answer"] == "no_evidence"
    assert result["pairs"][0]["p_value"] is None
    assert result["models"][0]["similarity"] is None


def test_a_comparison_that_was_killed_asks_nothing_twice(
    new_work: NewWork, workspace: Workspace, tmp_path: Path
) -> None:
    served = 0

    def stops_in_the_middle(request: dict[str, Any]) -> Said | Stall:
        nonlocal served
        served += 1
        return wrong(request) if served <= 5 else Stall(60)

    with EndpointDouble(right) as base, EndpointDouble(stops_in_the_middle) as tuned:
        arguments = {"models": two(base, tuned), "questions": questions(12)}
        work = new_work(**arguments)
        worker = subprocess.Popen(
            [sys.executable, "-m", "tunesmith.evaluation.worker", str(work.run_dir)],
            env=child_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 40
        (folder,) = wait_for(lambda: list(workspace.comparisons.glob("cmp_*")), end)
        wait_for(lambda: len((folder / "answers.jsonl").read_bytes().splitlines()) == 17, end)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait(10)
        kept = {
            answer.question for answer in asking.AnswerFile(folder / "answers.jsonl").read() if answer.label == "tuned"
        }
        asked_before = len(tuned.requests)
        tuned.script = wrong
        result = compare(new_work(work.run_dir, **arguments))
        assert len(base.requests) == 12
        again = [int(re.findall(r"\d+", text)[0]) for text in tuned.asked()[asked_before:]]
    assert result["comparison_id"] == folder.name
    assert len(kept) == 5
    assert sorted([*kept, *again]) == list(range(1, 13))
    assert [model["answered"] for model in result["models"]] == [12, 12]


def wait_for(condition: Callable[[], Any], end: float) -> Any:
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    raise AssertionError("did not happen in time")


def test_a_comparison_can_be_gone_on_with_by_its_id_until_it_is_complete(
    new_work: NewWork, workspace: Workspace
) -> None:
    with EndpointDouble(right) as base, EndpointDouble(lambda _: Status(401)) as tuned:
        work = new_work(models=two(base, tuned), questions=questions(3))
        with pytest.raises(ServiceFailed):
            compare(work)
        comparison_id = (work.run_dir / "comparison_id").read_text()
        tuned.script = right
        compare(new_work(models=two(base, tuned), questions=questions(3), comparison_id=comparison_id))
        assert len(base.requests) == 3
        with pytest.raises(Conflict, match="is complete"):
            compare(new_work(models=two(base, tuned), questions=questions(3), comparison_id=comparison_id))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [f"{name}={value}" for name, value in attrs if name in ("src", "href") or name.startswith("on")]


def test_a_report_shows_rows_and_answers_as_text_whatever_they_hold(new_work: NewWork, workspace: Workspace) -> None:
    with EndpointDouble(lambda _: Said(ATTACK)) as base, EndpointDouble(lambda _: Status(400, ATTACK)) as tuned:
        tuned.script = lambda request: (
            Status(400, ATTACK) if "2" in request["messages"][-1]["content"] else Said("Fine.")
        )
        models = [
            {"label": "<b>base</b>", "model": f"openai:a@{base.url}"},
            {"label": "tuned | *x*", "model": f"openai:b@{tuned.url}"},
        ]
        asked = [{"question": ATTACK, "reference": ATTACK}, {"question": "2?", "reference": "Two."}]
        asked[0]["question"] = ATTACK.replace("\x1b[31m", "")
        result = compare(new_work(models=models, questions=asked))
    html = Path(result["report"]).read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(html)
    assert not {"script", "img", "b>base", "iframe", "object", "link"} & set(tags.names)
    assert tags.links == []
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "\x1b" not in html
    assert "url(" not in html
    assert "default-src &#x27;none&#x27;" in html
    markdown = Path(result["report"]).with_name("report.md").read_text(encoding="utf-8")
    assert "\x1b" not in markdown
    outside = re.sub(r"^(````+)text\n.*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert "<script>" not in re.sub(
        r"\\.", "", re.sub(r"^```json\n.*?^```$", "", outside, flags=re.MULTILINE | re.DOTALL)
    )


def test_a_report_has_lineage_versions_and_every_answer(new_work: NewWork, workspace: Workspace) -> None:
    dataset = make_dataset(workspace, train=4, held_out=12)
    with EndpointDouble(wrong) as base, EndpointDouble(right) as tuned:
        result = compare(new_work(models=two(base, tuned), dataset_id=dataset.dataset_id))
    assert result["samples_left_out"] == 2
    for name in ("report.html", "report.md"):
        text = Path(result["report"]).with_name(name).read_text(encoding="utf-8")
        for number in range(5, 17):
            assert f"Part {number} keeps the lid" in text
        assert dataset.sha256 in text
        assert "sacrebleu" in text
        assert result["verdict"]["why"].split(".")[0] in text
    assert ComparisonStore(workspace).report(result["comparison_id"]).startswith("# Comparison")


ONE = {"label": "base", "model": "embedded"}
TWO = [ONE, {"label": "other", "model": "openai:m@http://127.0.0.1:9/v1"}]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"models": [ONE], "questions": ["Q?"]}, InvalidArgument, "at least two models"),
        ({"models": [], "questions": ["Q?"]}, InvalidArgument, "models"),
        ({"models": [ONE, ONE], "questions": ["Q?"]}, InvalidArgument, "'base' is used 2 times"),
        ({"models": TWO}, EmptyInput, "neither questions nor dataset_id"),
        ({"models": TWO, "questions": []}, EmptyInput, "neither questions nor dataset_id"),
        ({"models": TWO, "questions": ["  "]}, InvalidArgument, "questions"),
        ({"models": TWO, "questions": ["Q?"], "dataset_id": "ds_aaaaaaaaaaaa"}, InvalidArgument, "both given"),
        ({"models": TWO, "dataset_id": "ds_aaaaaaaaaaaa"}, NotFound, "ds_aaaaaaaaaaaa"),
        ({"models": TWO, "dataset_id": "run_aaaaaaaaaaaa"}, InvalidArgument, "is a run id"),
        ({"models": TWO, "questions": ["Q?"], "judge": {"model": "openai:j"}}, InvalidArgument, "no base URL"),
        ({"models": TWO, "questions": ["Q?"], "judge": {"modle": "openai:j"}}, InvalidArgument, "judge.model"),
        ({"models": TWO, "questions": ["Q?"], "judge": {"model": "a/b"}}, NotSupported, "not served by tunesmith"),
        ({"models": [ONE, {"label": "b", "model": "embedded"}], "questions": ["Q?"]}, InvalidArgument, "same model"),
        ({"models": TWO, "questions": ["Q?"] * 10_000}, InvalidArgument, "10,000 questions are 20,000 requests"),
        ({"models": TWO, "questions": ["Q?"] * 10_001}, InvalidArgument, "10000"),
        ({"models": TWO, "questions": ["Q?"], "repetitions": 0}, InvalidArgument, "repetitions"),
        ({"models": TWO, "questions": ["Q?"], "max_tokens": "64"}, InvalidArgument, "max_tokens"),
        ({"models": TWO, "questions": ["Q?"], "temprature": 1}, InvalidArgument, "temprature"),
        ({"models": [ONE, {"label": "t", "model": "mdl_aaaaaaaaaaaa"}], "questions": ["Q?"]}, NotFound, "mdl_"),
        ({"models": [ONE, {"label": "t", "model": "::"}], "questions": ["Q?"]}, InvalidArgument, "reference"),
        ({"models": TWO, "questions": ["Q?"], "comparison_id": "cmp_aaaaaaaaaaaa"}, NotFound, "cmp_"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_before_anything_starts(
    arguments: dict[str, Any], error: type[UserError], says: str, new_work: NewWork, workspace: Workspace
) -> None:
    with pytest.raises(error) as caught:
        Comparing(new_work(**arguments)).run()
    assert says in caught.value.message
    assert caught.value.next
    assert list(workspace.comparisons.iterdir()) == []


def test_a_dataset_without_eval_split_is_sent_to_split_dataset(workspace: Workspace) -> None:
    dataset = make_dataset(workspace, held_out=0)
    with pytest.raises(EmptyInput) as caught:
        check_request(workspace, read_request({"models": TWO, "dataset_id": dataset.dataset_id}))
    assert f"split_dataset with dataset_id='{dataset.dataset_id}'" in caught.value.next


def test_one_model_may_stand_under_two_labels_that_say_so(new_work: NewWork) -> None:
    with EndpointDouble(right) as base:
        models = [
            {"label": "tuned", "model": f"openai:a@{base.url}"},
            {"label": "tuned again", "model": f"openai:a@{base.url.replace('127.0.0.1', 'localhost')}"},
        ]
        result = compare(new_work(models=models, questions=questions(6)))
        assert len(base.requests) == 12
    assert result["verdict"]["answer"] == "no_evidence"
    assert any("under several labels" in note for note in result["notes"])


def test_comparisons_are_listed_newest_first(new_work: NewWork, workspace: Workspace) -> None:
    store = ComparisonStore(workspace)
    with EndpointDouble(right) as base, EndpointDouble(right) as tuned:
        made = [compare(new_work(models=two(base, tuned), questions=questions(1)))["comparison_id"] for _ in range(3)]
    page, cursor, total = store.page(2)
    assert [one.comparison_id for one in page] == made[:0:-1]
    assert total == 3
    rest, end, _ = store.page(2, cursor)
    assert ([one.comparison_id for one in rest], end) == (made[:1], None)
    with pytest.raises(InvalidArgument):
        store.page(2, "bogus")
    with pytest.raises(NotFound):
        store.get("cmp_aaaaaaaaaaaa")
    assert isinstance(store.get(made[0]), Comparison)
