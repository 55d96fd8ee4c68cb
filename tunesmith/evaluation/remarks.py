"""What a reader must know to read a comparison's figures rightly."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.judge_scoring import POOR_CONSISTENCY
from tunesmith.evaluation.records import HeldOut, JudgeInfo, ModelScore, Pair, Question, Sampling
from tunesmith.evaluation.training_data import TrainingData


def about_material(
    contestants: Sequence[Contestant],
    questions: Sequence[Question],
    questions_there: int,
    sampling: Sampling,
    training: TrainingData,
    *,
    losses: Sequence[HeldOut],
    identities: Sequence[str],
) -> list[str]:
    """About what was asked, of whom, and how.

    Args:
        identities: of the contestants: equal where two references mean the same model.
        losses: where the held-out losses come from.
    """
    notes = []
    if questions_there > len(questions):
        held_out = "held-out rows" if questions and questions[0].row_id else "questions"
        notes.append(f"{len(questions)} of {questions_there} {held_out} were asked, drawn with seed {sampling.seed}.")
    without = sum(question.reference is None for question in questions)
    if without:
        notes.append(
            f"{without} of {len(questions)} questions have no reference; their likeness to one is not counted."
        )
    leaked = training.leaked(questions)
    if leaked:
        notes.append(
            f"{leaked} of {len(questions)} questions stand word for word in the training rows: on them a "
            "model trained here shows what it remembers, not what it learned."
        )
    if sampling.repetitions > 1 and sampling.temperature == 0:
        notes.append("At temperature 0 repetitions give the same answer over and over; they add no evidence.")
    if len({one.way for one in contestants}) > 1:
        notes.append("The models are run in different ways, so latency and tokens/s do not compare the models alone.")
    if sampling.temperature > 0 and any(one.reference.kind == "ollama" for one in contestants):
        notes.append("Ollama keeps its own top_k; the other models draw from all tokens.")
    if any(one.way == "gguf" and one.record for one in contestants) and losses:
        notes.append("Answers come from the quantised GGUF, held-out losses from the weights before quantisation.")
    if any(origin.source == "training_run" for origin in losses):
        notes.append("The held-out losses are the training run's own: it measured exactly these rows.")
    if min(len({one.identity for one in contestants}), len(set(identities))) < len(contestants):
        notes.append("One model stands under several labels: what differs between them is chance.")
    notes += [f"Dataset {identity}, which a model was trained on, is gone." for identity in training.missing]
    return notes


def about_failures(models: Sequence[ModelScore]) -> list[str]:
    """About requests that failed for good."""
    return [f"{score.label}: {score.errors} requests failed ({score.first_error})." for score in models if score.errors]


def about_judge(judge: JudgeInfo, cut: int, pairs: Sequence[Pair]) -> list[str]:
    """About how far the judge can be trusted.

    Args:
        cut: prompts in which a text was too long to be shown whole.
    """
    notes = []
    if judge.failed:
        notes.append(f"{judge.failed} of {judge.asked} judgements never came ({judge.first_failure}).")
    if cut:
        notes.append(f"In {cut} of {judge.asked} judgements a text was too long to be shown to the judge whole.")
    if judge.same_scores_note:
        notes.append(judge.same_scores_note)
    biased = [f"{pair.a} and {pair.b}" for pair in pairs if pair.position_bias]
    if biased:
        notes.append(
            f"The judge goes by places when it compares {', '.join(biased)}: its scores are not counted there."
        )
    elif judge.position_consistency is not None and judge.position_consistency < POOR_CONSISTENCY:
        notes.append(
            f"Shown the same two answers in both orders, the judge preferred the same one in only "
            f"{judge.position_consistency:.0%} of the cases; where it did not, nobody won."
        )
    return notes
