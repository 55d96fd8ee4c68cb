"""Scripted endpoints in a process of their own, so that they do not share a lock with what is measured."""

from __future__ import annotations

import multiprocessing
import random
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.endpoint_double import EndpointDouble, Raw, Said, Stall, Status
from tests.evaluation.judge_double import judge

Step = Said | Status | Raw | Stall


def _model(level: float) -> Callable[[dict[str, Any]], Said]:
    def script(request: dict[str, Any]) -> Said:
        asked = request["messages"][-1]["content"]
        value = level + random.Random(asked).gauss(0, 0.5) + random.Random(f"{level} {asked}").gauss(0, 0.3)
        return Said(f"It holds the lid of the grey box. q={value:.4f}")

    return script


def _slowly(
    script: Callable[[dict[str, Any]], Said], seconds: float, times: list[float]
) -> Callable[[dict[str, Any]], Said]:
    def step(request: dict[str, Any]) -> Said:
        times.append(time.monotonic())
        time.sleep(seconds)
        times.append(time.monotonic())
        return script(request)

    return step


def _flaky(script: Callable[[dict[str, Any]], Said], share: float, seed: int) -> Callable[[dict[str, Any]], Step]:
    lock, draw = threading.Lock(), random.Random(seed)

    def step(request: dict[str, Any]) -> Step:
        with lock:
            value = draw.random()
        if value >= share:
            return script(request)
        return (Status(503), Stall(30), Raw(b"<html>busy</html>"))[int(value / share * 3)]

    return step


def _serve(pipe: Connection, models: int, seconds: float, faults: float) -> None:
    scripts = [_model(2.6 + 0.4 * place) for place in range(models)] + [judge(score_noise=0.3, taste=0.3)]
    times: list[list[float]] = [[] for _ in scripts]
    doubles = [
        EndpointDouble(_flaky(_slowly(script, seconds, times[place]), faults, place))
        for place, script in enumerate(scripts)
    ]
    for double in doubles:
        double.__enter__()
    pipe.send([double.url for double in doubles])
    while (wish := pipe.recv()) != "stop":
        seen = [(list(double.requests), double.most_at_once) for double in doubles]
        pipe.send([(min(each), max(each)) for each in times if each] if wish == "times" else seen)
    for double in doubles:
        double.__exit__()


class Apart:
    """Endpoints of models, each better than the one before it, and of a judge as the last one.

    Args:
        seconds: that each reply takes.
        faults: share of the requests that fail, stall or bring something malformed.
    """

    def __init__(self, models: int, *, seconds: float, faults: float = 0.0) -> None:
        self._args = (models, seconds, faults)

    def __enter__(self) -> Apart:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._args), daemon=True)
        self._process.start()
        self.urls: list[str] = self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("stop")
        self._process.join(10)
        self._process.kill()

    def seen(self) -> list[tuple[list[dict[str, Any]], int]]:
        """Of each endpoint, the requests so far, and how many there were at once at most."""
        self._pipe.send("seen")
        return self._pipe.recv()

    def times(self) -> list[tuple[float, float]]:
        """Of each endpoint that was asked, when its first request came and its last reply left: the monotonic clock."""
        self._pipe.send("times")
        return self._pipe.recv()

    def arguments(self, questions: int, *, judged: bool) -> dict[str, Any]:
        """Of a comparison of them."""
        found: dict[str, Any] = {
            "models": [
                {"label": f"Contestant-{place}", "model": f"openai:acme-{place}b@{url}"}
                for place, url in enumerate(self.urls[:-1], start=1)
            ],
            "questions": [
                {"question": f"What is part {number} for?", "reference": f"Part {number} holds the lid of the box."}
                for number in range(1, questions + 1)
            ],
        }
        if judged:
            found["judge"] = {"model": "the-judge", "base_url": self.urls[-1]}
        return found
