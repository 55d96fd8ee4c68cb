"""Having answers judged while others are still being asked for."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from tunesmith.data.llm_asking import Asking, Model, Prompt
from tunesmith.errors import ServiceFailed
from tunesmith.evaluation import judge_prompts
from tunesmith.evaluation.judge_prompts import Preference, Scores
from tunesmith.evaluation.judgements import Desk, JudgementFile
from tunesmith.evaluation.records import Answer, JudgeInfo, JudgeTokens

POLL_S = 0.02
# One unreadable or late reply of five is not to cost a judgement: a fifth to the power of five is.
SLOW_ATTEMPTS = 5


@dataclass
class Tally:
    """What came of the judging so far.

    Attributes:
        wanted: judgements asked for, or kept from before.
        failures: why judgements never came.
        cut: prompts in which a text was too long to be shown whole.
        requests, prompt_tokens, completion_tokens, estimated: as in `LlmUsage`.
    """

    wanted: int = 0
    failures: list[str] = field(default_factory=list)
    cut: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0

    def info(self, model: str, base_url: str | None) -> JudgeInfo:
        """As the result says it; the figures that need every judgement are added when concluding."""
        return JudgeInfo(
            model=model,
            base_url=base_url,
            asked=self.wanted,
            failed=len(self.failures),
            requests=self.requests,
            tokens=JudgeTokens(prompt=self.prompt_tokens, completion=self.completion_tokens, estimated=self.estimated)
            if self.wanted
            else None,
            position_consistency=None,
            first_failure=self.failures[0] if self.failures else None,
        )


class Judging:
    """One judge at work. Answers are offered from any thread; `work` runs in one of its own.

    Args:
        labels: of the compared models.
        file: where its replies are kept.
        on_judged: called with each judgement that is done, from the thread of `work`.
    """

    def __init__(
        self, desk: Desk, labels: Sequence[str], file: JudgementFile, *, on_judged: Callable[[], None]
    ) -> None:
        self.tally = Tally()
        self._desk = desk
        self._labels = list(labels)
        self._file = file
        self._on_judged = on_judged
        self._offered: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._there: dict[tuple[int, int], dict[str, Answer]] = {}
        self._known: set[str] = set()

    def offer(self, answer: Answer) -> None:
        """An answer is there: it is scored, and compared with the others to its question that are."""
        self._offered.put(answer)

    def finish(self) -> None:
        """No more answers will come."""
        self._offered.put(None)

    def work(self, model: Model) -> None:
        """Judge what is offered until `finish`.

        Raises:
            ServiceFailed: the judge gave no judgement at all. What `model.check` raises passes on.
        """
        asking: Asking[Scores | Preference] = Asking(
            model, self._file, judge_prompts.read, version=judge_prompts.VERSION, slow_attempts=SLOW_ATTEMPTS
        )
        usage = asking.usage
        with closing(asking.all(self._prompts())) as outcomes:
            for outcome in outcomes:
                reason = outcome.failure
                if outcome.value is not None and isinstance(outcome.value, Scores) != (
                    "answer" in outcome.prompt.place
                ):
                    reason = "the reply judges in another way than asked"
                if reason is not None:
                    self.tally.failures.append(reason)
                    print(f"Judge, question {outcome.prompt.place['question']}: {reason}", flush=True)
                    if asking.given_up and not usage.answers + usage.from_cache:
                        break
                self._on_judged()
        self.tally.requests = usage.requests
        # A comparison that goes on tells what all of it cost.
        self.tally.prompt_tokens = usage.prompt_tokens + self._file.reused_prompt_tokens
        self.tally.completion_tokens = usage.completion_tokens + self._file.reused_completion_tokens
        self.tally.estimated = usage.estimated_replies
        if self.tally.failures and not usage.answers + usage.from_cache:
            raise ServiceFailed(
                f"The judge ({model.name}) gave no judgement: {asking.last_failure}",
                next="Check the judge's name, its address and the key in the settings, try it with ask_model, and call "
                "compare_models again; without judge the answers are compared with their references.",
            )

    def _prompts(self) -> Iterator[Prompt | None]:
        """What to ask, as answers come; None where there is nothing yet."""
        while True:
            try:
                answer = self._offered.get(timeout=POLL_S)
            except queue.Empty:
                yield None
                continue
            if answer is None:
                return
            if answer.reply is None:
                continue
            yield from self._new([self._desk.score(answer)])
            beside = self._there.setdefault((answer.question, answer.repetition), {})
            for label in self._labels:
                other = beside.get(label)
                # The same text twice is a tie; there is nothing to ask.
                if other is not None and other.reply != answer.reply:
                    yield from self._new([self._desk.compare(answer, other), self._desk.compare(other, answer)])
            beside[answer.label] = answer

    def _new(self, prompts: Sequence[tuple[str, Prompt, bool]]) -> Iterator[Prompt]:
        """Those not asked before: two models that gave the same answer are judged once."""
        for key, prompt, cut in prompts:
            if key in self._known:
                continue
            self._known.add(key)
            self._file.place(key, prompt.place)
            self.tally.wanted += 1
            self.tally.cut += cut
            yield prompt
