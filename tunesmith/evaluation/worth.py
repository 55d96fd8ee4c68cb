"""Was fine-tuning worth it? The tutorial's framework, answered with this comparison's own numbers."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.evaluation.records import ModelScore, Verdict, WorthIt

FEW_ROWS = 100
USUAL_ROWS = 500
CLEAR_LOSS_GAIN = 0.1  # as a share of the base's loss
COPIED_MORE = 0.2  # as a share of the words
OFTEN_CUT = 0.5


@dataclass(frozen=True)
class Cost:
    """What the candidate cost.

    Attributes:
        rows: training rows; None when it was not trained here.
        training_s: seconds of training; None when not known.
    """

    rows: int | None
    training_s: float | None


def judge_worth(verdict: Verdict, candidate: ModelScore, baseline: ModelScore, cost: Cost | None) -> WorthIt:
    """Weigh the figures.

    Args:
        cost: of the candidate; None when it was not trained here, and then the question is left open.
    """
    if cost is None:
        return _worth("unclear", [], [f"{verdict.candidate} was not trained here, so its cost is not known."])
    gain = _loss_gain(candidate, baseline)
    in_favour, against = _answers(verdict)
    _weigh_loss(gain, in_favour, against)
    _weigh_rows(cost, in_favour, against)
    _weigh_habits(candidate, baseline, in_favour, against)
    against.append(
        "Knowledge that changes often, or answers that must name their source, are better served by retrieval; "
        "these figures cannot tell whether that is your case."
    )
    return _worth(_conclude(verdict, gain, cost), in_favour, against)


def _worth(answer: str, in_favour: list[str], against: list[str]) -> WorthIt:
    return WorthIt.model_validate({"answer": answer, "for": in_favour, "against": against})


def _conclude(verdict: Verdict, gain: float | None, cost: Cost) -> str:
    if verdict.answer == "worse":
        return "no"
    if verdict.answer == "better":
        return "yes"
    enough = cost.rows is None or cost.rows >= FEW_ROWS
    return "unclear" if enough or (gain or 0) >= CLEAR_LOSS_GAIN else "no"


def _answers(verdict: Verdict) -> tuple[list[str], list[str]]:
    if verdict.answer == "better":
        return [
            f"The answers of {verdict.candidate} are closer to the references than those of {verdict.baseline}."
        ], []
    if verdict.answer == "worse":
        return [], [
            f"The answers of {verdict.candidate} are further from the references than those of {verdict.baseline}."
        ]
    return [], [f"There is no evidence that {verdict.candidate} answers better than {verdict.baseline}."]


def _loss_gain(candidate: ModelScore, baseline: ModelScore) -> float | None:
    """By which share the held-out loss is lower than the baseline's, where both read the same rows."""
    ours, theirs = candidate.heldout, baseline.heldout
    if ours is None or theirs is None or candidate.heldout_loss is None or not baseline.heldout_loss:
        return None
    if (ours.rows, ours.tokens, ours.prompt_format_sha256) != (theirs.rows, theirs.tokens, theirs.prompt_format_sha256):
        return None
    return 1 - candidate.heldout_loss / baseline.heldout_loss


def _weigh_loss(gain: float | None, in_favour: list[str], against: list[str]) -> None:
    if gain is None:
        return
    if gain >= CLEAR_LOSS_GAIN:
        in_favour.append(
            f"On rows it never saw its loss is {gain:.0%} lower: it learned the notes' language and manner."
        )
    elif gain > 0:
        against.append(f"On rows it never saw its loss is only {gain:.0%} lower.")
    else:
        against.append(f"On rows it never saw its loss is {-gain:.0%} higher.")


def _weigh_rows(cost: Cost, in_favour: list[str], against: list[str]) -> None:
    if cost.training_s is not None:
        in_favour.append(f"Training took {_duration(cost.training_s)} and costs nothing when answering.")
    if cost.rows is None:
        return
    if cost.rows < FEW_ROWS:
        against.append(
            f"{cost.rows} training rows are few: under {FEW_ROWS}, examples in the prompt usually do better."
        )
    elif cost.rows < USUAL_ROWS:
        against.append(f"{cost.rows} training rows teach a style; for facts, {USUAL_ROWS} or more are usual.")
    else:
        in_favour.append(f"{cost.rows} training rows are enough to learn from.")


def _weigh_habits(candidate: ModelScore, baseline: ModelScore, in_favour: list[str], against: list[str]) -> None:
    if candidate.stop_rate is not None and baseline.stop_rate is not None:
        if candidate.stop_rate > baseline.stop_rate + 0.1:
            in_favour.append(
                f"It ends its answers by itself more often ({candidate.stop_rate:.0%}, not {baseline.stop_rate:.0%})."
            )
        elif candidate.stop_rate < OFTEN_CUT:
            against.append(f"It ends only {candidate.stop_rate:.0%} of its answers by itself.")
    if candidate.memorised_share is not None and baseline.memorised_share is not None:
        more = candidate.memorised_share - baseline.memorised_share
        if more > COPIED_MORE:
            against.append(
                f"{candidate.memorised_share:.0%} of its words are long quotations of training answers "
                f"({baseline.memorised_share:.0%} for {baseline.label}): part of the gain may be recitation."
            )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
