from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tunesmith.errors import CheckFailed
from tunesmith.export.quality import Reference, TokenRow, compare_in_part, compare_rows, judge, judge_merge
from tunesmith.export.records import Divergence

VOCABULARY = 50
ROWS = [TokenRow(ids=[1, 2, 3, 4, 5], positions=[1, 2, 3]), TokenRow(ids=[6, 7, 8], positions=[1])]


class Model:
    """Logits that depend on the position and the tokens before it, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, ids: list[int], positions: list[int]) -> Iterator[np.ndarray]:
        for position in positions:
            seed = np.random.default_rng(ids[: position + 1])
            yield (seed.normal(size=VOCABULARY) * 3 * self.factor).astype(np.float32)


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum()


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    found = compare_rows(Reference.record(tmp_path / "r", ROWS, Model()), Model())
    assert found.mean_kld < 1e-5
    assert found.same_top_token == 1.0
    assert found.perplexity_ratio == pytest.approx(1.0, abs=1e-4)
    assert found.positions == 4


def test_figures_are_those_of_the_definition(tmp_path: Path) -> None:
    Reference.record(tmp_path / "r", ROWS, Model())
    found = compare_rows(Reference.load(tmp_path / "r"), Model(0.5))
    divergences, losses = [], []
    for row in ROWS:
        pairs = zip(row.positions, Model()(row.ids, row.positions), Model(0.5)(row.ids, row.positions), strict=True)
        for position, ours, theirs in pairs:
            p, q = probabilities(ours), probabilities(theirs)
            divergences.append(float((p * np.log(p / q)).sum()))
            losses.append(math.log(p[row.ids[position + 1]] / q[row.ids[position + 1]]))
    assert found.mean_kld == pytest.approx(np.mean(divergences), rel=1e-3)
    assert found.p99_kld == pytest.approx(np.percentile(divergences, 99), rel=1e-3)
    assert found.perplexity_ratio == pytest.approx(math.exp(np.mean(losses)), rel=1e-3)
    assert found.same_top_token == 1.0


def test_the_first_rows_alone_can_be_compared(tmp_path: Path) -> None:
    reference = Reference.record(tmp_path / "r", ROWS, Model())
    whole, first = compare_in_part(reference, Model(0.5), 2)
    assert whole == compare_rows(reference, Model(0.5))
    part, again = compare_in_part(reference, Model(0.5), 2, only=True)
    assert part.positions == 3
    assert first == again == part.mean_kld


def test_weights_that_give_no_numbers_are_refused(tmp_path: Path) -> None:
    reference = Reference.record(tmp_path / "r", ROWS, Model())
    with pytest.raises(CheckFailed, match="not numbers"):
        compare_rows(reference, Model(float("nan")))


def test_a_broken_file_fails_with_its_figures() -> None:
    broken = Divergence(mean_kld=4.25, p99_kld=9.0, same_top_token=0.031, perplexity_ratio=88.0, positions=700)
    with pytest.raises(CheckFailed) as caught:
        judge("q4_k_m", broken)
    for figure in ("4.25", "3.1%", "88", "700"):
        assert figure in caught.value.message
    with pytest.raises(CheckFailed, match=r"4\.25"):
        judge_merge(broken)


def test_a_good_file_passes() -> None:
    fine = Divergence(mean_kld=0.05, p99_kld=0.4, same_top_token=0.93, perplexity_ratio=1.03, positions=700)
    judge("q4_k_m", fine)
    with pytest.raises(CheckFailed):
        judge("f16", fine)
