"""Asking a language model many things: a few at once, again after what may pass, and each only once ever.

This room knows no endpoints: whoever owns the process hands in an `Ask`.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tunesmith.data.llm_cache import KeptAnswer, answer_key
from tunesmith.data.llm_json import Unreadable
from tunesmith.data.llm_records import LlmUsage
from tunesmith.data.records import Message

ATTEMPTS = 5
# A model that wrote something unreadable, or nothing in all the time it had, is asked once more and no oftener.
SLOW_ATTEMPTS = 2
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0
# An endpoint that asks to wait longer than this is not waited for: the same call goes on from there later.
LONGEST_RETRY_AFTER_S = 120.0
# A model that has never answered, or has stopped to, is not asked the rest: it is not there.
GIVE_UP_AT_FIRST, GIVE_UP_LATER = 4, 12
POLL_S = 0.1
BYTES_PER_TOKEN = 4

T = TypeVar("T")


@dataclass(frozen=True)
class LlmReply:
    """What a model wrote, and the tokens of both sides; None where nobody counted."""

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class NoAnswer(Exception):
    """A request that brought no answer; the message says why, without secrets.

    Attributes:
        passing: it may work if tried again.
        slow: it took all the time it had.
        retry_after_s: how long the endpoint asks to wait.
    """

    def __init__(self, message: str, *, passing: bool, slow: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.passing = passing
        self.slow = slow
        self.retry_after_s = retry_after_s


class Keeper(Protocol):
    """Where answers are kept, by `answer_key`; `AnswerCache` is one."""

    def get(self, key: str, /) -> KeptAnswer | None:
        """The answer kept under a key."""
        ...

    def put(self, key: str, answer: KeptAnswer, /) -> None:
        """Keep an answer. It is on the disk when this returns."""
        ...


class Ask(Protocol):
    """Whatever can answer. Safe to call from several threads."""

    def __call__(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any], max_tokens: int, seed: int
    ) -> LlmReply:
        """One answer, drawn as the likeliest one. Raises NoAnswer."""
        ...


@dataclass(frozen=True)
class Model:
    """A model that can be asked.

    Attributes:
        ask: asks it.
        identity: what exactly answers; kept answers hang on it.
        name: for people.
        concurrency: requests in flight at most.
        window_chars: the longest piece of text to show at once.
        check: called ten times a second while waiting; raises to stop.
    """

    ask: Ask
    identity: str
    name: str
    concurrency: int
    window_chars: int
    check: Callable[[], None]


@dataclass(frozen=True)
class Prompt:
    """One thing to ask.

    Attributes:
        place: what the answer is for; only the asker's caller knows what it means.
    """

    place: Any
    messages: list[Message]
    schema: Mapping[str, Any]
    max_tokens: int


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of a prompt: a value, or the reason why there is none."""

    prompt: Prompt
    value: T | None
    failure: str | None


@dataclass
class _Tries:
    """The requests made for one prompt."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    kept: KeptAnswer | None = None
    failure: str | None = None

    def count(self, prompt: Prompt, reply: LlmReply) -> None:
        asked, answered = reply.prompt_tokens, reply.completion_tokens
        if asked is None or answered is None:
            self.estimated += 1
            asked = asked or sum(_estimated(message.content) for message in prompt.messages)
            answered = answered or _estimated(reply.text)
        self.prompt_tokens += asked
        self.completion_tokens += answered


class Asking(Generic[T]):
    """Asks a model one kind of thing.

    Args:
        cache: where answers are kept; open, and used by this thread only.
        read: makes a value of a reply's text; raises Unreadable.
        version: of prompts and of `read`: what an older one got is asked for anew.
        slow_attempts: requests for one prompt that may time out or bring something unreadable.

    Attributes:
        usage: what was asked so far, and what it cost.
        last_failure: why the last prompt that failed did so.
    """

    def __init__(
        self,
        model: Model,
        cache: Keeper,
        read: Callable[[str], T],
        *,
        version: int,
        slow_attempts: int = SLOW_ATTEMPTS,
    ) -> None:
        self.model = model
        self._slow_attempts = slow_attempts
        self._cache = cache
        self._read = read
        self._version = version
        self._gate = _Gate()
        self._resume_at = 0.0  # on the monotonic clock: an endpoint asked to be left alone until then
        self.usage = LlmUsage(
            model=model.name, requests=0, answers=0, from_cache=0, failed=0, prompt_tokens=0, completion_tokens=0,
            cached_tokens=0, estimated_replies=0,
        )  # fmt: skip

    @property
    def last_failure(self) -> str:
        return self._gate.last_failure

    @property
    def given_up(self) -> bool:
        """The model does not answer, and is not asked any more."""
        return self._gate.closed

    def all(self, prompts: Iterable[Prompt | None]) -> Generator[Outcome[T], None, None]:
        """What comes of each prompt, in the order in which it comes. Prompts are taken as they are needed.

        Close it, or use it up: its threads end with it.

        Args:
            prompts: a None among them says that the next one is not there yet; it is asked for again in a moment.
        """
        todo: queue.SimpleQueue[tuple[Prompt, str] | None] = queue.SimpleQueue()
        arrived: queue.SimpleQueue[tuple[Prompt, str, _Tries | BaseException]] = queue.SimpleQueue()
        stop = threading.Event()
        threads = 0
        waiting = iter(prompts)
        in_flight, exhausted = 0, False
        try:
            while in_flight or not exhausted:
                self.model.check()
                while not exhausted and in_flight < self.model.concurrency:
                    try:
                        prompt = next(waiting)
                    except StopIteration:
                        exhausted = True
                        break
                    if prompt is None:
                        break
                    key = self._key(prompt)
                    known = self._known(prompt, key)
                    if known is not None:
                        yield known
                        self.model.check()
                        continue
                    if threads <= in_flight:
                        # Daemons: a request in flight must not hold up a process that was asked to stop.
                        threading.Thread(target=self._work, args=(todo, arrived, stop), daemon=True).start()
                        threads += 1
                    todo.put((prompt, key))
                    in_flight += 1
                if in_flight:
                    found = self._next(arrived)
                    if found is not None:
                        in_flight -= 1
                        yield self._settle(*found)
                elif not exhausted:
                    time.sleep(POLL_S / 5)
        finally:
            stop.set()
            for _ in range(threads):
                todo.put(None)

    def _key(self, prompt: Prompt) -> str:
        return answer_key(self.model.identity, self._version, prompt.messages, prompt.schema, prompt.max_tokens)

    def _known(self, prompt: Prompt, key: str) -> Outcome[T] | None:
        """An outcome that needs no request."""
        kept = self._cache.get(key)
        if kept is not None:
            self.usage.from_cache += 1
            self.usage.cached_tokens += (kept.prompt_tokens or 0) + (kept.completion_tokens or 0)
            return Outcome(prompt, self._read(kept.text), None)
        if self._gate.closed:
            self.usage.failed += 1
            return Outcome(prompt, None, f"not asked, for the model does not answer ({self._gate.last_failure})")
        return None

    def _next(self, arrived: queue.SimpleQueue[Any]) -> Any:
        try:
            return arrived.get(timeout=POLL_S)
        except queue.Empty:
            return None

    def _settle(self, prompt: Prompt, key: str, tries: _Tries | BaseException) -> Outcome[T]:
        if isinstance(tries, BaseException):
            raise tries
        usage = self.usage
        usage.requests += tries.requests
        usage.prompt_tokens += tries.prompt_tokens
        usage.completion_tokens += tries.completion_tokens
        usage.estimated_replies += tries.estimated
        if tries.kept is None:
            usage.failed += 1
            failure = tries.failure or "no answer"
            self._gate.note(failure)
            return Outcome(prompt, None, failure)
        # On the disk first: what is used must not have to be asked for again.
        self._cache.put(key, tries.kept)
        usage.answers += 1
        self._gate.note(None)
        return Outcome(prompt, self._read(tries.kept.text), None)

    def _work(self, todo: queue.SimpleQueue[Any], arrived: queue.SimpleQueue[Any], stop: threading.Event) -> None:
        while not stop.is_set():
            entry = todo.get()
            if entry is None:
                return
            prompt, key = entry
            try:
                arrived.put((prompt, key, self._try(prompt, key, stop)))
            except BaseException as error:  # noqa: BLE001  # carried to the caller's thread, and raised there
                arrived.put((prompt, key, error))
                return

    def _try(self, prompt: Prompt, key: str, stop: threading.Event) -> _Tries:
        """Ask once, again after what may pass, and say what came of it."""
        tries = _Tries()
        jitter = random.Random(key)
        slow = 0
        for attempt in range(1, ATTEMPTS + 1):
            while (left := self._resume_at - time.monotonic()) > 0:
                if stop.wait(left):
                    return tries
            tries.requests += 1
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1)) * (0.75 + 0.5 * jitter.random())
            try:
                reply = self.model.ask(
                    prompt.messages, schema=prompt.schema, max_tokens=prompt.max_tokens, seed=attempt
                )
            except NoAnswer as error:
                tries.failure = str(error)
                slow += error.slow
                asked_to_wait = error.retry_after_s or 0.0
                if not error.passing or slow >= self._slow_attempts or self._gate.closed:
                    return tries
                if asked_to_wait > LONGEST_RETRY_AFTER_S:
                    tries.failure += f"; it asks to wait {asked_to_wait:.0f} s"
                    return tries
                if asked_to_wait:
                    # For all threads: asking on through another one would be rude, and refused.
                    self._resume_at = max(self._resume_at, time.monotonic() + asked_to_wait)
            else:
                tries.count(prompt, reply)
                try:
                    self._read(reply.text)
                except Unreadable as error:
                    tries.failure = f"the reply {error}"
                    slow += 1
                    if slow >= self._slow_attempts:
                        return tries
                else:
                    tries.kept = KeptAnswer(reply.text, tries.prompt_tokens, tries.completion_tokens)
                    return tries
            if attempt < ATTEMPTS and stop.wait(pause):
                return tries
        return tries


class _Gate:
    """Whether a model is worth asking on. Written by one thread, read by all."""

    def __init__(self) -> None:
        self.closed = False
        self.last_failure = ""
        self._failures = 0
        self._limit = GIVE_UP_AT_FIRST

    def note(self, failure: str | None) -> None:
        if failure is None:
            self._limit, self._failures = GIVE_UP_LATER, 0
            return
        self.last_failure = failure
        self._failures += 1
        self.closed = self.closed or self._failures >= self._limit


def _estimated(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN) or 1
