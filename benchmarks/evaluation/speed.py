"""How long a comparison takes against the bound that its concurrency sets.

    python benchmarks/evaluation/speed.py [--models 5] [--questions 100] [--seconds 0.2]

Scripted endpoints, in a process of their own, answer after so many seconds. The bound: the models are asked at the
same time, each 4 questions at once, so they cannot be done before (questions / 4) × seconds; a judge with 16 requests
at once not before (requests / 16) × seconds. `first_to_last_s` is from the first request that an endpoint sees to the
last reply; `gather_s` is that with opening the connections (and importing what opens them); `all_s` is everything, to
the finished report. Give it a quiet machine. The last lines are JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.evaluation.apart import Apart
from tunesmith.evaluation import asking_models, judge_at_work
from tunesmith.evaluation.comparing import Comparing
from tunesmith.work import Work, run_by_hand
from tunesmith.workspace import Workspace


class Timed(Comparing):
    """A comparison that tells how long its asking and judging took."""

    gather_s = 0.0

    def _gather(self, *args: Any, **named: Any) -> Any:
        began = time.monotonic()
        try:
            return super()._gather(*args, **named)
        finally:
            self.gather_s = time.monotonic() - began


def measure(models: int, questions: int, seconds: float, *, judged: bool) -> dict[str, Any]:
    with Apart(models, seconds=seconds) as apart, tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "workspace", [Path(folder)])
        args = apart.arguments(questions, judged=judged)
        comparing = Timed(Work(run_by_hand(workspace, "compare", args)))
        began, used = time.monotonic(), os.times()
        made = comparing.run()
        took, now = time.monotonic() - began, os.times()
        times = apart.times()
        counts = [(len(requests), most) for requests, most in apart.seen()]
    asking = math.ceil(questions / asking_models.SLOTS) * seconds
    judging = counts[-1][0] / judge_at_work.SLOTS * seconds
    bound = max(asking, judging) if judged else asking
    first_to_last = max(last for _, last in times) - min(first for first, _ in times)
    return {
        "measured": "with a judge" if judged else "without a judge",
        "models": models,
        "questions": questions,
        "endpoint_s": seconds,
        "requests": sum(number for number, _ in counts),
        "judgements": made.judge.asked if made.judge else 0,
        "at_once": [most for _, most in counts],
        "bound_asking_s": round(asking, 2),
        "bound_judging_s": round(judging, 2),
        "one_after_the_other_s": round(asking * models + judging, 2),
        "asking_s": round(max(last for _, last in times[:models]) - min(first for first, _ in times), 2),
        "first_to_last_s": round(first_to_last, 2),
        "gather_s": round(comparing.gather_s, 2),
        "all_s": round(took, 2),
        "times_the_bound": round(first_to_last / bound, 2),
        "all_times_the_bound": round(took / bound, 2),
        "cpu_s": round(now.user - used.user + now.system - used.system, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.2, help="that an endpoint takes to answer")
    args = parser.parse_args()
    found = [measure(args.models, args.questions, args.seconds, judged=judged) for judged in (False, True)]
    for record in found:
        print(json.dumps(record))


if __name__ == "__main__":
    main()
