"""What `extract_qa` returns."""

from __future__ import annotations

from pydantic import Field

from tunesmith.data.llm_records import LlmExtraction
from tunesmith.data.records import Dataset, Record

MAX_LISTED = 20


class SectionSkip(Record):
    """A section that gave no example."""

    path: str = Field(description="File, relative to the folder that was read.")
    lines: tuple[int, int] = Field(description="First and last line, counted from 1.")
    reason: str = Field(description="Why, in words.")


class FileSkip(Record):
    """A file, or a whole folder (its path ends in a slash), that was not read."""

    path: str = Field(description="Relative to the folder that was read.")
    reason: str = Field(description="Why, in words.")


class SectionCount(Record):
    """Sections that have a body. `total == used + skipped_total`."""

    total: int = Field(description="Sections with a body.")
    used: int = Field(description="Sections that gave at least one example.")
    shortened: int = Field(description="Sections used of which something did not fit into max_answer_chars.")
    skipped: list[SectionSkip] = Field(description="The first 20 of the others; all are in skipped.jsonl.")
    skipped_total: int = Field(description="Sections that gave no example.")
    skipped_left_out: int = Field(description="Skipped sections not listed here.")


class FileCount(Record):
    """Files that were found."""

    read: int = Field(description="Files read as notes.")
    skipped: list[FileSkip] = Field(description="The first 20 files and folders not used; all are in skipped.jsonl.")
    skipped_total: int = Field(description="Files and folders not used.")
    skipped_left_out: int = Field(description="Skipped files not listed here.")


class ExtractResult(Record):
    """The dataset made of notes, and what of the notes is not in it."""

    dataset: Dataset = Field(description="The new dataset.")
    by_strategy: dict[str, int] = Field(description="Rows made by each strategy asked for.")
    sections: SectionCount
    files: FileCount
    llm: LlmExtraction | None = Field(default=None, description="The model's part; null without llm.")
