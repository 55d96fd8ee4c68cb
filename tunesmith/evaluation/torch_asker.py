"""Asking a model that transformers runs, as if it were an endpoint: requests that wait together go together."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tunesmith.errors import NotSupported
from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.torch_model import TorchModel
from tunesmith.models.endpoints import AskFailed, Draw, Reply, Turn

BATCH = 4


@dataclass
class _Waiting:
    prompt: list[int]
    draw: Draw
    done: threading.Event = field(default_factory=threading.Event)
    reply: Reply | None = None
    failure: BaseException | None = None


class TorchAsker:
    """Answers by a `TorchModel`, up to four at a time.

    With a temperature above 0 answers are drawn one by one, so that each depends on its own seed alone.

    Raises:
        NotSupported: none of the format's stops is one token of this tokenizer, so no answer would ever end.
    """

    def __init__(self, model: TorchModel, contestant: Contestant) -> None:
        self.model = model
        self.contestant = contestant
        assert contestant.prompt_format is not None
        stops = contestant.prompt_format.stops
        found = [contestant.tokenizer.token_to_id(stop) for stop in stops]
        self._ends = [token for token in found if token is not None]
        # A stop of several tokens cannot be watched for while generating; what follows it is cut off after.
        self._texts = [stop for stop, token in zip(stops, found, strict=True) if token is None]
        if not self._ends:
            raise NotSupported(
                f"None of the stops {list(stops)} is a token of the tokenizer of {contestant.reference.text!r}.",
                next="Use another base model, or prompt_format='alpaca'.",
            )
        self._queue: list[_Waiting] = []
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def ask(self, messages: Sequence[Turn], draw: Draw) -> Reply:
        """One answer. Raises AskFailed where the conversation is longer than the model can see."""
        mine = _Waiting(self.contestant.encode(messages), draw)
        if len(mine.prompt) >= self.model.context:
            raise AskFailed(
                f"the prompt has {len(mine.prompt)} tokens and the model sees {self.model.context}", passing=False
            )
        with self._lock:
            self._queue.append(mine)
        # Whoever gets its turn answers for all who wait with the same draw, itself among them or answered already.
        with self._turn:
            if not mine.done.is_set():
                self._answer(self._take(mine))
        mine.done.wait()
        if mine.failure is not None:
            raise mine.failure
        assert mine.reply is not None
        return mine.reply

    def _take(self, mine: _Waiting) -> list[_Waiting]:
        limit = 1 if mine.draw.temperature > 0 else BATCH
        with self._lock:
            batch = [mine, *(other for other in self._queue if other is not mine and other.draw == mine.draw)][:limit]
            self._queue = [other for other in self._queue if other not in batch]
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        began = time.monotonic()
        try:
            made = self.model.generate(
                [one.prompt for one in batch], batch[0].draw, self._ends, self.contestant.adapter
            )
            seconds = time.monotonic() - began
            for one, ids in zip(batch, made, strict=True):
                one.reply = self._read(ids, seconds)
        except BaseException as error:  # noqa: BLE001  # carried to the threads that asked, and raised there
            for one in batch:
                one.failure = error
        for one in batch:
            one.done.set()

    def _read(self, ids: list[int], seconds: float) -> Reply:
        ended = bool(ids) and ids[-1] in self._ends
        text = self.contestant.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
        for stop in self._texts:
            before, found, _after = text.partition(stop)
            text, ended = before, ended or bool(found)
        return Reply(text.strip(), "stop" if ended else "length", len(ids) or None, seconds)
