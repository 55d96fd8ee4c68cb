"""What a dataset is made of, as it is stored and shown."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tunesmith.records import Record


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"] = Field(description="Who speaks.")
    content: str = Field(description="What is said.")


class Source(Record):
    """Where in the notes a row comes from."""

    path: str = Field(description="File, relative to the folder that was read.")
    sha256: str = Field(description="SHA-256 of the file's bytes.")
    first_line: int = Field(description="First line of the span, counted from 1.")
    last_line: int = Field(description="Last line of the span, included.")
    strategy: str = Field(description="The extraction strategy that made the row.")


class Row(Record):
    """One training example. In preference data its last message is the chosen answer.

    The instruction is the first user message. An Alpaca `input` is kept in
    `meta["input"]` and is already joined to the instruction in `messages`.
    """

    row_id: str = Field(description="Stable within the dataset: r followed by its number, from 1.")
    messages: list[Message] = Field(description="The conversation, in order.")
    rejected: str | None = Field(
        default=None, description="Preference data: the answer that was turned down, in place of the last message."
    )
    source: Source | None = Field(default=None, description="Where it was found; null for imported and added rows.")
    split: Literal["train", "eval"] | None = Field(default=None, description="Null until the dataset is split.")
    meta: dict[str, Any] = Field(default_factory=dict, description="Whatever else came with the row.")

    @property
    def instruction(self) -> str:
        """The first user message, or an empty string."""
        return next((message.content for message in self.messages if message.role == "user"), "")

    @property
    def output(self) -> str:
        """The last assistant message, or an empty string."""
        return next((message.content for message in reversed(self.messages) if message.role == "assistant"), "")

    @property
    def rejected_messages(self) -> list[Message] | None:
        """The conversation with the rejected answer in place of the chosen one; None where there is none."""
        if self.rejected is None:
            return None
        return [*self.messages[:-1], Message(role="assistant", content=self.rejected)]


class LengthStats(Record):
    """Lengths over all rows, in characters."""

    min: int
    p50: int
    p95: int
    max: int
    mean: float


class Lengths(Record):
    """Character lengths of both sides."""

    instruction: LengthStats
    output: LengthStats


class Splits(Record):
    """Rows in each split; both 0 until the dataset is split."""

    train: int
    eval: int


class Sources(Record):
    """Provenance in numbers."""

    files: int = Field(description="Distinct files the rows come from.")
    spans: int = Field(description="Rows that name their lines.")


class Dataset(Record):
    """An immutable, content-addressed list of rows with its lineage."""

    dataset_id: str = Field(description="ds_ and 12 characters.")
    name: str = Field(description="For people; not unique.")
    rows: int = Field(description="Number of rows.")
    pairs: int = Field(default=0, description="Rows with a rejected answer besides the chosen one.")
    splits: Splits
    parents: list[str] = Field(description="Datasets this one was made from.")
    created_by: str = Field(description="The tool that made it.")
    created_at: str = Field(description="ISO 8601, UTC.")
    languages: dict[str, int] = Field(description="Rows by language code: zh, en, other.")
    chars: Lengths
    sources: Sources
    sha256: str = Field(description="SHA-256 of rows.jsonl.")
    resources: list[str] = Field(description="URIs to read more.")
