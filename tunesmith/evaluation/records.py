"""What comparing models and asking one of them return. Light: nothing heavy is imported here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.data.records import Message
from tunesmith.records import Record


class Question(Record):
    """One thing every model is asked."""

    question: int = Field(description="Its number, from 1.")
    messages: list[Message] = Field(description="The conversation up to the answer; the last message is a user's.")
    reference: str | None = Field(description="The answer to compare with; null when there is none.")
    row_id: str | None = Field(default=None, description="The dataset row it comes from; null when it was given.")

    @property
    def text(self) -> str:
        """What is asked, for people: the last message."""
        return self.messages[-1].content


class Answer(Record):
    """What one model answered once, or why it did not. One line of answers.jsonl."""

    label: str = Field(description="The model.")
    question: int = Field(description="Number of the question, from 1.")
    repetition: int = Field(description="From 1.")
    key: str = Field(
        description="Digest of the model, the messages and the sampling; an answer is reused only if equal."
    )
    reply: str | None = Field(description="The text; null when there was an error.")
    finish_reason: str | None = Field(description="stop: it ended by itself; length: it was cut off; null: error.")
    tokens: int | None = Field(description="Tokens of the reply; null when the endpoint does not say.")
    seconds: float = Field(description="Seconds from the request to the whole reply, of the last attempt.")
    attempts: int = Field(description="Requests made.")
    error: str | None = Field(description="What went wrong, with secrets removed; null when there is a reply.")


class Interval(Record):
    """A mean with its 95 % bootstrap interval over questions."""

    mean: float = Field(description="The mean.")
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")


class Rubric(Record):
    """Scores by a judge."""

    domain_knowledge: Interval = Field(description="1 to 5.")
    response_style: Interval = Field(description="1 to 5.")
    accuracy: Interval = Field(description="1 to 5.")
    total: Interval = Field(description="3 to 15.")


class Similarity(Record):
    """Likeness of the answers to the references; of failed requests nothing is counted."""

    chrf: Interval = Field(description="chrF, 0 to 100: character n-grams in common with the reference.")
    rouge_l: Interval = Field(
        description="ROUGE-L F1, 0 to 1: longest common subsequence, of words, or of characters for Chinese."
    )


class HeldOut(Record):
    """Where a held-out loss comes from."""

    source: Literal["measured", "training_run"] = Field(
        description="measured: in this comparison; training_run: the run that trained the model measured the same rows."
    )
    rows: int = Field(description="Held-out rows.")
    tokens: int | None = Field(description="Answer tokens the mean is over; null when the run did not keep it.")
    perplexity: float = Field(description="exp(loss).")
    prompt_format_sha256: str = Field(description="The prompt format the rows were rendered with.")


class ModelScore(Record):
    """One model's figures."""

    label: str = Field(description="The label it was given.")
    model: str = Field(description="The model reference.")
    served: str = Field(description="How it was run: the file and the runtime, or the endpoint.")
    rubric: Rubric | None = Field(description="Scores by a judge; null without a judge.")
    heldout_loss: float | None = Field(
        description="Mean loss over the answer tokens of the held-out rows, nats a token; "
        "null where it cannot be measured."
    )
    heldout: HeldOut | None = Field(default=None, description="Where that loss comes from.")
    similarity: Similarity | None = Field(description="Null when no question has a reference, or none was answered.")
    memorised_share: float | None = Field(
        description="Share of the answers' words (characters for Chinese) inside a run of 8 words (16 characters) that "
        "occurs in a training answer, 0 to 1; null without training rows. Right answers quote too: see the base's."
    )
    stop_rate: float | None = Field(description="Share of the answers that ended by themselves, 0 to 1.")
    mean_chars: float | None = Field(default=None, description="Mean length of the answers, characters.")
    latency_s: float | None = Field(
        description="Mean seconds from a request to its whole reply, with others in flight."
    )
    tokens_per_s: float | None = Field(description="Tokens of an answer over its seconds, mean; null when not told.")
    answered: int = Field(description="Answers received.")
    errors: int = Field(description="Requests that failed after their retries. They are no answers and are not scored.")
    first_error: str | None = Field(default=None, description="The first failure's reason; null when there is none.")


class Pair(Record):
    """Two models against each other, question by question."""

    a: str = Field(description="Label.")
    b: str = Field(description="Label.")
    judged_by: Literal["similarity", "nothing"] = Field(
        description="similarity: the answer whose chrF with the reference is higher by at least 1 point wins."
    )
    questions: int = Field(description="Questions that both answered and that have a reference.")
    wins: int = Field(description="Questions that a wins.")
    ties: int = Field(description="Questions without a winner.")
    losses: int = Field(description="Questions that b wins.")
    win_rate: Interval | None = Field(description="Share a wins, ties half, 0 to 1; null without judged questions.")
    difference: Interval | None = Field(default=None, description="Mean chrF of a minus b, points; null as win_rate.")
    p_value: float | None = Field(
        description="Two-sided exact Wilcoxon signed-rank test over questions, Holm-corrected over the pairs; "
        "null as win_rate."
    )
    sign_p_value: float | None = Field(
        default=None, description="Two-sided exact sign test over wins and losses, not corrected; null as win_rate."
    )
    smallest_visible: float | None = Field(
        default=None,
        description="Difference in chrF points that this many questions would show in 4 cases of 5; null as win_rate.",
    )
    position_consistency: float | None = Field(description="Of a judge that saw both orders; null without a judge.")


class Verdict(Record):
    """Whether the candidate is better than the baseline."""

    answer: Literal["better", "worse", "no_evidence"] = Field(description="The verdict, at the 5 % level.")
    why: str = Field(description="The figures it rests on, and what they rest on.")
    candidate: str = Field(description="Label of the model the verdict is about.")
    baseline: str = Field(description="Label of the model it is compared with.")


class WorthIt(BaseModel):
    """Was fine-tuning worth it?"""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    answer: Literal["yes", "no", "unclear"] = Field(description="From the figures of this comparison alone.")
    in_favour: list[str] = Field(alias="for", description="What speaks for fine-tuning here.")
    against: list[str] = Field(description="What speaks against it, or for retrieval or prompting instead.")


class Sample(Record):
    """One question with the answers side by side."""

    question: str = Field(description="What was asked, cut to 300 characters.")
    reference: str | None = Field(description="The reference, cut to 300 characters.")
    replies: dict[str, str | None] = Field(
        description="First reply by label, cut to 300 characters; null where the request failed."
    )


class Lineage(Record):
    """What the comparison was made from."""

    dataset_id: str | None = Field(description="The dataset the questions come from; null when they were given.")
    heldout_dataset_id: str | None = Field(description="The dataset whose eval split the held-out loss is over.")
    versions: dict[str, str] = Field(description="Versions of what did the work.")
    models: list[dict[str, Any]] = Field(description="Files, digests and recipes of the models trained here.")
    datasets: list[dict[str, Any]] = Field(description="The datasets involved, with parents and digests.")


class Sampling(Record):
    """The same for every model."""

    temperature: float = Field(description="0: the likeliest token always.")
    max_tokens: int = Field(description="Longest reply, tokens.")
    seed: int = Field(description="Seed of the first repetition; each further one adds 1.")
    repetitions: int = Field(description="Times each question was asked.")


class Comparison(Record):
    """Models asked the same questions, with what can be concluded."""

    comparison_id: str = Field(description="cmp_ and 12 characters.")
    created_at: str = Field(description="ISO 8601, UTC.")
    questions: int = Field(description="Questions each model was asked.")
    sampling: Sampling
    models: list[ModelScore] = Field(description="In the order given.")
    pairs: list[Pair] = Field(description="Every two models.")
    verdict: Verdict
    worth_it: WorthIt
    samples: list[Sample] = Field(description="The first answers side by side; all are in the report.")
    samples_left_out: int = Field(description="Questions that are only in the report.")
    notes: list[str] = Field(description="What a reader must know to read the figures rightly.")
    lineage: Lineage
    report: str = Field(description="Path of the HTML report; report.md and answers.jsonl lie beside it.")
    resources: list[str] = Field(description="URIs to read more.")


class AskResult(Record):
    """One reply."""

    reply: str = Field(description="The text of the answer.")
    finish_reason: str = Field(description="stop: it ended by itself; length: it was cut at max_tokens.")
    tokens: int | None = Field(description="Tokens of the reply; null when the endpoint does not say.")
    seconds: float = Field(description="Seconds from the request to the whole reply, loading aside.")
