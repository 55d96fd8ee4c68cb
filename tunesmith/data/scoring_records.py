"""What `score_dataset` returns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.data.llm_records import Judged
from tunesmith.data.records import Lengths, Record

Severity = Literal["error", "warning", "info"]


class CheckFindings(Record):
    """All findings of one check."""

    check: str = Field(description="The check's name.")
    severity: Severity = Field(description="error and warning flag their rows; info never does.")
    rows: int = Field(description="Rows the check names; for a check of the whole dataset, the rows it speaks of.")
    share: float = Field(description="rows divided by all rows, 0 to 1.")
    sample_row_ids: list[str] = Field(description="The first 10 of those rows.")
    message: str = Field(description="What was found.")
    fix: str = Field(description="What to do about it.")


class Quantity(Record):
    """Whether there are enough rows."""

    rows: int = Field(description="Number of rows.")
    advice: str = Field(description="What that number means for fine-tuning.")


class Opening(Record):
    """How questions begin."""

    opening: str = Field(description="The most frequent opening; empty when there is none.")
    share: float = Field(description="Share of the questions of that language that begin so, 0 to 1.")
    rows: int = Field(description="Questions of that language.")


class Diversity(Record):
    """How different the questions are from one another."""

    unique_instructions: float = Field(description="Distinct questions divided by rows, 0 to 1.")
    by_word: Opening = Field(description="First word, over questions that are not Chinese.")
    by_characters: Opening = Field(description="First two characters, over Chinese questions.")


class Tokens(Record):
    """Lengths in the base model's tokens, chat markup included."""

    total: int = Field(description="Tokens of all rows together.")
    p50: int = Field(description="Median tokens of a row.")
    p95: int = Field(description="95th percentile.")
    max: int = Field(description="Longest row.")
    max_length: int | None = Field(description="The limit that was applied, in tokens; null when none was.")
    over_max_length: int = Field(description="Rows longer than that; training would cut them.")


class CleanPlan(Record):
    """What `clean_dataset` with its defaults would do; rows that only editing makes equal come on top."""

    would_drop: int = Field(description="Rows.")
    would_edit: int = Field(description="Rows.")


class Score(Record):
    """The quality of a dataset. `passed + flagged == rows`; a row with several findings counts once.

    Grade by `quality_rate`: A from 0.95, B from 0.90, C from 0.80, D from 0.60, F below.
    Findings about the whole dataset (quantity, diversity) and findings of severity
    info flag no row.
    """

    rows: int = Field(description="Rows scored.")
    passed: int = Field(description="Rows without an error or a warning.")
    flagged: int = Field(description="Rows with at least one.")
    quality_rate: float = Field(description="passed divided by rows, 0 to 1.")
    grade: Literal["A", "B", "C", "D", "F"] = Field(
        description="By quality_rate: A from 0.95, B from 0.90, C from 0.80, D from 0.60, F below."
    )
    findings: list[CheckFindings] = Field(description="One entry for each check that found something, worst first.")
    quantity: Quantity
    diversity: Diversity
    lengths: Lengths = Field(description="In characters.")
    tokens: Tokens | None = Field(description="Null unless a base model was given.")
    clean_plan: CleanPlan
    report: str = Field(description="Path of the report to read in a browser; report.json lies beside it.")
    judge: Judged | None = Field(default=None, description="What a model thinks of the rows; null without llm_judge.")
