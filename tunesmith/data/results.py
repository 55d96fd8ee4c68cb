"""What the tools that read, change and write datasets return."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tunesmith.data.records import Dataset, Record


class Example(Record):
    """A training example as a person writes one."""

    instruction: str = Field(description="The question or task. Not empty.")
    input: str = Field(default="", description="Extra context, joined to the instruction; may be empty.")
    output: str = Field(description="The answer to learn. Not empty.")
    system: str | None = Field(default=None, description="A system message for this example, or null.")
    rejected: str | None = Field(default=None, description="An answer that is worse than `output`, or null.")


class Rejected(Record):
    """A row of a file that was not imported."""

    line: int = Field(description="Line of the file, from 1; for Parquet the row, from 1.")
    reason: str = Field(description="Why, in words.")


class ImportResult(Dataset):
    """The dataset made of a file, and what of the file is not in it."""

    format: str = Field(
        description="The format that was read: alpaca, sharegpt, messages, prompt_completion or preference."
    )
    rejected: list[Rejected] = Field(description="Rows that could not be used; the first 50.")
    rejected_total: int = Field(description="Number of rows that could not be used.")
    rejected_left_out: int = Field(description="Rows of those that `rejected` does not show.")
    rejected_file: str | None = Field(description="File with all of them, one JSON object a line; null when none.")
    other_splits: int = Field(description="Rows left out because they belong to another split than asked for.")


class ExportResult(Record):
    """A file that was written."""

    path: str = Field(description="The file.")
    rows: int = Field(description="Rows in it.")
    bytes: int = Field(description="Its size in bytes.")
    sha256: str = Field(description="SHA-256 of its bytes.")
    rejected_left_out: int = Field(
        default=0, description="Rows of which the file holds the chosen answer and not the rejected one."
    )
    llama_factory: dict[str, Any] | None = Field(
        description="Entry for LLaMA-Factory's dataset_info.json beside the file; null for what it does not read."
    )


class CleanResult(Dataset):
    """The cleaned dataset and what cleaning did. `rows_in == kept + dropped`."""

    rows_in: int = Field(description="Rows of the dataset that was cleaned.")
    kept: int = Field(description="Rows in the new dataset.")
    dropped: int = Field(description="Rows left out.")
    edited: int = Field(description="Rows kept with another text: truncated or redacted.")
    by_check: dict[str, int] = Field(description="Rows dropped by each check; a row counts for the first naming it.")
    edited_by_check: dict[str, int] = Field(
        description="Rows edited for each reason: long_output (truncated), pii and secret (redacted)."
    )
    not_truncated: int = Field(description="Rows too long that have no sentence or line end to cut at; left whole.")
