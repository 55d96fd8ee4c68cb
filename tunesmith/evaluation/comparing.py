"""A comparison from its request to its report: ask, judge, measure, conclude, write."""

from __future__ import annotations

import gc
import random
import threading
from pathlib import Path

from tunesmith.data.records import Row
from tunesmith.errors import Conflict
from tunesmith.evaluation import heldout
from tunesmith.evaluation.asking import AnswerFile
from tunesmith.evaluation.asking_models import AskingModels
from tunesmith.evaluation.bill import Bill
from tunesmith.evaluation.concluding import Material, conclude_first
from tunesmith.evaluation.contestants import contestant
from tunesmith.evaluation.going_on import Hold, abandoned, hold, note_request
from tunesmith.evaluation.heldout import HeldOutLoss
from tunesmith.evaluation.judge_at_work import JudgeAtWork
from tunesmith.evaluation.questions import dataset_questions, given_questions, held_out_rows
from tunesmith.evaluation.records import Answer, Comparison, Question, Sampling
from tunesmith.evaluation.request import check_request, cost, read_request
from tunesmith.evaluation.same_model import identity_of
from tunesmith.evaluation.store import ANSWERS_FILE, ComparisonStore
from tunesmith.evaluation.together import Together
from tunesmith.evaluation.torch_model import TorchModel
from tunesmith.evaluation.training_data import TrainingData
from tunesmith.files import write_atomic
from tunesmith.work import Work

ID_FILE = "comparison_id"


class Comparing:
    """One comparison.

    Args:
        work: its run; `args` are those of `CompareRequest`, and `ollama_host` where the server has one.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        arguments = dict(work.args)
        self._ollama_host: str | None = arguments.pop("ollama_host", None)
        self.request = read_request(arguments)
        self.store = ComparisonStore(work.workspace)
        self._loaded: tuple[Path, TorchModel] | None = None

    def run(self) -> Comparison:
        """Do it.

        Raises:
            As `check_request` and `contestant`, before anything is asked.
            ServiceFailed: a model gave no answer at all, or the judge no judgement.
        """
        request, workspace = self.request, self.work.workspace
        check_request(workspace, request, self._ollama_host)
        self.contestants = [contestant(workspace, entry.label.strip(), entry.model) for entry in request.models]
        rows = held_out_rows(workspace, request.dataset_id) if request.dataset_id else []
        questions, there = self._questions(rows)
        found = cost(request, [_bytes(question) for question in questions])
        print(f"Cost: {found}.", flush=True)
        training = TrainingData(workspace, self.contestants, request.dataset_id)
        sampling = Sampling(
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            seed=request.seed,
            repetitions=request.repetitions,
        )
        comparison_id, folder, held = self._begin()
        try:
            meter = _Meter(self.work, found)
            judge = None
            if request.judge is not None:
                judge = JudgeAtWork(
                    self.work,
                    request.judge,
                    self.contestants,
                    questions,
                    folder,
                    ollama_host=self._ollama_host,
                    on_judged=meter.judged,
                )
            answers, losses, notes = self._gather(
                questions, sampling, folder, judge=judge, meter=meter, held_out=(rows, training)
            )
            self.work.progress("Working out the figures")
            material = Material(
                folder=folder,
                comparison_id=comparison_id,
                contestants=self.contestants,
                identities=[identity_of(workspace, one.reference, self._ollama_host) for one in self.contestants],
                questions=questions,
                questions_there=there,
                sampling=sampling,
                answers=answers,
                judged=judge.judged([answer for given in answers.values() for answer in given]) if judge else None,
                losses=losses,
                training=training,
                dataset_id=request.dataset_id,
                notes=notes,
            )
            return conclude_first(workspace, material)
        finally:
            held.release()

    def _questions(self, rows: list[Row]) -> tuple[list[Question], int]:
        """What is asked, and how many questions there were to draw from."""
        request = self.request
        if request.dataset_id:
            return dataset_questions(rows, request.limit, request.seed), len(rows)
        given = request.questions or []
        chosen = given
        if len(given) > request.limit:
            places = sorted(random.Random(request.seed).sample(range(len(given)), request.limit))
            chosen = [given[place] for place in places]
        return given_questions(chosen), len(given)

    def _begin(self) -> tuple[str, Path, Hold]:
        """A new comparison, or one that ended early: of this run, started again, or of the same call.

        Raises:
            Conflict: another run is at it. As `ComparisonStore.begin`.
        """
        note, held = self.work.run_dir / ID_FILE, None
        wanted = self.request.comparison_id
        if wanted is None and note.is_file():
            wanted = note.read_text(encoding="utf-8").strip()
        if wanted is None:
            found = abandoned(self.work.workspace, self.request)
            if found is not None:
                wanted, held = found
                print(f"Going on with {wanted}, which the same call began", flush=True)
        comparison_id, folder = self.store.begin(wanted)
        held = held or hold(folder)
        if held is None:
            raise Conflict(
                f"Another run is at comparison {comparison_id}.", next="Call list_runs(kind='compare') and wait for it."
            )
        note_request(folder, self.request)
        write_atomic(note, comparison_id)
        print(f"Comparison {comparison_id}", flush=True)
        return comparison_id, folder, held

    def _gather(
        self,
        questions: list[Question],
        sampling: Sampling,
        folder: Path,
        *,
        judge: JudgeAtWork | None,
        meter: _Meter,
        held_out: tuple[list[Row], TrainingData],
    ) -> tuple[dict[str, list[Answer]], dict[str, HeldOutLoss], list[str]]:
        """Answers and held-out losses by label, and notes; the answers are judged when this returns.

        Models behind endpoints are asked all at once, beside those here, which take turns. The judge gets each answer
        when it comes, and losses are measured while it is at work; one on this machine has it to itself at the end.
        """
        together = Together(self.work.check_cancelled)

        def on_answer(answer: Answer) -> None:
            meter.answered()
            if judge is not None:
                judge.offer(answer)

        asking = AskingModels(
            self.contestants,
            questions,
            sampling,
            AnswerFile(folder / ANSWERS_FILE),
            run_dir=self.work.run_dir,
            load=self._load,
            ollama_host=self._ollama_host,
            on_answer=on_answer,
            on_start=lambda one: print(f"Asking {one.label} ({one.served})", flush=True),
        )
        threads = []
        try:
            if judge is not None and not judge.local:
                threads.append(together.start(lambda: judge.work(together.check), "judge"))
            answers = asking.run(together)
            if judge is not None:
                judge.finish()
            losses, notes = self._held_out(*held_out, together)
            if judge is not None and judge.local:
                self._loaded = None
                together.here(lambda: judge.work(together.check))
            together.wait(threads)
        finally:
            together.stop()
        return answers, losses, notes

    def _held_out(
        self, rows: list[Row], training: TrainingData, together: Together
    ) -> tuple[dict[str, HeldOutLoss], list[str]]:
        """Held-out losses by label: the training run's where it measured these very rows, else measured now."""
        dataset = training.heldout_dataset()
        if dataset is None:
            return {}, ["There is no eval split that all compared models left out, so no held-out loss was measured."]
        rows = rows or held_out_rows(self.work.workspace, dataset)
        taken = heldout.taken_from_runs(self.contestants, rows, dataset)
        if taken is not None:
            return taken, []

        def on_model(label: str) -> None:
            together.check()
            self.work.progress(f"Measuring the held-out loss of {label}")

        return heldout.measure(self.contestants, heldout.spread_rows(rows), load=self._load, on_model=on_model)

    def _load(self, folder: Path) -> TorchModel:
        """One set of weights in memory at a time; the one that was used last stays."""
        if self._loaded is None or self._loaded[0] != folder:
            self._loaded = None
            gc.collect()
            self.work.check_cancelled()
            self._loaded = (folder, TorchModel(folder))
        return self._loaded[1]


class _Meter:
    """Tells how far asking and judging are. Safe to use from several threads."""

    def __init__(self, work: Work, costs: Bill) -> None:
        self._work = work
        self._costs = costs
        self._answered = self._judged = 0
        self._lock = threading.Lock()
        self._message = "Asking the models" + (", judging what is answered" if costs.judgements else "")

    def answered(self) -> None:
        """One more answer is there, or one more request failed for good."""
        with self._lock:
            self._answered += 1
            self._tell()

    def judged(self) -> None:
        """One more judgement is there, or will not come."""
        with self._lock:
            self._judged += 1
            self._tell()

    def _tell(self) -> None:
        message = self._message if self._answered < self._costs.answers else "Judging the answers"
        # Answers that are equal are judged once: there may be fewer judgements than were counted.
        self._work.progress(message, step=self._answered + self._judged, total_steps=self._costs.requests)


def _bytes(question: Question) -> int:
    texts = (*(turn.content for turn in question.messages), question.reference or "")
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
