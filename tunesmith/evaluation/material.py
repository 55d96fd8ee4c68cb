"""What a comparison gathered, kept in `material.json`: enough to conclude again without asking anybody."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunesmith.errors import NotFound, StoreCorrupt
from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.judgements import JudgedAnswer, JudgedPair
from tunesmith.evaluation.records import HeldOut, JudgeInfo, Lineage, Question, Sampling
from tunesmith.evaluation.worth import Cost
from tunesmith.files import write_atomic
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelRecord
from tunesmith.models.references import Reference
from tunesmith.records import Record
from tunesmith.workspace import Workspace

MATERIAL_FILE = "material.json"


class Judged(Record):
    """Everything a judge said."""

    info: JudgeInfo
    cut: int = Field(description="Prompts in which a text was too long to be shown whole.")
    answers: list[JudgedAnswer]
    pairs: list[JudgedPair]


class StoredContestant(Record):
    """A compared model as it was then."""

    label: str
    kind: Literal["run", "model", "ollama", "openai", "embedded", "hub", "folder"]
    name: str
    base_url: str | None
    text: str = Field(description="The reference as it was given.")
    way: Literal["gguf", "torch", "endpoint"]
    served: str
    identity: str
    base_model: str | None
    record: ModelRecord | None
    heldout_loss: float | None
    heldout: HeldOut | None
    memorised_share: float | None

    def as_contestant(self, workspace: Workspace) -> Contestant:
        """What the reports need of it; it cannot be asked."""
        return Contestant(
            label=self.label,
            reference=Reference(self.kind, self.name, self.base_url, self.text),
            way=self.way,
            workspace=workspace,
            served=self.served,
            identity=self.identity,
            base_model=self.base_model,
            prompt_format=PromptFormat.from_record(self.record.prompt_format) if self.record else None,
            record=self.record,
        )


class StoredMaterial(Record):
    """One comparison's material; the answers lie beside it in answers.jsonl."""

    version: Literal[1] = 1
    comparison_id: str
    created_at: str
    questions: list[Question]
    questions_there: int = Field(description="Questions that were drawn from.")
    sampling: Sampling
    contestants: list[StoredContestant]
    answer_keys: dict[str, list[str]] = Field(description="By label, the keys of the answers that count.")
    judged: Judged | None
    dataset_id: str | None
    costs: dict[str, dict[str, Any]] = Field(description="What training cost, by label, of those trained here.")
    lineage: Lineage
    notes: list[str] = Field(description="Those that no score of a person changes.")

    def cost_of(self, label: str) -> Cost | None:
        """What training a model cost; None when it was not trained here."""
        stored = self.costs.get(label)
        return None if stored is None else Cost(**stored)


def stored_cost(cost: Cost) -> dict[str, Any]:
    """A cost as `StoredMaterial.costs` keeps it."""
    return asdict(cost)


def write_material(folder: Path, material: StoredMaterial) -> None:
    """Keep it, whole or not at all."""
    write_atomic(folder / MATERIAL_FILE, material.model_dump_json())


def read_material(folder: Path) -> StoredMaterial:
    """What was kept.

    Raises:
        NotFound: the comparison was made before material was kept, or its folder is gone.
        StoreCorrupt: the file is damaged.
    """
    path = folder / MATERIAL_FILE
    try:
        return StoredMaterial.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(
            f"What {folder.name} was concluded from is not there ({path}).",
            next="Compare the models again with compare_models; scores can be recorded for the new comparison.",
        ) from error
    except ValueError as error:
        raise StoreCorrupt(
            f"{path} is damaged: {str(error).splitlines()[0]}.",
            next="Restore it from a copy, or compare the models again with compare_models.",
        ) from error
