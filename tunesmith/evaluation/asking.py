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
from tunesmith.models.endpoints import Asker, AskFailed, Draw

ATTEMPTS = 3
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
# A model that has never answered and failed this often in a row is not asked the rest: it is not there.
GIVE_UP_AFTER = 4
POLL_S = 0.1


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
        check: called ten times a second; what it raises (a cancelled run) ends the asking and passes on.
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
    for _ in range(min(concurrency, len(todo))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in todo:
            answer = _next(arrived, check)
            answers.add(answer)
            done[answer.key] = answer
            on_answer(answer)
    finally:
        stop.set()
    return [done[request.key] for request in requests]


class _Gate:
    """Whether a model is worth asking on."""

    def __init__(self, *, had_answer: bool) -> None:
        self._lock = threading.Lock()
        self._had_answer = had_answer
        self._failures = 0
        self.last_error = ""

    def closed(self) -> bool:
        with self._lock:
            return not self._had_answer and self._failures >= GIVE_UP_AFTER

    def note(self, error: str | None) -> None:
        with self._lock:
            if error is None:
                self._had_answer = True
            else:
                self._failures += 1
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
    for attempt in range(1, ATTEMPTS + 1):
        began = time.monotonic()
        try:
            reply = asker.ask(request.question.messages, request.draw)
        except AskFailed as error:
            if error.passing and attempt < ATTEMPTS and not gate.closed():
                wait = FIRST_PAUSE_S * 2 ** (attempt - 1) * (0.75 + 0.5 * pause.random())
                if not stop.wait(min(LONGEST_PAUSE_S, max(wait, error.retry_after_s or 0.0))):
                    continue
            gate.note(str(error))
            return _failure(request, str(error), attempt, time.monotonic() - began)
        gate.note(None)
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
