"""For tests: memory runs out where they say, with the error that torch raises.

`TUNESMITH_TEST_OUT_OF_MEMORY` names places, each struck once, as often as it is named:

 - `step:N` in the N-th optimizer step;
 - `evaluation:N` while the held-out loss is measured for the N-th time in this process (the base's first; the control
   counts);
 - `load:N` while the base model is loaded for the N-th time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

VARIABLE = "TUNESMITH_TEST_OUT_OF_MEMORY"
PLACES = ("step", "evaluation", "load")


class Injection:
    """The places that are left to strike, and how often each kind has been passed."""

    def __init__(self, places: Counter[tuple[str, int]]) -> None:
        self._left = places
        self._passed: Counter[str] = Counter()

    @classmethod
    def from_environment(cls) -> Injection | None:
        """None where nothing is asked for, which is so but for tests.

        Raises:
            ValueError: the variable names no such place.
        """
        named = os.environ.get(VARIABLE)
        if not named:
            return None
        places: Counter[tuple[str, int]] = Counter()
        for entry in named.split(","):
            place, _, number = entry.strip().partition(":")
            if place not in PLACES:
                raise ValueError(f"{VARIABLE} knows {', '.join(PLACES)}, not {place!r}")
            places[place, int(number)] += 1
        return cls(places)

    def load(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """An engine's `load` that fails where it was asked to."""

        def load(*args: Any, **kwargs: Any) -> Any:
            self._passed["load"] += 1
            self._strike("load", self._passed["load"])
            return original(*args, **kwargs)

        return load

    def arm(self, trainer: Any) -> None:
        """Make a trainer fail where it was asked to."""
        step, measure, held_out = trainer.training_step, trainer.heldout_loss, trainer.held_out_pass

        def training_step(*args: Any, **kwargs: Any) -> Any:
            self._strike("step", trainer.state.global_step + 1)
            return step(*args, **kwargs)

        def heldout_loss() -> float:
            self._passed["evaluation"] += 1
            return measure()

        def held_out_pass(*args: Any) -> Any:
            self._strike("evaluation", self._passed["evaluation"])
            return held_out(*args)

        trainer.training_step, trainer.heldout_loss, trainer.held_out_pass = training_step, heldout_loss, held_out_pass

    def _strike(self, place: str, number: int) -> None:
        if self._left[place, number] == 0:
            return
        self._left[place, number] -= 1
        import torch

        raise torch.OutOfMemoryError(f"injected by a test at {place} {number}")
