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
    source: str | None = Field(default=None, description="File and lines of that row: notes.md:10-14.")

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
    """Scores by a judge, or by people."""

    domain_knowledge: Interval = Field(description="1 to 5.")
    response_style: Interval = Field(description="1 to 5.")
    accuracy: Interval = Field(description="1 to 5.")
    total: Interval = Field(description="3 to 15.")
    questions: int | None = Field(default=None, description="Questions with a score, over which the means are.")


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
    human: Rubric | None = Field(default=None, description="Scores by people; null without any.")
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
    retries: int = Field(default=0, description="Requests made again after a failure that passes. They cost time only.")
    first_error: str | None = Field(default=None, description="The first failure's reason; null when there is none.")


class CriterionDifference(Record):
    """How far two models are apart in one criterion of the rubric."""

    criterion: Literal["domain_knowledge", "response_style", "accuracy"]
    difference: Interval = Field(description="Mean score of a minus b, points of the scale from 1 to 5.")
    p_value: float = Field(
        description="Two-sided exact Wilcoxon signed-rank test over questions, Holm-corrected over the three criteria."
    )


class Pair(Record):
    """Two models against each other, question by question."""

    a: str = Field(description="Label.")
    b: str = Field(description="Label.")
    judged_by: Literal["judge", "people", "similarity", "nothing"] = Field(
        description="judge: the answer that it preferred in both orders wins; people: the answer whose total "
        "is higher; similarity: the answer whose chrF with the reference is higher by at least 1 point."
    )
    questions: int = Field(description="Questions that both answered and that were judged.")
    wins: int = Field(description="Questions that a wins.")
    ties: int = Field(description="Questions without a winner.")
    losses: int = Field(description="Questions that b wins.")
    win_rate: Interval | None = Field(description="Share a wins, ties half, 0 to 1; null without judged questions.")
    difference: Interval | None = Field(
        default=None,
        description="Mean of a minus b. By a judge: of the three scores' mean, points from 1 to 5; by similarity: chrF "
        "points. Null without scores.",
    )
    p_value: float | None = Field(
        description="Two-sided, Holm-corrected over the pairs. By similarity: exact Wilcoxon signed-rank test over "
        "questions. By a judge: the smaller one of that test on the scores and of sign_p_value, doubled as they are "
        "two. Null as win_rate."
    )
    sign_p_value: float | None = Field(
        default=None, description="Two-sided exact sign test over wins and losses, not corrected; null as win_rate."
    )
    score_p_value: float | None = Field(
        default=None,
        description="By a judge: two-sided exact Wilcoxon signed-rank test on the mean of the three scores, not "
        "corrected.",
    )
    criteria: list[CriterionDifference] | None = Field(
        default=None, description="By a judge: each criterion; null without scores."
    )
    smallest_visible: float | None = Field(
        default=None,
        description="Difference, in the points of `difference`, that this many questions would show in 4 cases of 5.",
    )
    position_consistency: float | None = Field(
        description="Share of the comparisons in which the judge preferred the same answer in both orders, 0 to 1; "
        "null without a judge."
    )
    position_bias: Literal["first", "second"] | None = Field(
        default=None, description="The place that the judge clearly prefers in this pair; null where it does not."
    )


class Verdict(Record):
    """Whether the candidate is better than the baseline."""

    answer: Literal["better", "worse", "no_evidence"] = Field(description="The verdict, at the 5 % level.")
    why: str = Field(description="The figures it rests on, and what they rest on.")
    candidate: str = Field(description="Label of the model the verdict is about.")
    baseline: str = Field(description="Label of the model it is compared with.")
    rests_on: Literal["judge", "people", "similarity", "nothing"] = Field(
        default="similarity", description="What decided: a judge, people, the likeness to the references, or nothing."
    )


Advice = Literal["fine_tune", "fine_tune_and_retrieve", "retrieve", "prompt", "neither", "measure_more"]


class WorthIt(BaseModel):
    """Was fine-tuning worth it?"""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    answer: Literal["yes", "no", "unclear"] = Field(description="From the figures of this comparison alone.")
    in_favour: list[str] = Field(alias="for", description="What speaks for fine-tuning here.")
    against: list[str] = Field(description="What speaks against it, or for retrieval or prompting instead.")
    advice: Advice | None = Field(default=None, description="Fine-tune, retrieve (RAG), prompt, or none of them.")
    in_one_line: str = Field(default="", description="Both in one sentence.")
    cost: list[str] = Field(default_factory=list, description="Rows, time, tokens; money at prices the user stated.")


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


class JudgeTokens(Record):
    """Tokens of all requests to a judge, those of unusable replies included."""

    prompt: int = Field(description="Sent.")
    completion: int = Field(description="Received.")
    estimated: int = Field(default=0, description="Replies whose tokens nobody counted: 4 bytes a token for them.")


class JudgeInfo(Record):
    """The model that judged."""

    model: str = Field(description="Its reference, or its name at base_url.")
    base_url: str | None = Field(description="Its address; null for one that is served here.")
    asked: int = Field(description="Judgements wanted: a score for each answer, two orders for each two answers.")
    failed: int = Field(description="Judgements that never came; nothing is counted for them.")
    requests: int = Field(default=0, description="Requests made, repeated ones included.")
    tokens: JudgeTokens | None = Field(description="Null when nothing was asked.")
    position_consistency: float | None = Field(
        description="Over all pairs: share in which the same answer was preferred in both orders, 0 to 1."
    )
    same_scores_note: str | None = Field(
        default=None, description="Why its scores say little, where every answer got the same."
    )
    first_failure: str | None = Field(default=None, description="Why the first failed judgement did; null if none.")


class Agreement(Record):
    """How far two agree who scored the same answers, each by three whole numbers from 1 to 5."""

    pairs: int = Field(description="Answers that both scored; an answer that two people scored counts twice.")
    exact: float = Field(description="Share of the scores, three an answer, that are equal, 0 to 1.")
    within_one: float = Field(description="Share of the scores that are at most 1 apart, 0 to 1.")
    difference: float = Field(description="Mean of the first one's scores (the judge's) minus the other's, points.")
    weighted_kappa: float | None = Field(
        description="Cohen's kappa with quadratic weights, over all scores: 0 as by chance, 1 always equal. Null under "
        "10 answers, or where nothing varies."
    )
    rank_correlation: float | None = Field(
        description="Spearman's, of the totals: -1 to 1. Null under 10 answers, or where one always gave the same."
    )


class HumanInfo(Record):
    """What people say, who scored answers by hand."""

    scored: int = Field(description="Answers with a score.")
    questions: int = Field(description="Questions with a scored answer.")
    people: int = Field(default=1, description="People, by the names they gave; all without a name count as one.")
    blind: int = Field(default=0, description="Scored answers whose model was hidden from everybody who scored them.")
    last_at: str = Field(description="When the newest score was recorded, ISO 8601, UTC.")
    agreement: Agreement | None = Field(description="The judge and people. Null without a judge.")
    between_people: Agreement | None = Field(default=None, description="Every two people. Null where one scored alone.")
    pairs: list[Pair] = Field(default_factory=list, description="Every two models, by the totals people gave.")
    verdict: Verdict | None = Field(default=None, description="By people alone; null where they scored no pair.")
    otherwise: Verdict | None = Field(default=None, description="The verdict if people had scored nothing.")
    decides: bool = Field(default=False, description="Whether the comparison's verdict is the one by people.")


class Comparison(Record):
    """Models asked the same questions, with what can be concluded."""

    comparison_id: str = Field(description="cmp_ and 12 characters.")
    created_at: str = Field(description="ISO 8601, UTC.")
    questions: int = Field(description="Questions each model was asked.")
    sampling: Sampling
    models: list[ModelScore] = Field(description="In the order given.")
    judge: JudgeInfo | None = Field(default=None, description="Null without a judge.")
    human: HumanInfo | None = Field(default=None, description="Null while nobody has scored by hand.")
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
