"""Was fine-tuning worth it? The tutorial's framework, answered with this comparison's own numbers.

Every rule names the figure it rests on. What the figures cannot know (does an answer have to name its source?) is said
as a condition, not as a finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tunesmith.evaluation.prices import HOW_TO_STATE, Prices
from tunesmith.evaluation.records import Advice, JudgeInfo, ModelScore, Pair, Verdict, WorthIt
from tunesmith.evaluation.statistics import LEVEL, mean_interval, signed_rank_test
from tunesmith.evaluation.worth_facts import AnswerFacts, Recall

FEW_ROWS = 100
USUAL_ROWS = 500
CLEAR_LOSS_GAIN = 0.1  # as a share of the base's loss
COPIED_MORE = 0.2  # as a share of the words
OFTEN_CUT = 0.5
FACTS_KNOWN = 0.6  # as a share of the references' numbers and codes
FEWEST_FIGURES = 10  # under this many, a share of them says nothing
OFTEN_CHANGED = 0.1  # as a share of the files
GOOD_ALREADY = 4.0  # of 5, by a judge or by people


@dataclass(frozen=True)
class Cost:
    """What the candidate cost, and what became of the notes it was trained on.

    Attributes:
        rows: training rows; None when it was not trained here.
        training_s: seconds of training; None when not known.
        device: cuda, cpu, …; None when not known.
        devices: processes that trained side by side, one a GPU.
        tokens: trained on, all passes; None when not known.
        files: distinct files of the notes; 0 when the rows name none.
        dated: of them, those named by a date or a day.
        changed: of them, those that have changed since; None when that cannot be seen.
    """

    rows: int | None
    training_s: float | None
    device: str | None = None
    devices: int = 1
    tokens: int | None = None
    files: int = 0
    dated: int = 0
    changed: int | None = None

    @property
    def gpu_hours(self) -> float | None:
        """Hours of one GPU; None when it was not trained on GPUs."""
        if self.training_s is None or self.device in (None, "cpu"):
            return None
        return self.training_s * self.devices / 3600


@dataclass
class _Case:
    """What is weighed, and what came of it so far."""

    verdict: Verdict
    candidate: ModelScore
    baseline: ModelScore
    cost: Cost
    facts: AnswerFacts
    gain: float | None
    in_favour: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)

    def recall(self, label: str) -> Recall | None:
        found = self.facts.recall.get(label)
        return found if found and found.of >= FEWEST_FIGURES else None

    @property
    def facts_missing(self) -> bool:
        found = self.recall(self.candidate.label)
        return found is not None and found.share < FACTS_KNOWN

    @property
    def changing(self) -> bool:
        return bool(self.cost.files and self.cost.changed and self.cost.changed / self.cost.files >= OFTEN_CHANGED)

    @property
    def citing(self) -> bool:
        return self.facts.asking_for_source > 0

    @property
    def base_is_good(self) -> bool:
        scores = self.baseline.human or self.baseline.rubric
        if scores is not None:
            return scores.total.mean / 3 >= GOOD_ALREADY
        found = self.recall(self.baseline.label)
        return found is not None and found.share >= FACTS_KNOWN


def judge_worth(
    verdict: Verdict,
    candidate: ModelScore,
    baseline: ModelScore,
    cost: Cost | None,
    *,
    models: Sequence[ModelScore] = (),
    pairs: Sequence[Pair] = (),
    judge: JudgeInfo | None = None,
    facts: AnswerFacts | None = None,
    prices: Prices | None = None,
) -> WorthIt:
    """Weigh the figures.

    Args:
        cost: of the candidate; None when it was not trained here, and then the question is left open.
        models, pairs: of the whole comparison, for references that stand beside the two.
        facts: measured on questions and answers.
        prices: stated by the user; default: those of the environment.
    """
    facts, prices = facts or AnswerFacts(), prices or Prices()
    bill = _bill(cost, models, judge, facts, prices)
    if cost is None:
        why = f"{verdict.candidate} was not trained here, so its cost is not known."
        return _worth("unclear", "measure_more", f"Open: {why}", ([], [why], bill))
    case = _Case(verdict, candidate, baseline, cost, facts, _loss_gain(candidate, baseline))
    _weigh_answers(case)
    _weigh_length(case)
    _weigh_loss(case)
    _weigh_rows(case)
    _weigh_habits(case)
    _weigh_facts(case)
    _weigh_notes(case)
    _weigh_references(case, models, pairs, prices)
    answer = _conclude(verdict, case.gain, cost)
    advice = _advise(case)
    lists = (case.in_favour, case.against, bill)
    return _worth(answer, advice, f"{answer.capitalize()}: {_ADVICE[advice]}", lists)


_ADVICE: dict[Advice, str] = {
    "fine_tune": "fine-tuning helped; keep the tuned model.",
    "fine_tune_and_retrieve": "fine-tuning helped, but for facts, sources and what is new put retrieval beside it.",
    "retrieve": "what is missing are facts, and retrieval (RAG) brings those; training did not.",
    "prompt": "with so few rows, put examples into the prompt instead.",
    "neither": "the model as it was answers well enough; it needs neither training nor retrieval.",
    "measure_more": "these figures do not decide it; ask more questions, or let a judge or people score.",
}


def _worth(answer: str, advice: Advice, line: str, lists: tuple[list[str], list[str], list[str]]) -> WorthIt:
    in_favour, against, cost = lists
    content = {"answer": answer, "advice": advice, "in_one_line": line, "for": in_favour, "against": against}
    return WorthIt.model_validate({**content, "cost": cost})


def _conclude(verdict: Verdict, gain: float | None, cost: Cost) -> str:
    if verdict.answer == "worse":
        return "no"
    if verdict.answer == "better":
        return "yes"
    enough = cost.rows is None or cost.rows >= FEW_ROWS
    return "unclear" if enough or (gain or 0) >= CLEAR_LOSS_GAIN else "no"


def _advise(case: _Case) -> Advice:
    """Fine-tune, retrieve, prompt, or leave it: the tutorial's last question."""
    few = case.cost.rows is not None and case.cost.rows < FEW_ROWS
    if case.verdict.answer == "better":
        return "fine_tune_and_retrieve" if case.facts_missing or case.changing or case.citing else "fine_tune"
    if case.base_is_good:
        return "neither"
    if few:
        return "prompt"
    if case.facts_missing or case.changing or case.citing:
        return "retrieve"
    return "neither" if case.verdict.answer == "worse" else "measure_more"


def _weigh_answers(case: _Case) -> None:
    verdict = case.verdict
    better = "are better than" if verdict.rests_on != "similarity" else "are closer to the references than"
    worse = "are worse than" if verdict.rests_on != "similarity" else "are further from the references than"
    if verdict.answer == "better":
        case.in_favour.append(f"The answers of {verdict.candidate} {better} those of {verdict.baseline}.")
    elif verdict.answer == "worse":
        case.against.append(f"The answers of {verdict.candidate} {worse} those of {verdict.baseline}.")
    else:
        case.against.append(f"There is no evidence that {verdict.candidate} answers better than {verdict.baseline}.")
        if case.base_is_good:
            case.against.append(f"{verdict.baseline} answers well already, so little was to be gained.")


def _weigh_length(case: _Case) -> None:
    """chrF forgives long answers; ROUGE-L counts each word too many. Where they disagree, both are told."""
    verdict, rouge = case.verdict, case.facts.rouge
    ours, theirs = rouge.get(verdict.candidate, {}), rouge.get(verdict.baseline, {})
    both = sorted(ours.keys() & theirs.keys())
    if verdict.rests_on != "similarity" or verdict.answer != "no_evidence" or not both:
        return
    apart = [ours[number] - theirs[number] for number in both]
    p_value, spread = signed_rank_test(apart), mean_interval(apart, seed=0)
    if p_value >= LEVEL / 2 or spread.low <= 0 <= spread.high:  # the second measure that is looked at
        return
    told = (
        f"By ROUGE-L, which counts words too many against an answer where chrF hardly does, {verdict.candidate} is "
        f"{'closer to' if spread.mean > 0 else 'further from'} the references: {spread.mean:+.2f} (95 % interval "
        f"{spread.low:+.2f} to {spread.high:+.2f}, {'p < 0.001' if p_value < 0.001 else f'p = {p_value:.2g}'})."
    )
    (case.in_favour if spread.mean > 0 else case.against).append(told)


def _loss_gain(candidate: ModelScore, baseline: ModelScore) -> float | None:
    """By which share the held-out loss is lower than the baseline's, where both read the same rows."""
    ours, theirs = candidate.heldout, baseline.heldout
    if ours is None or theirs is None or candidate.heldout_loss is None or not baseline.heldout_loss:
        return None
    if (ours.rows, ours.tokens, ours.prompt_format_sha256) != (theirs.rows, theirs.tokens, theirs.prompt_format_sha256):
        return None
    return 1 - candidate.heldout_loss / baseline.heldout_loss


def _weigh_loss(case: _Case) -> None:
    gain = case.gain
    if gain is None:
        return
    if gain >= CLEAR_LOSS_GAIN:
        case.in_favour.append(
            f"On rows it never saw its loss is {gain:.0%} lower: it learned the notes' language and manner."
        )
    elif gain > 0:
        case.against.append(f"On rows it never saw its loss is only {gain:.0%} lower.")
    else:
        case.against.append(f"On rows it never saw its loss is {-gain:.0%} higher.")


def _weigh_rows(case: _Case) -> None:
    cost = case.cost
    if cost.training_s is not None:
        case.in_favour.append(f"Training took {_duration(cost.training_s)} and costs nothing when answering.")
    if cost.rows is None:
        return
    if cost.rows < FEW_ROWS:
        case.against.append(
            f"{cost.rows} training rows are few: under {FEW_ROWS}, examples in the prompt usually do better."
        )
    elif cost.rows < USUAL_ROWS:
        case.against.append(f"{cost.rows} training rows teach a style; for facts, {USUAL_ROWS} or more are usual.")
    else:
        case.in_favour.append(f"{cost.rows} training rows are enough to learn from.")


def _weigh_habits(case: _Case) -> None:
    candidate, baseline = case.candidate, case.baseline
    if candidate.stop_rate is not None and baseline.stop_rate is not None:
        if candidate.stop_rate > baseline.stop_rate + 0.1:
            case.in_favour.append(
                f"It ends its answers by itself more often ({candidate.stop_rate:.0%}, not {baseline.stop_rate:.0%})."
            )
        elif candidate.stop_rate < OFTEN_CUT:
            case.against.append(f"It ends only {candidate.stop_rate:.0%} of its answers by itself.")
    if candidate.memorised_share is not None and baseline.memorised_share is not None:
        more = candidate.memorised_share - baseline.memorised_share
        if more > COPIED_MORE:
            case.against.append(
                f"{candidate.memorised_share:.0%} of its words are long quotations of training answers "
                f"({baseline.memorised_share:.0%} for {baseline.label}): part of the gain may be recitation."
            )


def _weigh_facts(case: _Case) -> None:
    """Manner is learned before facts: the references' numbers and codes show which of them was."""
    ours, theirs = case.recall(case.candidate.label), case.recall(case.baseline.label)
    if ours is None:
        return
    beside = f" ({case.baseline.label}: {theirs.right})" if theirs else ""
    told = f"Of the {ours.of} numbers and codes in the references its answers hold {ours.right}{beside}"
    if ours.share < FACTS_KNOWN:
        case.against.append(f"{told}: it does not know the facts. Retrieval would put them before it.")
    else:
        case.in_favour.append(f"{told}: it knows the facts.")


def _weigh_notes(case: _Case) -> None:
    """Knowledge that changes often, and answers that must name their source."""
    cost, facts = case.cost, case.facts
    if cost.changed:
        case.against.append(
            f"{cost.changed} of the {cost.files} files it was trained on have changed since: what changes often is "
            "better retrieved than trained."
        )
    elif cost.changed == 0:
        case.in_favour.append(f"None of the {cost.files} files it was trained on has changed since.")
    if cost.dated and cost.dated * 2 >= cost.files:
        case.against.append(
            f"{cost.dated} of {cost.files} files are named by day or date: if such notes go on, a trained model falls "
            "behind with each of them, and retrieval does not."
        )
    if facts.asking_for_source:
        case.against.append(
            f"{facts.asking_for_source} of {facts.questions} questions ask for a source: a trained model cannot tell "
            "where it has something from; retrieval can."
        )
    else:
        case.against.append("If answers must name their source, retrieval is needed: a trained model cannot tell it.")


def _weigh_references(case: _Case, models: Sequence[ModelScore], pairs: Sequence[Pair], prices: Prices) -> None:
    """A model behind an endpoint that answers better than the trained one, and what it costs to stay with it."""
    ours = case.verdict.candidate
    for score in models:
        if score.label in (ours, case.verdict.baseline) or not score.model.startswith("openai:"):
            continue
        pair = next((one for one in pairs if {one.a, one.b} == {ours, score.label}), None)
        if pair is None or pair.p_value is None or pair.win_rate is None:
            continue
        rate = 1 - pair.win_rate.mean if pair.a == ours else pair.win_rate.mean
        if pair.p_value < 0.05 and rate > 0.5:
            case.against.append(
                f"{score.label} answers better than {ours} (it wins {rate:.0%}, p = {pair.p_value:.2g}): if its price "
                "is acceptable, it needs no training."
            )
        elif pair.p_value < 0.05:
            case.in_favour.append(f"{ours} answers better than {score.label} (it wins {1 - rate:.0%}).")
        _break_even(case, score, prices)


def _break_even(case: _Case, score: ModelScore, prices: Prices) -> None:
    training = prices.of_training(case.cost.gpu_hours)
    tokens = case.facts.tokens.get(score.label)
    each = prices.of_tokens(_name(score.model), *tokens) if tokens and score.answered else None
    if training and each:
        case.in_favour.append(
            f"Training cost as much as {training / (each / score.answered):,.0f} answers of {score.label}, at the "
            "prices stated; what running the tuned model costs is not counted."
        )


def _bill(
    cost: Cost | None, models: Sequence[ModelScore], judge: JudgeInfo | None, facts: AnswerFacts, prices: Prices
) -> list[str]:
    """What training and measuring took: rows, time, tokens, and money where a price is stated."""
    lines: list[str] = []
    sums: list[float] = []
    unpriced = False

    def with_money(text: str, value: float | None) -> None:
        nonlocal unpriced
        if value is None:
            unpriced = True
            lines.append(f"{text}.")
        else:
            sums.append(value)
            lines.append(f"{text}: {prices.money(value)}.")

    if cost is not None:
        rows = f"{cost.rows:,} training rows" if cost.rows is not None else "An unknown number of training rows"
        files = f" from {cost.files} file{'s' * (cost.files != 1)}" if cost.files else ""
        tokens = f", {cost.tokens:,} tokens in all passes" if cost.tokens else ""
        lines.append(f"{rows}{files}{tokens}.")
        if cost.gpu_hours is not None:
            many = f" on each of {cost.devices} GPUs" if cost.devices > 1 else " on one GPU"
            with_money(f"Training: {_duration(cost.training_s or 0)}{many}", prices.of_training(cost.gpu_hours))
        elif cost.training_s is not None:
            lines.append(f"Training: {_duration(cost.training_s)} on the processor, no GPU.")
    for score in models:
        if score.model.startswith("openai:") and (used := facts.tokens.get(score.label)) and score.answered:
            text = f"Answers of {score.label}: about {used[0]:,} tokens sent and {used[1]:,} received"
            with_money(text, prices.of_tokens(_name(score.model), *used))
    if judge is not None and judge.tokens is not None:
        used = judge.tokens
        text = f"Judge: {judge.requests:,} requests, {used.prompt:,} tokens sent and {used.completion:,} received"
        with_money(text, prices.of_tokens(_name(judge.model), used.prompt, used.completion))
    if len(sums) > 1:
        lines.append(f"Together {prices.money(sum(sums))}{' and what has no price here' * unpriced}.")
    if unpriced and not sums:
        lines.append(HOW_TO_STATE)
    return lines


def _name(model: str) -> str:
    """A model's name at its endpoint: what a price is stated for."""
    return model.removeprefix("openai:").rpartition("@")[0] or model.removeprefix("openai:")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
