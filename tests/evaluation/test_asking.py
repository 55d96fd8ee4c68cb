from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.endpoint_double import EndpointDouble, Raw, Said, Stall, Status, Trickle
from tunesmith.data.records import Message
from tunesmith.errors import InvalidArgument
from tunesmith.evaluation import asking
from tunesmith.evaluation.asking import AnswerFile, Request, ask_all, requests_for
from tunesmith.evaluation.records import Answer, Question, Sampling
from tunesmith.models.endpoints import ChatEndpoint, endpoint_for, ollama_url, redact
from tunesmith.models.references import parse_reference
from tunesmith.workspace import Workspace

KEY = "sk-test-0123456789abcdef"
SAMPLING = Sampling(temperature=0.0, max_tokens=40, seed=7, repetitions=1)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_PAUSE_S", 0.02)


def requests(count: int, sampling: Sampling = SAMPLING, label: str = "m") -> list[Request]:
    questions = [
        Question(question=n, messages=[Message(role="user", content=f"Question {n}?")], reference=None)
        for n in range(1, count + 1)
    ]
    return requests_for(label, "openai:m", questions, sampling)


def ask(endpoint: EndpointDouble, asked: list[Request], path: Path, **options: Any) -> list[Answer]:
    client = ChatEndpoint("m", endpoint.url, options.pop("key", None), timeout_s=options.pop("timeout_s", 20.0))
    try:
        return ask_all(
            client,
            asked,
            AnswerFile(path / "answers.jsonl"),
            concurrency=options.pop("concurrency", 4),
            check=options.pop("check", lambda: None),
            on_answer=lambda answer: None,
        )
    finally:
        client.close()


def test_each_question_is_asked_with_the_same_sampling_and_answers_come_back_in_order(tmp_path: Path) -> None:
    with EndpointDouble(lambda request: Said(f"To {request['messages'][-1]['content']}", tokens=3)) as endpoint:
        answers = ask(endpoint, requests(6), tmp_path)
    assert [answer.reply for answer in answers] == [f"To Question {n}?" for n in range(1, 7)]
    assert all(answer.finish_reason == "stop" and answer.tokens == 3 and answer.attempts == 1 for answer in answers)
    sent = {(r["temperature"], r["max_tokens"], r["seed"], r["model"]) for r in endpoint.requests}
    assert sent == {(0.0, 40, 7, "m")}


def test_repetitions_have_seeds_of_their_own(tmp_path: Path) -> None:
    sampling = SAMPLING.model_copy(update={"repetitions": 3, "temperature": 0.8})
    with EndpointDouble(lambda request: Said("Yes.")) as endpoint:
        answers = ask(endpoint, requests(2, sampling), tmp_path)
    assert sorted(r["seed"] for r in endpoint.requests) == [7, 7, 8, 8, 9, 9]
    assert {r["top_p"] for r in endpoint.requests} == {1.0}
    assert sorted((a.repetition, a.question) for a in answers) == [(r, q) for r in (1, 2, 3) for q in (1, 2)]


def test_no_more_requests_are_in_flight_than_allowed(tmp_path: Path) -> None:
    def slow(_: dict[str, Any]) -> Said:
        time.sleep(0.03)
        return Said("Yes.")

    with EndpointDouble(slow) as endpoint:
        ask(endpoint, requests(9), tmp_path, concurrency=3)
    assert endpoint.most_at_once == 3


def test_a_passing_failure_is_tried_again_and_its_wait_is_kept(tmp_path: Path) -> None:
    steps: Iterator[Any] = iter([Status(503), Status(429, headers={"retry-after": "0.2"}), Said("At last.")])
    began = time.monotonic()
    with EndpointDouble(lambda _: next(steps)) as endpoint:
        (answer,) = ask(endpoint, requests(1), tmp_path)
    assert (answer.reply, answer.attempts, answer.error) == ("At last.", 3, None)
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(
    ("step", "says", "attempts"),
    [
        (Status(400, '{"error": {"message": "no such model"}}'), "HTTP 400", 1),
        (Status(500), "HTTP 500", 6),
        (Raw(b"<html>Welcome to the hotel's network</html>"), "malformed reply", 6),
        (Raw(b'{"choices": []}'), "malformed reply", 6),
        (Raw(b'{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}'), "malformed reply", 6),
        (Raw(b'{"choices": "Error: out of memory"}'), "malformed reply", 6),
        (Said("I can't", finish_reason="content_filter"), "content_filter", 1),
    ],
    ids=["bad request", "server error", "a web page", "no choices", "no text", "choices of text", "filtered"],
)
def test_a_failure_is_an_error_and_never_an_answer(tmp_path: Path, step: Any, says: str, attempts: int) -> None:
    with EndpointDouble(lambda _: step) as endpoint:
        (answer,) = ask(endpoint, requests(1), tmp_path)
    assert answer.reply is None
    assert answer.finish_reason is None
    assert says in (answer.error or "")
    assert answer.attempts == attempts == len(endpoint.requests)


@pytest.mark.parametrize("step", [Stall(30), Trickle(30)], ids=["silent", "trickling"])
def test_a_stalling_endpoint_costs_its_timeout_and_no_more(tmp_path: Path, step: Stall | Trickle) -> None:
    began = time.monotonic()
    with EndpointDouble(lambda _: step) as endpoint:
        (answer,) = ask(endpoint, requests(1), tmp_path, timeout_s=0.3)
    assert "no answer after" in (answer.error or "")
    assert time.monotonic() - began < 8


def test_an_endpoint_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with EndpointDouble(lambda _: Status(404, "no such route")) as endpoint:
        answers = ask(endpoint, requests(40), tmp_path)
    assert all(answer.error for answer in answers)
    assert len(endpoint.requests) < 12
    assert "not asked" in (answers[-1].error or "")
    assert "no such route" in (answers[-1].error or "")


def test_one_failing_question_does_not_stop_the_others(tmp_path: Path) -> None:
    def script(request: dict[str, Any]) -> Said | Status:
        return Status(400, "too long") if "Question 3?" in request["messages"][-1]["content"] else Said("Yes.")

    with EndpointDouble(script) as endpoint:
        answers = ask(endpoint, requests(6), tmp_path)
    assert [answer.question for answer in answers if answer.error] == [3]


def test_what_was_answered_is_not_asked_again_even_after_half_a_line(tmp_path: Path) -> None:
    asked = requests(5)
    with EndpointDouble(lambda _: Said("First time.")) as endpoint:
        ask(endpoint, asked[:3], tmp_path)
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # the process was killed while it wrote its third answer
    with EndpointDouble(lambda _: Said("Second time.")) as endpoint:
        answers = ask(endpoint, asked, tmp_path)
        assert len(endpoint.requests) == 3
        again = ask(endpoint, asked, tmp_path)
        assert len(endpoint.requests) == 3
    assert again == answers
    assert sorted(answer.reply or "" for answer in answers) == ["First time."] * 2 + ["Second time."] * 3


def test_failures_are_asked_again_when_going_on(tmp_path: Path) -> None:
    with EndpointDouble(lambda _: Status(400)) as endpoint:
        ask(endpoint, requests(2), tmp_path)
    with EndpointDouble(lambda _: Said("Back.")) as endpoint:
        answers = ask(endpoint, requests(2), tmp_path)
    assert [answer.reply for answer in answers] == ["Back.", "Back."]


def test_cancelling_does_not_wait_for_what_is_in_flight(tmp_path: Path) -> None:
    class Stop(BaseException): ...

    def check() -> None:
        if endpoint.requests:
            raise Stop

    began = time.monotonic()
    with EndpointDouble(lambda _: Stall(20)) as endpoint, pytest.raises(Stop):
        ask(endpoint, requests(4), tmp_path, check=check)
    assert time.monotonic() - began < 5


def test_a_key_reaches_its_own_address_only(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    draw = requests(1)[0].draw
    message = [Message(role="user", content="Hello")]
    with EndpointDouble(lambda _: Said("Hi.")) as home, EndpointDouble(lambda _: Said("Hi.")) as elsewhere:
        monkeypatch.setenv("TUNESMITH_OPENAI_BASE_URL", home.url)
        for reference in ("openai:m", f"openai:m@{home.url}", f"openai:m@{elsewhere.url}"):
            endpoint = endpoint_for(parse_reference(reference, workspace), timeout_s=10)
            endpoint.ask(message, draw)
            endpoint.close()
    assert [headers["authorization"] for headers in home.headers] == [f"Bearer {KEY}"] * 2
    assert KEY not in str(elsewhere.headers)


def test_a_key_in_an_error_is_not_kept(tmp_path: Path) -> None:
    with EndpointDouble(
        lambda _: Status(401, f'{{"error": "Incorrect key {KEY}; also Bearer abcdefghijk"}}')
    ) as endpoint:
        (answer,) = ask(endpoint, requests(1), tmp_path, key=KEY)
    assert "HTTP 401" in (answer.error or "")
    assert KEY not in (tmp_path / "answers.jsonl").read_text()
    assert "abcdefghijk" not in (answer.error or "")
    assert redact("the key hunter2 is wrong", "hunter2") == "the key [redacted] is wrong"


def test_a_name_without_key_and_address_says_which_to_set(workspace: Workspace) -> None:
    with pytest.raises(InvalidArgument, match="TUNESMITH_OPENAI_API_KEY"):
        endpoint_for(parse_reference("openai:gpt", workspace), timeout_s=1)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("gpu-box:8080", "http://gpu-box:8080"),
        ("https://ollama.example", "https://ollama.example:443"),
        ("http://[::1]:11434/", "http://[::1]:11434"),
    ],
)
def test_the_ollama_host_is_read_as_ollama_reads_it(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert ollama_url() == url
