"""How often a comparison with a judge errs, and how often it finds what is there.

    python benchmarks/evaluation/verdicts.py [--comparisons 200] [--planted 100] [--simulated 1000]

Whole comparisons through the `compare` worker's own code, over real sockets: two models and a judge, all scripted, 20
questions each. Every answer holds a hidden quality that only the judge's script reads.

- A/A: the same model twice at a temperature, so that its answers scatter; a comparison that says "better" errs.
- Planted: the second model is 0.7 points better in every criterion.
- First: the judge prefers whatever stands first, but for the clearest cases.

After that the same by simulation, without sockets, for more draws and other scatters: questions of differing
difficulty, answers that scatter from draw to draw, scores that scatter for each criterion. `scatter` is the standard
deviation of one criterion's difference between the two models on one question, in points. The last lines are JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics as plain
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.endpoint_double import EndpointDouble, Said
from tests.evaluation.judge_double import judge
from tunesmith.evaluation.comparing import Comparing
from tunesmith.evaluation.judge_scoring import judged_pairs, scores_by_question
from tunesmith.evaluation.judgements import JudgedAnswer, JudgedPair
from tunesmith.evaluation.records import Comparison
from tunesmith.evaluation.verdicts import reach_verdict
from tunesmith.work import Work, run_by_hand
from tunesmith.workspace import Workspace

QUESTIONS = 20
GAP = 0.7
DIFFICULTY = 0.6  # scatter of questions, points
ANSWERS, SCORES, TASTE = 0.5, 0.5, 0.5  # scatter of answers, of a criterion's score, of a comparison
TIE = 0.2


class Model:
    """Answers whose quality scatters from request to request."""

    def __init__(self, level: float, draw: random.Random, hard: dict[int, float]) -> None:
        self._level, self._draw, self._hard = level, draw, hard
        self._lock = threading.Lock()

    def __call__(self, request: dict[str, Any]) -> Said:
        number = int(request["messages"][-1]["content"].split()[-1].rstrip("?"))
        with self._lock:
            value = self._level + self._hard[number] + self._draw.gauss(0, ANSWERS)
        return Said(f"It holds the lid. q={value:.4f}")


def one_comparison(workspace: Workspace, seed: int, gap: float, script: Callable[[dict[str, Any]], Said]) -> Comparison:
    """A comparison of two scripted models, the second better by `gap`."""
    draw = random.Random(seed)
    hard = {number: draw.gauss(0, DIFFICULTY) for number in range(1, QUESTIONS + 1)}
    first, second = Model(3.0, random.Random(seed * 2), hard), Model(3.0 + gap, random.Random(seed * 2 + 1), hard)
    with EndpointDouble(first) as a, EndpointDouble(second) as b, EndpointDouble(script) as bench:
        args = {
            "models": [
                {"label": "base", "model": f"openai:base@{a.url}"},
                {"label": "tuned", "model": f"openai:tuned@{b.url}"},
            ],
            "questions": [{"question": f"What is part {number}?"} for number in hard],
            "judge": {"model": "judge", "base_url": bench.url},
            "temperature": 0.7,
            "seed": seed,
        }
        return Comparing(Work(run_by_hand(workspace, "compare", args))).run()


def rates(found: list[str]) -> dict[str, float]:
    counted = Counter(found)
    return {name: round(counted[name] / len(found), 4) for name in ("better", "worse", "no_evidence")}


def over_sockets(name: str, count: int, gap: float, script: Callable[[int], Callable[[dict[str, Any]], Said]]) -> None:
    began = time.monotonic()
    verdicts, consistency, decided = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "workspace", [Path(folder)])
        for seed in range(1, count + 1):
            made = one_comparison(workspace, seed, gap, script(seed))
            verdicts.append(made.verdict.answer)
            consistency.append(made.pairs[0].position_consistency or 0.0)
            decided.append(made.pairs[0].wins + made.pairs[0].losses)
            print(f"{name} {seed}/{count}: {made.verdict.answer}", file=sys.stderr)
    record = {
        "measured": name,
        "comparisons": count,
        "questions": QUESTIONS,
        "gap": gap,
        **rates(verdicts),
        "position_consistency": round(plain.mean(consistency), 3),
        "questions_with_a_winner": round(plain.mean(decided), 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    RESULTS.append(record)


def simulated(seed: int, gap: tuple[float, float, float], scatter: float, bias: float = 0.0) -> tuple[str, list[float]]:
    """A verdict from drawn judgements, and the differences of the first criterion."""
    draw = random.Random(f"{seed} {gap} {scatter} {bias}")
    part = scatter / 2  # the difference of two answers, each of which scatters by itself and in its score
    answers: list[JudgedAnswer] = []
    pairs: list[JudgedPair] = []
    differences = []
    for number in range(1, QUESTIONS + 1):
        hard = draw.gauss(0, DIFFICULTY)
        levels: dict[str, list[float]] = {}
        given: dict[str, list[int]] = {}
        for label, better in (("base", (0.0, 0.0, 0.0)), ("tuned", gap)):
            luck = draw.gauss(0, part)
            levels[label] = [3.0 + hard + luck + more for more in better]
            given[label] = [min(5, max(1, round(level + draw.gauss(0, part)))) for level in levels[label]]
            answers.append(
                JudgedAnswer(
                    label=label, question=number, repetition=1, domain_knowledge=given[label][0],
                    response_style=given[label][1], accuracy=given[label][2], reason="",
                )
            )  # fmt: skip
        differences.append(float(given["tuned"][0] - given["base"][0]))
        apart = plain.mean(levels["base"]) - plain.mean(levels["tuned"])
        said = []
        for order in (1, -1):
            seems = apart + order * bias + draw.gauss(0, TASTE)
            said.append("tie" if abs(seems) < TIE else "a" if seems > 0 else "b")
        pairs.append(
            JudgedPair.model_validate(
                {"a": "base", "b": "tuned", "question": number, "repetition": 1, "a_first": said[0],
                 "b_first": said[1], "reasons": ["", ""]}
            )
        )  # fmt: skip
    found = judged_pairs(["base", "tuned"], scores_by_question(answers), pairs, seed)
    return reach_verdict(found, "tuned", "base").answer, differences


def by_simulation(name: str, count: int, gap: tuple[float, float, float], scatter: float, bias: float = 0.0) -> None:
    found = [simulated(seed, gap, scatter, bias) for seed in range(1, count + 1)]
    RESULTS.append(
        {
            "measured": f"simulated: {name}",
            "comparisons": count,
            "questions": QUESTIONS,
            "gap": list(gap),
            "scatter": round(plain.mean(plain.stdev(values) for _, values in found), 2),
            **rates([answer for answer, _ in found]),
        }
    )


RESULTS: list[dict[str, Any]] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=200, help="A/A comparisons over sockets")
    parser.add_argument("--planted", type=int, default=100, help="comparisons with a planted difference, over sockets")
    parser.add_argument("--first", type=int, default=20, help="comparisons with a judge that prefers the first answer")
    parser.add_argument("--simulated", type=int, default=1000, help="simulated comparisons of each kind")
    args = parser.parse_args()

    def fair(seed: int) -> Callable[[dict[str, Any]], Said]:
        return judge(score_noise=SCORES, taste=TASTE, tie=TIE, seed=seed)

    def biased(seed: int) -> Callable[[dict[str, Any]], Said]:
        return judge(score_noise=SCORES, taste=TASTE, tie=TIE, bias=2.5, seed=seed)

    if args.simulated:
        for scatter in (0.8, 1.0, 1.2, 1.5):
            by_simulation("A/A", args.simulated, (0.0, 0.0, 0.0), scatter)
            by_simulation("0.7 in all criteria", args.simulated, (GAP, GAP, GAP), scatter)
        by_simulation("0.7 in one criterion", args.simulated, (GAP, 0.0, 0.0), 1.0)
        by_simulation("0.7, judge prefers the first", args.simulated, (GAP, GAP, GAP), 1.0, bias=2.5)
    if args.first:
        over_sockets("judge prefers the first", args.first, GAP, biased)
    if args.planted:
        over_sockets("planted 0.7", args.planted, GAP, fair)
    if args.comparisons:
        over_sockets("A/A", args.comparisons, 0.0, fair)
    for record in RESULTS:
        print(json.dumps(record))


if __name__ == "__main__":
    main()
