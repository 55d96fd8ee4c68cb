"""What a language model's part in a run amounted to, as it stands in results."""

from __future__ import annotations

from pydantic import Field

from tunesmith.data.records import Record

MAX_LISTED = 20


class LlmUsage(Record):
    """What was asked, and what it cost."""

    model: str = Field(description="Which model answered, and where.")
    requests: int = Field(description="Requests made by this run, those that failed or were repeated included.")
    answers: int = Field(description="Prompts that this run got a usable answer to.")
    from_cache: int = Field(description="Prompts whose answer an earlier run had got; they cost nothing now.")
    failed: int = Field(description="Prompts without a usable answer.")
    prompt_tokens: int = Field(description="Tokens sent by this run.")
    completion_tokens: int = Field(description="Tokens received by this run.")
    cached_tokens: int = Field(description="Tokens that the answers from the cache had cost, both ways.")
    estimated_replies: int = Field(
        description="Replies whose tokens the endpoint did not count; theirs are estimated at 4 bytes a token."
    )

    @property
    def tokens(self) -> int:
        """All tokens behind the answers that were used."""
        return self.prompt_tokens + self.completion_tokens + self.cached_tokens


class LlmSkip(Record):
    """A part of the notes that the model gave no pairs for, or a pair that was not taken."""

    path: str = Field(description="File, relative to the folder that was read.")
    lines: tuple[int, int] = Field(description="First and last line, counted from 1.")
    reason: str = Field(description="Why, in words.")


class LlmExtraction(Record):
    """The model's part in an extraction."""

    usage: LlmUsage
    sections: int = Field(description="Sections that the model was asked about.")
    windows: int = Field(description="Prompts; more than sections where long sections were cut.")
    pairs: int = Field(description="Pairs that were taken, before repeated questions were left out.")
    dropped: dict[str, int] = Field(description="Pairs that were not taken, by reason.")
    failures: list[LlmSkip] = Field(
        description="The first 20 windows without an answer; all, and all dropped pairs, are in skipped.jsonl."
    )
    failures_left_out: int = Field(description="Failures not listed here.")


class RatedMean(Record):
    """A mean with its 95 % bootstrap interval over rows."""

    mean: float = Field(description="1 to 5.")
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")


class JudgeFailure(Record):
    """A row that could not be rated."""

    row_id: str
    reason: str = Field(description="Why, in words.")


class Judged(Record):
    """What a model thinks of the rows. It changes nothing that the offline checks found."""

    usage: LlmUsage
    rows_judged: int = Field(description="Rows with a rating.")
    rows_asked: int = Field(description="Rows that were to be rated: all, or a seeded choice of max_rows.")
    correctness: RatedMean = Field(description="Is what the row says right and free of contradiction?")
    clarity: RatedMean = Field(description="Are question and answer understandable on their own?")
    usefulness: RatedMean = Field(description="Does the answer answer the question with something worth learning?")
    total: RatedMean = Field(description="Mean of the three.")
    low_rows: int = Field(description="Rows that got 2 or less in one of them.")
    note: str | None = Field(default=None, description="Why these ratings say little, where they do.")
    failures: list[JudgeFailure] = Field(description="The first 20 rows without a rating; all are in report.json.")
    failures_left_out: int = Field(description="Failures not listed here.")
