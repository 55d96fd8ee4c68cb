"""Greedy answers of a GGUF through llama.cpp's library, several questions side by side.

Only for a child process of `llama_job`: a failed assertion in C++ ends it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

BATCH_TOKENS = 2048
WORTH_SHARING = 8  # tokens
# Greedy answers that say one passage of at most PASSAGE tokens for so many tokens do not leave it again.
PASSAGE, REPEATED = 24, 96


def repeats_itself(tokens: Sequence[int]) -> bool:
    """Whether the last 96 tokens are one passage of at most 24 again and again."""
    end = list(tokens[-REPEATED:])
    # The last token alone rules out most sizes: this is asked after every token.
    return len(end) == REPEATED and any(
        end[-1] == end[-1 - size] and end[size:] == end[:-size] for size in range(1, PASSAGE + 1)
    )


@dataclass
class _Slot:
    """One question being answered."""

    number: int
    prompt: Sequence[int]
    new: list[int] = field(default_factory=list)
    place: int = 0  # of its newest token in the batch


@dataclass(frozen=True)
class Pace:
    """How many at once, and for how long.

    Attributes:
        slots: questions side by side; one pass over the weights gives a token to each.
        cut_loops: end an answer that repeats itself.
        beginning_s: no question is begun later than this.
        ending_s: answers that still grow then are cut.
    """

    slots: int
    cut_loops: bool
    beginning_s: float
    ending_s: float


def answer_greedily(
    model: Any, prompts: Sequence[Sequence[int]], limit: int, pace: Pace, threads: int
) -> list[dict[str, Any]]:
    """Answer `prompts` in their order, as far as time allows.

    Args:
        model: cyllama's LlamaModel.
        prompts: token ids, at most 2,048 each.
        limit: new tokens an answer may take.
        threads: processor cores.

    Returns:
        Of each begun question `number` (its place in `prompts`), `tokens` (the new ids without the one that ended
        the answer), `stopped` (it ended by itself; false: at the limit or in a loop; null: time ran out) and `repeats`
        (it was ended in a loop).
    """
    from cyllama.llama import llama_cpp

    vocabulary = model.get_vocab()
    slots = max(1, min(pace.slots, len(prompts)))
    # Mostly a system message: read once, in a sequence of its own.
    shared = common_beginning(prompts)
    context = _context(model, slots + bool(shared), max(map(len, prompts)) + limit, threads)
    batch = llama_cpp.LlamaBatch(n_tokens=BATCH_TOKENS, embd=0, n_seq_max=1)
    if shared:
        for place, token in enumerate(prompts[0][:shared]):
            batch.add(token, place, [slots], False)
        context.decode(batch)
    sampler = llama_cpp.LlamaSampler()
    sampler.add_greedy()
    waiting = list(enumerate(prompts))[::-1]
    active: dict[int, _Slot] = {}
    answers: list[dict[str, Any]] = []
    begun = time.monotonic()
    while waiting or active:
        passed = time.monotonic() - begun
        if passed > pace.ending_s or (passed > pace.beginning_s and not active):
            break
        batch.clear()
        for place, slot in active.items():
            _add(batch, [slot.new[-1]], len(slot.prompt) + len(slot.new) - 1, place, slot)
        free = [place for place in range(slots) if place not in active]
        while free and waiting and passed <= pace.beginning_s:
            if batch.n_tokens + len(waiting[-1][1]) > BATCH_TOKENS:
                break
            number, prompt = waiting.pop()
            place = free.pop()
            active[place] = slot = _Slot(number, prompt)
            if shared:
                context.memory_seq_cp(slots, place, -1, -1)
            _add(batch, prompt[shared:], shared, place, slot)
        context.decode(batch)
        for place, slot in list(active.items()):
            token = sampler.sample(context, slot.place)
            ended = vocabulary.is_eog(token)
            if not ended:
                slot.new.append(token)
            loops = not ended and pace.cut_loops and repeats_itself(slot.new)
            if ended or loops or len(slot.new) >= limit:
                answers.append(_answer(slot, ended, loops))
                context.memory_seq_rm(place, -1, -1)
                del active[place]
    answers += [_answer(slot, None, False) for slot in active.values()]
    return sorted(answers, key=lambda found: found["number"])


def common_beginning(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all texts begin with; 0 where that is hardly worth a step, and never all of a text."""
    same = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*texts, strict=False))
    size = min(sum(1 for _ in same), min(map(len, texts)) - 1)
    return size if len(texts) > 1 and size >= WORTH_SHARING else 0


def _answer(slot: _Slot, stopped: bool | None, repeats: bool) -> dict[str, Any]:
    return {"number": slot.number, "tokens": slot.new, "stopped": stopped, "repeats": repeats}


def _context(model: Any, slots: int, longest: int, threads: int) -> Any:
    from cyllama.llama import llama_cpp

    parameters = llama_cpp.LlamaContextParams()
    parameters.n_seq_max = slots
    parameters.n_ctx = slots * -(-longest // 256) * 256  # shared out evenly
    parameters.n_batch = BATCH_TOKENS
    parameters.n_ubatch = 512
    parameters.n_threads = parameters.n_threads_batch = threads
    return llama_cpp.LlamaContext(model, parameters)


def _add(batch: Any, tokens: Sequence[int], first: int, sequence: int, slot: _Slot) -> None:
    """Append `tokens` of one sequence, the first at position `first`; the last one's prediction is wanted."""
    for offset, token in enumerate(tokens):
        batch.add(token, first + offset, [sequence], offset == len(tokens) - 1)
    slot.place = batch.n_tokens - 1
