"""The judge of one comparison: who it is, what it is shown, and what it said in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tunesmith.data.llm_asking import Model
from tunesmith.data.worker import ask_of
from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.hiding import name_hider
from tunesmith.evaluation.judge_choice import check_judge
from tunesmith.evaluation.judgements import (
    JUDGEMENTS_FILE,
    Desk,
    JudgementFile,
    judged_answers,
    judged_pairs,
)
from tunesmith.evaluation.judging import Judging
from tunesmith.evaluation.material import Judged
from tunesmith.evaluation.records import Answer, Question
from tunesmith.evaluation.request import JudgeRequest
from tunesmith.evaluation.same_model import identity_of
from tunesmith.models.answering import answering
from tunesmith.models.endpoints import address_of
from tunesmith.work import Work

# Requests at once, and bytes of material shown at once. Ollama cuts prompts off at 4,096 tokens, silently, unless it is
# told otherwise; a judge served here has 6,144 for prompt and reply.
SLOTS, WINDOW = 16, 40_000
OLLAMA_SLOTS, SMALL_WINDOW = 4, 9_000
LOCAL_SLOTS, LOCAL_CONTEXT = 2, 6144


class JudgeAtWork:
    """Takes answers as they come, and has them judged.

    Args:
        on_judged: called with each judgement that is done, from the thread of `work`.

    Attributes:
        local: it is computed on this machine, which the compared models may need.

    Raises:
        As `check_judge`.
    """

    def __init__(
        self,
        work: Work,
        wanted: JudgeRequest,
        contestants: Sequence[Contestant],
        questions: Sequence[Question],
        folder: Path,
        *,
        ollama_host: str | None,
        on_judged: Callable[[], None],
    ) -> None:
        self._work, self._ollama_host = work, ollama_host
        self._labels = [one.label for one in contestants]
        self._reference = check_judge(
            work.workspace,
            wanted.model,
            wanted.base_url,
            [(one.label, one.reference) for one in contestants],
            ollama_host,
        )
        self.local = self._reference.kind not in ("openai", "ollama")
        names = {one.reference.name for one in contestants} | {one.record.name for one in contestants if one.record}
        self._desk = Desk(
            identity=identity_of(work.workspace, self._reference, ollama_host),
            window=WINDOW if self._reference.kind == "openai" else SMALL_WINDOW,
            questions={question.question: question for question in questions},
            hide=name_hider(self._labels, names, questions),
        )
        self._file = JudgementFile(folder / JUDGEMENTS_FILE)
        self._judging = Judging(self._desk, self._labels, self._file, on_judged=on_judged)
        self.offer = self._judging.offer
        self.finish = self._judging.finish

    def work(self, check: Callable[[], None]) -> None:
        """Judge until `finish` was called and everything is judged; blocks.

        Raises:
            ServiceFailed: it gave no judgement at all. What `check` raises passes on.
        """
        with answering(
            self._work.workspace,
            self._reference,
            context=LOCAL_CONTEXT,
            slots=LOCAL_SLOTS,
            log=self._work.run_dir / "judge.log",
            ollama_host=self._ollama_host,
        ) as one:
            self._judging.work(
                Model(
                    ask=ask_of(one.endpoint, one.died),
                    identity=self._desk.identity,
                    name=one.served,
                    concurrency={"openai": SLOTS, "ollama": OLLAMA_SLOTS}.get(self._reference.kind, LOCAL_SLOTS),
                    window_chars=self._desk.window,
                    check=check,
                )
            )

    def judged(self, answers: Sequence[Answer]) -> Judged:
        """Everything it said of these answers."""
        tally = self._judging.tally
        return Judged(
            info=tally.info(self._reference.name, self._address()),
            cut=tally.cut,
            answers=judged_answers(answers, self._desk, self._file),
            pairs=judged_pairs(answers, self._labels, self._desk, self._file),
        )

    def _address(self) -> str | None:
        if self.local:
            return None
        return address_of(self._reference, ollama_host=self._ollama_host)[0]
