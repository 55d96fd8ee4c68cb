"""A scripted judge: it reads what it is shown, and judges by a quality that stands hidden in each answer.

An answer holds its quality as "q=3.4", which the script reads and a real judge would not see.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

from tests.endpoint_double import Said

_BLOCK = re.compile(r"<<<(?P<name>[A-Z0-9 ]+) (?P<mark>[0-9a-f]{12})\n(?P<text>.*?)\n(?P=name) (?P=mark)>>>", re.DOTALL)


def shown(request: dict[str, Any]) -> dict[str, str]:
    """What stands between the markers, by its name: QUESTION, REFERENCE, ANSWER or ANSWER 1 and ANSWER 2."""
    return {match["name"]: match["text"] for match in _BLOCK.finditer(request["messages"][-1]["content"])}


def quality(text: str) -> float:
    """The hidden quality of an answer; 3 where there is none."""
    found = re.search(r"q=(-?\d+\.\d+)", text)
    return float(found.group(1)) if found else 3.0


def scores(first: int, second: int | None = None, third: int | None = None) -> Said:
    """A reply to a request for scores."""
    values = (first, first if second is None else second, first if third is None else third)
    names = ("domain_knowledge", "response_style", "accuracy")
    return Said(json.dumps({"reason": "So it seems.", **dict(zip(names, values, strict=True))}), tokens=20)


def prefers(winner: str) -> Said:
    """A reply to a request to compare."""
    return Said(json.dumps({"reason": "So it seems.", "winner": winner}), tokens=12)


def judge(
    *, score_noise: float = 0.0, taste: float = 0.0, tie: float = 0.2, bias: float = 0.0, seed: int = 1
) -> Callable[[dict[str, Any]], Said]:
    """A judge by the hidden quality.

    Args:
        score_noise: scatter of each criterion's score.
        taste: scatter of a comparison.
        tie: qualities this near are a tie.
        bias: by how much the first answer seems better.
    """

    def script(request: dict[str, Any]) -> Said:
        parts = shown(request)
        draw = random.Random(f"{seed} {request['messages'][-1]['content']}")
        if "ANSWER" in parts:
            level = quality(parts["ANSWER"])
            values = [min(5, max(1, round(level + draw.gauss(0, score_noise)))) for _ in range(3)]
            return scores(*values)
        gap = quality(parts["ANSWER 1"]) - quality(parts["ANSWER 2"]) + bias + draw.gauss(0, taste)
        return prefers("tie" if abs(gap) < tie else "first" if gap > 0 else "second")

    return script
