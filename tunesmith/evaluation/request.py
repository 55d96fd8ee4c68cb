"""What a comparison is asked to do: checked before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tunesmith.data.store import DatasetStore
from tunesmith.errors import EmptyInput, InvalidArgument
from tunesmith.evaluation.bill import Bill, bill
from tunesmith.evaluation.judge_choice import check_judge
from tunesmith.evaluation.prices import Prices
from tunesmith.evaluation.same_model import identity_of, labels_say_so
from tunesmith.models.references import Reference, parse_reference
from tunesmith.models.store import ModelStore
from tunesmith.workspace import Workspace, check_id

MAX_MODELS = 8
MAX_QUESTIONS = 10_000
HELD_OUT_QUESTIONS = 50  # of an eval split, unless the caller says how many
# More than this is asked only if max_questions says that it is meant.
UNCONFIRMED_QUESTIONS, UNCONFIRMED_REQUESTS = 500, 20_000
ASSUMED_BYTES = 600  # of a held-out question with its answer, before the rows are read


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class LabelledModel(Strict):
    """A model under the name it has in the report."""

    label: str = Field(
        min_length=1,
        max_length=60,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Its name in the report.",
        examples=["tuned"],
    )
    model: str = Field(min_length=1, max_length=500, description="A model reference.", examples=["embedded"])


class AskedQuestion(Strict):
    """A question of the caller's own."""

    question: str = Field(
        min_length=1, max_length=20_000, pattern=r"\S", description="What to ask.", examples=["What does E32 mean?"]
    )
    reference: str | None = Field(default=None, max_length=20_000, description="A right answer, to compare with.")
    system: str | None = Field(default=None, max_length=20_000, description="A system message.")


class JudgeRequest(Strict):
    """Who is to judge."""

    model: str = Field(min_length=1, max_length=500, description="A model reference; with base_url also a bare name.")
    base_url: str | None = Field(default=None, max_length=500, description="Of an OpenAI-compatible endpoint.")


class CompareRequest(Strict):
    """The arguments of a `compare` run.

    Questions, or the eval split of a dataset, not both. With questions, `dataset_id` may not be given: the held-out
    loss is then over the eval split of the dataset that the compared models were trained on.
    """

    models: list[LabelledModel] = Field(min_length=1, max_length=MAX_MODELS)
    questions: list[AskedQuestion] | None = Field(default=None, max_length=MAX_QUESTIONS)
    dataset_id: str | None = None
    judge: JudgeRequest | None = None
    repetitions: int = Field(default=1, ge=1, le=20)
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=500, ge=1, le=8192)
    seed: int = Field(default=42, ge=0, le=2**31 - 1)
    max_questions: int | None = Field(
        default=None,
        ge=1,
        le=MAX_QUESTIONS,
        description="Asked at most, drawn by seed from more; by default 50 held-out rows, or all questions. Confirms a "
        "comparison that is large.",
    )
    comparison_id: str | None = Field(default=None, description="Go on with this comparison; what is answered stays.")

    @property
    def limit(self) -> int:
        """Questions asked at most."""
        return self.max_questions or (HELD_OUT_QUESTIONS if self.dataset_id else MAX_QUESTIONS)

    @field_validator("questions", mode="before")
    @classmethod
    def _plain_questions(cls, value: Any) -> Any:
        """A question may be given as a plain string."""
        if not isinstance(value, list):
            return value
        return [{"question": entry} if isinstance(entry, str) else entry for entry in value]


def read_request(arguments: dict[str, Any]) -> CompareRequest:
    """The arguments as a request.

    Raises:
        InvalidArgument: naming the first argument that is wrong.
    """
    try:
        return CompareRequest.model_validate(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "arguments"
        if first["type"] == "extra_forbidden" and first["loc"][0] == "judge":
            takes = ", ".join(JudgeRequest.model_fields)
            raise InvalidArgument(
                f"{where} is not known; a key is never an argument.",
                next=f"Give judge {takes}; keys go into the settings.",
            ) from error
        raise InvalidArgument(
            f"{where}: {first['msg']}.", next="Correct that argument and call compare_models again."
        ) from error


def check_request(workspace: Workspace, request: CompareRequest, ollama_host: str | None = None) -> list[Reference]:
    """Refuse what cannot be compared, before anything is started; contacts nothing and loads nothing.

    The same model under two labels shows how large a difference pure chance makes (an A/A comparison); the second
    label must say so.

    Args:
        ollama_host: as in OLLAMA_HOST; default: that variable.

    Returns:
        The models' references, in order.

    Raises:
        InvalidArgument: fewer than two models, a label or a model used twice, questions and a dataset, a malformed
            reference, a judge that takes part, a comparison so large that it must be confirmed, or a
            stated price that cannot be read.
        EmptyInput: no questions, or a dataset without an eval split.
        NotFound: a model, run or dataset that is not there.
        NotSupported: a judge that nothing here can serve.
    """
    _check_labels(request)
    if request.questions is not None and request.dataset_id is not None:
        raise InvalidArgument(
            "questions and dataset_id are both given; a comparison asks one or the other.",
            next="Leave one of them out.",
        )
    if not request.questions and request.dataset_id is None:
        raise EmptyInput(
            "There is nothing to ask: neither questions nor dataset_id.",
            next="Give questions=[{question, reference}], or dataset_id of a dataset with an eval split.",
        )
    references = [_check_model(workspace, entry) for entry in request.models]
    labels = [entry.label.strip() for entry in request.models]
    _check_different(labels, [identity_of(workspace, one, ollama_host) for one in references])
    if request.judge is not None:
        contestants = list(zip(labels, references, strict=True))
        check_judge(workspace, request.judge.model, request.judge.base_url, contestants, ollama_host)
    if request.dataset_id is not None and DatasetStore(workspace).get(request.dataset_id).splits.eval == 0:
        raise EmptyInput(
            f"Dataset {request.dataset_id} has no eval split, so there is nothing held out to compare on.",
            next=f"Call split_dataset with dataset_id='{request.dataset_id}', train on the dataset it returns and "
            "compare on that; or give questions.",
        )
    Prices()  # one that cannot be read is told now, not after everything was asked
    if request.comparison_id is not None:
        check_id("cmp", request.comparison_id)
    _check_size(workspace, request)
    return references


def cost(request: CompareRequest, asked: Sequence[int]) -> Bill:
    """What a request costs.

    Args:
        asked: bytes of each question with its reference.
    """
    return bill(
        asked,
        models=len(request.models),
        repetitions=request.repetitions,
        max_tokens=request.max_tokens,
        judge=request.judge is not None,
    )


def _check_size(workspace: Workspace, request: CompareRequest) -> None:
    """Tell what a large comparison costs, unless the caller has said how large it may be."""
    if request.max_questions is not None:
        return
    if request.dataset_id is None:
        asked = [_bytes(one) for one in request.questions or []]
    else:
        asked = [ASSUMED_BYTES] * min(request.limit, DatasetStore(workspace).get(request.dataset_id).splits.eval)
    found = cost(request, asked)
    if len(asked) <= UNCONFIRMED_QUESTIONS and found.requests <= UNCONFIRMED_REQUESTS:
        return
    raise InvalidArgument(
        f"That is a large comparison: {found}.",
        next=f"To do it, call again with max_questions={len(asked)}; to draw a sample, with max_questions=100. "
        "Fewer models, repetitions=1 or no judge cost less too.",
    )


def _bytes(one: AskedQuestion) -> int:
    return sum(len((text or "").encode("utf-8", "replace")) for text in (one.question, one.reference, one.system))


def _check_different(labels: Sequence[str], identities: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for label, identity in zip(labels, identities, strict=True):
        known = first.setdefault(identity, label)
        if known != label and not labels_say_so(known, label):
            raise InvalidArgument(
                f"{known!r} and {label!r} are the same model.",
                next=f"Give another model; or, to see how large a difference chance alone makes, say so in the label: "
                f"{known!r} and '{known} again'.",
            )


def _check_labels(request: CompareRequest) -> None:
    labels = [entry.label.strip() for entry in request.models]
    if len(labels) < 2:
        raise InvalidArgument(
            "A comparison needs at least two models.",
            next="Add the base, e.g. {'label': 'base', 'model': 'embedded'}; to ask one model, call ask_model.",
        )
    if "" in labels:
        raise InvalidArgument("A label is blank.", next="Give every model a label such as 'base' or 'tuned'.")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InvalidArgument(
            f"The label {twice[0]!r} is used {labels.count(twice[0])} times.",
            next=f"Give every model a label of its own; the same model once more is '{twice[0]} again'.",
        )


def _check_model(workspace: Workspace, entry: LabelledModel) -> Reference:
    reference = parse_reference(entry.model, workspace)
    if reference.kind in ("run", "model"):
        ModelStore(workspace).resolve(reference.name)
    return reference
