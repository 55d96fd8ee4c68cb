"""A comparison from its request to its report: ask, measure, conclude, write."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from pathlib import Path

from tunesmith.data.records import Row
from tunesmith.errors import ServiceFailed
from tunesmith.evaluation import heldout
from tunesmith.evaluation.asking import AnswerFile, ask_all, kept_answers, requests_for
from tunesmith.evaluation.concluding import Material, conclude
from tunesmith.evaluation.contestants import Contestant, contestant
from tunesmith.evaluation.heldout import HeldOutLoss
from tunesmith.evaluation.questions import dataset_questions, given_questions, held_out_rows
from tunesmith.evaluation.records import Answer, Comparison, Question, Sampling
from tunesmith.evaluation.report import markdown_report
from tunesmith.evaluation.report_html import html_report
from tunesmith.evaluation.request import check_request, read_request
from tunesmith.evaluation.store import ANSWERS_FILE, ComparisonStore
from tunesmith.evaluation.torch_asker import TorchAsker
from tunesmith.evaluation.torch_model import TorchModel
from tunesmith.evaluation.training_data import TrainingData
from tunesmith.files import write_atomic
from tunesmith.models.endpoints import Asker, ChatEndpoint, CompletionEndpoint, endpoint_for
from tunesmith.models.serving import Served
from tunesmith.work import Work

SLOTS = 4  # questions in flight to one model
LOCAL_TIMEOUT_S = 600.0
REMOTE_TIMEOUT_S = 120.0
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
        self._asked = 0

    def run(self) -> Comparison:
        """Do it.

        Raises:
            As `check_request` and `contestant`, before anything is asked.
            ServiceFailed: a model gave no answer at all.
        """
        request, workspace = self.request, self.work.workspace
        check_request(workspace, request)
        self.contestants = [contestant(workspace, entry.label.strip(), entry.model) for entry in request.models]
        for one in self.contestants:
            if one.way == "endpoint":
                self._endpoint(one).close()
        rows = held_out_rows(workspace, request.dataset_id) if request.dataset_id else []
        questions = (
            dataset_questions(rows, request.max_questions, request.seed)
            if request.dataset_id
            else given_questions(request.questions or [])
        )
        training = TrainingData(workspace, self.contestants, request.dataset_id)
        sampling = Sampling(
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            seed=request.seed,
            repetitions=request.repetitions,
        )
        comparison_id, folder = self._begin()
        answers = {
            one.label: self._ask(one, questions, sampling, AnswerFile(folder / ANSWERS_FILE))
            for one in self.contestants
        }
        losses, notes = self._held_out(rows, training)
        self.work.progress("Working out the figures")
        material = Material(
            comparison_id=comparison_id,
            folder=folder,
            contestants=self.contestants,
            questions=questions,
            questions_in_dataset=len(rows),
            sampling=sampling,
            answers=answers,
            losses=losses,
            training=training,
            dataset_id=request.dataset_id,
            notes=notes,
        )
        comparison = conclude(workspace, material)
        self.store.complete(
            comparison,
            markdown=markdown_report(comparison, questions, answers, self.contestants),
            html=html_report(comparison, questions, answers, self.contestants),
        )
        return comparison

    def _begin(self) -> tuple[str, Path]:
        """A new comparison, or the one that this run, started again, had begun."""
        note = self.work.run_dir / ID_FILE
        wanted = self.request.comparison_id
        if wanted is None and note.is_file():
            wanted = note.read_text(encoding="utf-8").strip()
        comparison_id, folder = self.store.begin(wanted)
        write_atomic(note, comparison_id)
        print(f"Comparison {comparison_id}", flush=True)
        return comparison_id, folder

    def _ask(self, one: Contestant, questions: list[Question], sampling: Sampling, file: AnswerFile) -> list[Answer]:
        requests = requests_for(one.label, one.identity, questions, sampling)
        total = len(requests) * len(self.contestants)
        kept = kept_answers(requests, file)
        self._asked += len(kept)
        if kept:
            print(f"{one.label}: {len(kept)} of {len(requests)} answers are there already", flush=True)
        if len(kept) == len(requests):
            return [kept[request.key] for request in requests]
        self.work.progress(f"Starting {one.label} ({one.served})")

        def on_answer(answer: Answer) -> None:
            self._asked += 1
            self.work.progress(
                f"Asking {one.label}: question {answer.question} of {len(questions)}",
                step=self._asked,
                total_steps=total,
            )
            if answer.error is not None:
                print(f"{one.label}, question {answer.question}: {answer.error}", flush=True)

        with ExitStack() as stack:
            asker, served = self._open(one, questions, sampling, stack)
            found = ask_all(
                asker, requests, file, concurrency=SLOTS, check=self.work.check_cancelled, on_answer=on_answer
            )
            died = served.died() if served else None
        if all(answer.error is not None for answer in found):
            raise ServiceFailed(
                f"{one.label} ({one.served}) gave no answer to any of {len(questions)} questions: "
                f"{died or found[0].error}",
                next=_advice(one),
            )
        return found

    def _open(
        self, one: Contestant, questions: list[Question], sampling: Sampling, stack: ExitStack
    ) -> tuple[Asker, Served | None]:
        """Start what answers; it ends with the stack."""
        if one.way == "endpoint":
            endpoint = self._endpoint(one)
            stack.callback(endpoint.close)
            return endpoint, None
        if one.way == "torch":
            return TorchAsker(self._load(one.weights_folder()), one), None
        assert one.gguf is not None
        assert one.prompt_format is not None
        longest = max(len(one.encode(question.messages)) for question in questions)
        log = self.work.run_dir / f"served-{self.contestants.index(one) + 1}.log"
        served = stack.enter_context(
            Served(one.gguf, context=longest + sampling.max_tokens + 8, slots=min(SLOTS, len(questions)), log=log)
        )
        asker = CompletionEndpoint(served.base_url, one.encode, one.prompt_format.stops, timeout_s=LOCAL_TIMEOUT_S)
        stack.callback(asker.close)
        return asker, served

    def _endpoint(self, one: Contestant) -> ChatEndpoint:
        return endpoint_for(one.reference, timeout_s=REMOTE_TIMEOUT_S, ollama_host=self._ollama_host)

    def _held_out(self, rows: list[Row], training: TrainingData) -> tuple[dict[str, HeldOutLoss], list[str]]:
        """Held-out losses by label: the training run's where it measured these very rows, else measured now."""
        self.heldout_dataset = training.heldout_dataset()
        if self.heldout_dataset is None:
            return {}, ["There is no eval split that all compared models left out, so no held-out loss was measured."]
        rows = rows or held_out_rows(self.work.workspace, self.heldout_dataset)
        taken = heldout.taken_from_runs(self.contestants, rows, self.heldout_dataset)
        if taken is not None:
            return taken, []

        def on_model(label: str) -> None:
            self.work.check_cancelled()
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


def _advice(one: Contestant) -> str:
    if one.reference.kind == "ollama":
        return "Start Ollama (ollama serve), see the names with `ollama list`, and call compare_models again."
    if one.reference.kind == "openai":
        return "Check the name, the address and the key in the settings, and call compare_models again."
    return "Read the run's log; export the model again with export_gguf if its file is damaged."
