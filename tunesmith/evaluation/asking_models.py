"""Asking all compared models: those behind endpoints at once, those on this machine one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tunesmith.errors import ServiceFailed
from tunesmith.evaluation.asking import AnswerFile, ask_all, kept_answers, requests_for
from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.records import Answer, Question, Sampling
from tunesmith.evaluation.together import Together
from tunesmith.evaluation.torch_asker import TorchAsker
from tunesmith.evaluation.torch_model import TorchModel
from tunesmith.models.endpoints import Asker, CompletionEndpoint, endpoint_for
from tunesmith.models.serving import Served

SLOTS = 4  # questions in flight to one model
LOCAL_TIMEOUT_S = 600.0
REMOTE_TIMEOUT_S = 120.0


class AskingModels:
    """Every question to every model.

    Args:
        answers: where answers are kept; what is there is not asked again.
        run_dir: for the logs of models that are served here.
        load: gives the weights in a folder.
        ollama_host: as in OLLAMA_HOST; default: that variable.
        on_answer: called with each answer, kept ones too, from several threads.
        on_start: called with each model that is about to be asked, from several threads.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        questions: Sequence[Question],
        sampling: Sampling,
        answers: AnswerFile,
        *,
        run_dir: Path,
        load: Callable[[Path], TorchModel],
        ollama_host: str | None,
        on_answer: Callable[[Answer], None],
        on_start: Callable[[Contestant], None],
    ) -> None:
        self._contestants, self._questions, self._sampling = contestants, questions, sampling
        self._file, self._run_dir, self._load, self._ollama_host = answers, run_dir, load, ollama_host
        self._on_answer, self._on_start = on_answer, on_start
        self._found: dict[str, list[Answer]] = {}

    def run(self, together: Together) -> dict[str, list[Answer]]:
        """The answers by label, in the order of the questions.

        Raises:
            ServiceFailed: a model gave no answer at all; the others are not asked on.
        """
        there = [one for one in self._contestants if one.way == "endpoint"]
        threads = [together.start(partial(self._ask, one, together), f"ask {one.label}") for one in there]
        for one in self._contestants:
            if one not in there:
                together.here(partial(self._ask, one, together))
        together.wait(threads)
        return {one.label: self._found[one.label] for one in self._contestants}

    def _ask(self, one: Contestant, together: Together) -> None:
        requests = requests_for(one.label, one.identity, self._questions, self._sampling)
        kept = kept_answers(requests, self._file)
        if kept:
            print(f"{one.label}: {len(kept)} of {len(requests)} answers are there already", flush=True)
        for answer in kept.values():
            self._on_answer(answer)
        if len(kept) == len(requests):
            self._found[one.label] = [kept[request.key] for request in requests]
            return
        self._on_start(one)

        def on_answer(answer: Answer) -> None:
            if answer.error is not None:
                print(f"{one.label}, question {answer.question}: {answer.error}", flush=True)
            self._on_answer(answer)

        with ExitStack() as stack:
            asker, served = self._open(one, stack)
            found = ask_all(asker, requests, self._file, concurrency=SLOTS, check=together.check, on_answer=on_answer)
            died = served.died() if served else None
        if all(answer.error is not None for answer in found):
            raise ServiceFailed(
                f"{one.label} ({one.served}) gave no answer to any of {len(self._questions)} questions: "
                f"{died or found[0].error}",
                next=_advice(one),
            )
        self._found[one.label] = found

    def _open(self, one: Contestant, stack: ExitStack) -> tuple[Asker, Served | None]:
        """Start what answers; it ends with the stack."""
        if one.way == "endpoint":
            endpoint = endpoint_for(one.reference, timeout_s=REMOTE_TIMEOUT_S, ollama_host=self._ollama_host)
            stack.callback(endpoint.close)
            return endpoint, None
        if one.way == "torch":
            return TorchAsker(self._load(one.weights_folder()), one), None
        assert one.gguf is not None
        assert one.prompt_format is not None
        longest = max(len(one.encode(question.messages)) for question in self._questions)
        served = stack.enter_context(
            Served(
                one.gguf,
                context=longest + self._sampling.max_tokens + 8,
                slots=min(SLOTS, len(self._questions)),
                log=self._run_dir / f"served-{list(self._contestants).index(one) + 1}.log",
            )
        )
        asker = CompletionEndpoint(served.base_url, one.encode, one.prompt_format.stops, timeout_s=LOCAL_TIMEOUT_S)
        stack.callback(asker.close)
        return asker, served


def _advice(one: Contestant) -> str:
    if one.reference.kind == "ollama":
        return "Start Ollama (ollama serve), see the names with `ollama list`, and call compare_models again."
    if one.reference.kind == "openai":
        return "Check the name, the address and the key in the settings, and call compare_models again."
    return "Read the run's log; export the model again with export_gguf if its file is damaged."
