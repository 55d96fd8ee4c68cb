"""How much a coarser copy of a model differs from it, measured on answers it was not trained on.

The reference is recorded once: for every position that predicts a token of an
answer, the log-probabilities of the whole vocabulary. Each candidate then reads
the same tokens and is compared position by position:

    KL(reference, candidate) = sum over the vocabulary of p_ref (log p_ref - log p_cand)

Seen with the embedded 135M model: f16 4e-6, q8_0 0.003, q5_k_m 0.17 nats without an importance matrix; its rows are no
multiple of 256, so the k-quants fall back to older types. Larger models lose less. Shuffled or zeroed weights give
several nats. The limits in `quantizations.py` lie far above what was seen, so that only a broken file fails.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import CheckFailed
from tunesmith.export.quantizations import QUANTIZATIONS
from tunesmith.export.records import Divergence

if TYPE_CHECKING:
    import numpy as np

ROWS_FILE, LOGPROBS_FILE = "rows.json", "logprobs.f32"
# Merging rounds the weights to the precision they are stored in; more than that is a wrong merge.
WORST_MERGE_KLD = 0.02

BLOCK = 32  # positions compared at once: of a vocabulary of 150,000, 20 MB each array

Evaluate = Callable[[list[int], list[int]], Iterable[Any]]


@dataclass(frozen=True)
class TokenRow:
    """One conversation as tokens.

    Attributes:
        ids: the whole conversation.
        positions: the positions whose next token belongs to an answer, ascending; never the last one.
    """

    ids: list[int]
    positions: list[int]


class Reference:
    """Distributions recorded in a folder: rows.json, and logprobs.f32 of shape (positions, vocabulary).

    Half precision would do for a file of 8 bits and fewer; of an f16 file, it is most of what would be measured.
    """

    def __init__(self, folder: Path, rows: list[TokenRow], vocabulary: int, nll: list[float], top: list[int]) -> None:
        self.folder, self.rows, self.vocabulary, self.nll, self.top = folder, rows, vocabulary, nll, top

    @staticmethod
    def record(folder: Path, rows: Iterable[TokenRow], evaluate: Evaluate) -> Reference:
        """Write what `evaluate` gives for `rows` (at least one) into the new folder."""
        folder.mkdir()
        seen: list[TokenRow] = []
        nll: list[float] = []
        top: list[int] = []
        vocabulary = 0
        with (folder / LOGPROBS_FILE).open("xb") as file:
            for row in rows:
                seen.append(row)
                for position, logits in zip(row.positions, evaluate(row.ids, row.positions), strict=True):
                    logprobs = log_softmax(logits)
                    vocabulary = len(logprobs)
                    nll.append(-float(logprobs[row.ids[position + 1]]))
                    top.append(int(logprobs.argmax()))
                    file.write(logprobs.astype("<f4").tobytes())
        facts = {"rows": [asdict(row) for row in seen], "vocabulary": vocabulary, "nll": nll, "top": top}
        (folder / ROWS_FILE).write_text(json.dumps(facts), encoding="utf-8")
        return Reference(folder, seen, vocabulary, nll, top)

    @staticmethod
    def load(folder: Path) -> Reference:
        """Read what `record` wrote."""
        facts = json.loads((folder / ROWS_FILE).read_text(encoding="utf-8"))
        rows = [TokenRow(**row) for row in facts["rows"]]
        return Reference(folder, rows, facts["vocabulary"], facts["nll"], facts["top"])

    def logprobs(self) -> Iterator[np.ndarray]:
        """Float32 arrays of shape (vocabulary,), one a position."""
        import numpy as np

        with (self.folder / LOGPROBS_FILE).open("rb") as file:
            while data := file.read(4 * self.vocabulary):
                yield np.frombuffer(data, dtype="<f4")


def compare_rows(reference: Reference, evaluate: Evaluate) -> Divergence:
    """The divergence of the model behind `evaluate` from `reference`. Raises as `compare_in_part`."""
    return compare_in_part(reference, evaluate, 1)[0]


def compare_in_part(
    reference: Reference, evaluate: Evaluate, part: int, *, only: bool = False
) -> tuple[Divergence, float]:
    """As `compare_rows`, with the mean divergence over the first rows alone: those up to a share of the positions.

    Args:
        part: the share is one over this.
        only: read no further than that; the figures are of those rows then.

    Raises:
        CheckFailed: the candidate gives something that is not a number.
    """
    import numpy as np

    recorded, number = reference.logprobs(), 0
    divergences, losses, same, first = [], [], 0, 0
    enough = len(reference.nll) / part
    for row in reference.rows:
        if number < enough:
            first = number + len(row.positions)
        elif only:
            break
        logits = iter(evaluate(row.ids, row.positions))
        for positions in _in_blocks(row.positions):
            expected = np.stack([next(recorded) for _ in positions])
            candidate = np.stack([next(logits) for _ in positions])
            # A file may pad the vocabulary; tokens that only one side has are never predicted.
            size = min(expected.shape[1], candidate.shape[1])
            candidate = log_softmax(candidate[:, :size])
            divergences += kl_divergence(expected[:, :size], candidate).tolist()
            wanted = [row.ids[position + 1] for position in positions]
            losses += (-candidate[range(len(wanted)), wanted]).tolist()
            same += int((candidate.argmax(axis=1) == reference.top[number : number + len(wanted)]).sum())
            number += len(wanted)
    if not np.isfinite(divergences).all() or not np.isfinite(losses).all():
        raise CheckFailed(
            "The file predicts values that are not numbers (NaN or infinity): its weights are damaged.",
            next="Check the training run with diagnose_run; if its loss is sound, export again.",
        )
    divergence = Divergence(
        mean_kld=_rounded(np.mean(divergences)),
        p99_kld=_rounded(np.percentile(divergences, 99)),
        same_top_token=round(same / number, 5),
        perplexity_ratio=round(math.exp(float(np.mean(losses)) - float(np.mean(reference.nll[:number]))), 6),
        positions=number,
    )
    return divergence, _rounded(np.mean(divergences[:first]))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, float32 of shape (…, vocabulary), of logits of that shape."""
    import numpy as np

    logits = np.asarray(logits, dtype=np.float32)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)


def kl_divergence(expected: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """KL(expected, candidate) in nats by position, of two arrays of log-probabilities, shape (…, vocabulary)."""
    import numpy as np

    probability = np.exp(expected)
    with np.errstate(invalid="ignore"):
        terms = probability * (expected - candidate)
    # Where the reference gives no probability at all, 0 x (-inf) is 0, not NaN.
    terms[probability == 0] = 0.0
    return np.maximum(0.0, terms.sum(axis=-1, dtype=np.float64))


def _in_blocks(positions: list[int]) -> Iterator[list[int]]:
    return (positions[start : start + BLOCK] for start in range(0, len(positions), BLOCK))


def judge(quantization: str, divergence: Divergence) -> None:
    """Refuse a file that is not a coarser copy of the model but a broken one.

    Raises:
        CheckFailed: with the figures.
    """
    limit = QUANTIZATIONS[quantization].worst_kld
    if not divergence.mean_kld <= limit:
        raise CheckFailed(
            f"The {quantization} file is too far from the model: mean KL divergence {divergence.mean_kld:.4g} nats "
            f"(at most {limit} is expected), 99th percentile {divergence.p99_kld:.4g}, same top token "
            f"{divergence.same_top_token:.1%}, perplexity ratio {divergence.perplexity_ratio:.4g} over "
            f"{divergence.positions} positions. No file was handed out.",
            next="Try a finer quantization such as q8_0. If that fails too, the conversion is at fault: "
            "look at the run's log.",
        )


def judge_merge(divergence: Divergence) -> None:
    """Refuse merged weights that do not answer as base plus adapter does.

    Raises:
        CheckFailed: with the figures.
    """
    if not divergence.mean_kld <= WORST_MERGE_KLD:
        raise CheckFailed(
            f"The merged weights do not behave as the adapter does: mean KL divergence {divergence.mean_kld:.4g} nats "
            f"(at most {WORST_MERGE_KLD} is expected), same top token {divergence.same_top_token:.1%} over "
            f"{divergence.positions} positions. Nothing was handed out.",
            next="Check that base_model is the model the adapter was trained on, in 16 or 32 bits.",
        )


def _rounded(value: Any) -> float:
    return float(f"{float(value):.4g}")
