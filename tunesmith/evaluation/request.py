"""What a comparison is asked to do: checked before anything is started."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tunesmith.data.store import DatasetStore
from tunesmith.errors import EmptyInput, InvalidArgument, NotSupported
from tunesmith.models.references import Reference, parse_reference
from tunesmith.models.store import ModelStore
from tunesmith.workspace import Workspace, check_id

MAX_MODELS = 8
MAX_QUESTIONS = 500


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


class CompareRequest(Strict):
    """The arguments of a `compare` run.

    Questions, or the eval split of a dataset, not both. With questions, `dataset_id` may not be given: the held-out
    loss is then over the eval split of the dataset that the compared models were trained on.
    """

    models: list[LabelledModel] = Field(min_length=1, max_length=MAX_MODELS)
    questions: list[AskedQuestion] | None = Field(default=None, max_length=MAX_QUESTIONS)
    dataset_id: str | None = None
    judge: dict[str, Any] | None = None
    repetitions: int = Field(default=1, ge=1, le=20)
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=500, ge=1, le=8192)
    seed: int = Field(default=42, ge=0, le=2**31 - 1)
    max_questions: int = Field(default=50, ge=1, le=MAX_QUESTIONS, description="Of a dataset's eval split, at most.")
    comparison_id: str | None = Field(default=None, description="Go on with this comparison; what is answered stays.")

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
        raise InvalidArgument(
            f"{where}: {first['msg']}.", next="Correct that argument and call compare_models again."
        ) from error


def check_request(workspace: Workspace, request: CompareRequest) -> list[Reference]:
    """Refuse what cannot be compared, before anything is started; contacts nothing and loads nothing.

    The same model under two labels is allowed: it shows how large a difference pure chance makes (an A/A comparison).

    Returns:
        The models' references, in order.

    Raises:
        InvalidArgument: fewer than two models, a label used twice, questions and a dataset, a malformed reference.
        EmptyInput: no questions, or a dataset without an eval split.
        NotFound: a model, run or dataset that is not there.
        NotSupported: a judge.
    """
    if request.judge is not None:
        raise NotSupported(
            "judge is not supported yet: answers are compared with their references.",
            next="Leave judge out; read the answers side by side in the report.",
        )
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
    if request.dataset_id is not None and DatasetStore(workspace).get(request.dataset_id).splits.eval == 0:
        raise EmptyInput(
            f"Dataset {request.dataset_id} has no eval split, so there is nothing held out to compare on.",
            next=f"Call split_dataset with dataset_id='{request.dataset_id}', train on the dataset it returns and "
            "compare on that; or give questions.",
        )
    if request.comparison_id is not None:
        check_id("cmp", request.comparison_id)
    return references


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
            next="Give every model a label of its own; the same model may stand under two labels.",
        )


def _check_model(workspace: Workspace, entry: LabelledModel) -> Reference:
    reference = parse_reference(entry.model, workspace)
    if reference.kind in ("run", "model"):
        ModelStore(workspace).resolve(reference.name)
    return reference
