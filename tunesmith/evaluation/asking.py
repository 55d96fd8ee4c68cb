"""Asking every model the same, and keeping each answer as it comes.

An error is an error and never an answer. `answers.jsonl` grows by one line an
answer, so a comparison that was killed goes on where it stood.
"""

from __future__ import annotations

import hashlib
import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.evaluation.records import Answer, Question, Sampling
from tunesmith.evaluation.together import Stopped
from tunesmith.models.endpoints import Asker, AskFailed, Draw

# One request of five may fail without any answer being lost: a fifth to the power of six is one in 15,000.
ATTEMPTS = 6
# Each of these takes all the time it has.
TIMEOUTS = 4
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
LONGEST_RETRY_AFTER_S = 120.0
# A model that has never answered is not there: after this many questions without an answer, or this many requests, it
# is not asked the rest.
GIVE_UP_AFTER, GIVE_UP_AFTER_REQUESTS = 4, 12
POLL_S = 0.1
DRAIN_S = 5.0


@dataclass(frozen=True)
class Request:
    """One question to one model, once."""

    label: str
    question: Question
    repetition: int
    key: str
    draw: Draw


def requests_for(label: str, model: str, questions: Iterable[Question], sampling: Sampling) -> list[Request]:
    """Every request to one model.

    Args:
        model: what exactly answers, by file digest where there is one: part of the key, so that a retrained model
            is asked anew.
    """
    found = []
    for repetition in range(1, sampling.repetitions + 1):
        draw = Draw(sampling.temperature, sampling.max_tokens, sampling.seed + repetition - 1)
        for question in questions:
            asked = [message.model_dump() for message in question.messages]
            content = json.dumps(
                [model, question.question, asked, draw.temperature, draw.max_tokens, draw.seed], ensure_ascii=False
            )
            key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:24]
            found.append(Request(label, question, repetition, key, draw))
    return found


class AnswerFile:
    """`answers.jsonl`: appended to while asking, read when going on.

    Args:
        path: of the file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def read(self) -> list[Answer]:
        """Every whole line. Half a line, of a process that was killed while writing, is skipped."""
        found = []
        for line in self.path.read_bytes().splitlines() if self.path.is_file() else []:
            try:
                found.append(Answer.model_validate_json(line))
            except ValueError:
                continue
        return found

    def add(self, answer: Answer) -> None:
        """Append one answer; on its own line even after half a line."""
        line = answer.model_dump_json().encode() + b"\n"
        with self._lock, self.path.open("ab+") as file:
            if file.tell() and not self._ends_with_newline():
                line = b"\n" + line
            file.write(line)

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"


def kept_answers(requests: Sequence[Request], answers: AnswerFile) -> dict[str, Answer]:
    """The answers that are there already, by the request's key. Failures are not answers."""
    wanted = {(request.label, request.key) for request in requests}
    return {
        answer.key: answer for answer in answers.read() if answer.error is None and (answer.label, answer.key) in wanted
    }


def ask_all(
    asker: Asker,
    requests: Sequence[Request],
    answers: AnswerFile,
    *,
    concurrency: int,
    check: Callable[[], None],
    on_answer: Callable[[Answer], None],
) -> list[Answer]:
    """Make the requests, at most `concurrency` at once, and return the answers in the requests' order.

    What `answers` holds already is not asked again; failures are.

    Args:
        check: called ten times a second; what it raises (a cancelled run) ends the asking and passes on. After
            `Stopped` what is in flight may still come for a moment, and is kept.
        on_answer: called for each answer that was asked for now, in the order they come.
    """
    done = kept_answers(requests, answers)
    waiting: queue.SimpleQueue[Request] = queue.SimpleQueue()
    todo = [request for request in requests if request.key not in done]
    for request in todo:
        waiting.put(request)
    arrived: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
    gate = _Gate(had_answer=bool(done))
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                request = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                arrived.put(_answer(asker, request, gate, stop))
            except BaseException as error:  # noqa: BLE001  # carried to the caller's thread, and raised there
                arrived.put(error)
                return

    # Daemons: a request in flight must not hold up a process that was asked to stop.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(concurrency, len(todo)))]
    for thread in threads:
        thread.start()
    try:
        for _ in todo:
            answer = _next(arrived, check)
            answers.add(answer)
            done[answer.key] = answer
            on_answer(answer)
    except Stopped:
        stop.set()
        _drain(arrived, answers, threads)
        raise
    finally:
        stop.set()
    return [done[request.key] for request in requests]


def _drain(
    arrived: queue.SimpleQueue[Answer | BaseException], answers: AnswerFile, threads: Sequence[threading.Thread]
) -> None:
    """Keep what these threads, which ask nothing new, still bring within a moment."""
    end = time.monotonic() + DRAIN_S
    while True:
        over = time.monotonic() > end or not any(thread.is_alive() for thread in threads)
        try:
            found = arrived.get(timeout=POLL_S if not over else 0.001)
        except queue.Empty:
            if over:
                return
            continue
        if isinstance(found, Answer) and found.error is None:
            answers.add(found)


class _Gate:
    """Whether a model is worth asking on."""

    def __init__(self, *, had_answer: bool) -> None:
        self._lock = threading.Lock()
        self._had_answer = had_answer
        self._failures = self._requests = 0
        self.last_error = ""

    def closed(self) -> bool:
        with self._lock:
            hopeless = self._failures >= GIVE_UP_AFTER or self._requests >= GIVE_UP_AFTER_REQUESTS
            return hopeless and not self._had_answer

    def note(self, error: str | None, *, last: bool) -> None:
        """What came of a request; `last`: its question is not asked again."""
        with self._lock:
            if error is None:
                self._had_answer = True
            else:
                self._requests += 1
                self._failures += last
                self.last_error = error


def _next(arrived: queue.SimpleQueue[Answer | BaseException], check: Callable[[], None]) -> Answer:
    while True:
        check()
        try:
            found = arrived.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if isinstance(found, BaseException):
            raise found
        return found


def _answer(asker: Asker, request: Request, gate: _Gate, stop: threading.Event) -> Answer:
    """Ask once, again after a passing failure, and say what came of it."""
    if gate.closed():
        return _failure(request, f"not asked: no request to this model succeeded ({gate.last_error})", 0, 0.0)
    pause = random.Random(request.key)
    timeouts = 0
    for attempt in range(1, ATTEMPTS + 1):
        began = time.monotonic()
        try:
            reply = asker.ask(request.question.messages, request.draw)
        except AskFailed as error:
            timeouts += error.timed_out
            again = error.passing and attempt < ATTEMPTS and timeouts < TIMEOUTS
            gate.note(str(error), last=not again)
            if again and not gate.closed():
                wait = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1)) * (0.75 + 0.5 * pause.random())
                if not stop.wait(max(wait, min(LONGEST_RETRY_AFTER_S, error.retry_after_s or 0.0))):
                    continue
            return _failure(request, str(error), attempt, time.monotonic() - began)
        gate.note(None, last=True)
        return Answer(
            label=request.label,
            question=request.question.question,
            repetition=request.repetition,
            key=request.key,
            reply=reply.text,
            finish_reason=reply.finish_reason,
            tokens=reply.tokens,
            seconds=round(reply.seconds, 3),
            attempts=attempt,
            error=None,
        )
    raise AssertionError("every attempt returns or goes on")


def _failure(request: Request, error: str, attempts: int, seconds: float) -> Answer:
    return Answer(
        label=request.label,
        question=request.question.question,
        repetition=request.repetition,
        key=request.key,
        reply=None,
        finish_reason=None,
        tokens=None,
        seconds=round(seconds, 3),
        attempts=attempts,
        error=error,
    )
