"""What a trained model is, as it is stored and shown."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tunesmith.records import Record

FileKind = Literal["adapter", "weights", "merged", "gguf", "lora_gguf", "modelfile"]


class ModelFile(Record):
    """One artefact of a model: a file, or a folder for adapters, weights trained whole, and merged weights."""

    kind: FileKind = Field(description="What it is.")
    quantization: str | None = Field(default=None, description="Of a GGUF: f16, q8_0, q4_k_m, …; null otherwise.")
    path: str = Field(description="Relative to the model's folder, with forward slashes.")
    bytes: int = Field(description="Size in bytes; of a folder, the sum of its files.")
    sha256: str = Field(description="SHA-256 of the file; of a folder, of its sorted list of digests and names.")
    facts: dict[str, Any] = Field(
        default_factory=dict, description="What was measured when it was exported, under the names of ExportResult."
    )


class ModelRecord(Record):
    """A model trained here, with what it was made from and the files it has so far."""

    model_id: str = Field(description="mdl_ and 12 characters.")
    name: str = Field(description="For people; not unique.")
    run_id: str | None = Field(description="The training run that made it.")
    dataset_id: str | None = Field(description="The dataset it was trained on.")
    base_model: str = Field(description="The base, as a model reference: embedded, a Hub id or a folder.")
    method: str = Field(description="qlora, lora or full.")
    prompt_format: dict[str, Any] = Field(description="How messages become text for this model, with its SHA-256.")
    recipe: dict[str, Any] = Field(description="Every hyperparameter of the run, resolved.")
    created_at: str = Field(description="ISO 8601, UTC.")
    files: list[ModelFile] = Field(default_factory=list, description="What there is of it on disk.")
    training: dict[str, Any] = Field(default_factory=dict, description="Figures of the training run.")
    lineage: list[dict[str, Any]] = Field(
        default_factory=list, description="The dataset as it was then, and what it was made from, nearest first."
    )
    base_licence: str | None = Field(default=None, description="Of the base; null where it was not known.")
    resources: list[str] = Field(default_factory=list, description="URIs to read more.")

    def file(self, kind: FileKind, quantization: str | None = None) -> ModelFile | None:
        """The file of that kind (and quantization, where one is given), or None."""
        for entry in self.files:
            if entry.kind == kind and quantization in (None, entry.quantization):
                return entry
        return None
