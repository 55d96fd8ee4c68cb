"""What a checkpoint says about the run that wrote it: one JSON file beside the weights, sealed with them.

With it a run that goes on knows what the first one measured, which adapter is the best so far, and what must be
the same for the two to be one training: the rows, the base, the prompt format, the recipe.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tunesmith.errors import BadInput
from tunesmith.training.passes import Passes
from tunesmith.training.records import Recovery

FILE = "tunesmith.json"
_SAMPLE = 2**20  # bytes read at the beginning, the middle and the end of a weight file


class Looks(BaseModel):
    """What was measured up to a step. Losses are held-out losses in nats per token, but for `losses`.

    Attributes:
        before: of the base; None until measured.
        best, best_step: the lowest and its optimizer step.
        last, last_step: the newest and its optimizer step.
        looks_without_gain: in a row, for early stopping.
        losses: training loss by optimizer step.
    """

    model_config = ConfigDict(extra="forbid")

    before: float | None = None
    best: float | None = None
    best_step: int = 0
    last: float | None = None
    last_step: int = 0
    looks_without_gain: int = 0
    stopped_early: bool = False
    losses: dict[int, float] = {}


class Saved(BaseModel):
    """The content of the file.

    Attributes:
        step, total_steps, steps_per_epoch: optimizer steps.
        dataset_sha256: of the rows' file.
        base_fingerprint: as `fingerprint` gives it.
        recipe: as it was after stepping down when memory ran out.
        recoveries: those steps down.
        passes: how much goes through the model at a time since then.
        joins: packed rows were joined as `engines/joined.py` does, and so in its order; False in checkpoints of
            earlier versions, which left packing to TRL.
    """

    model_config = ConfigDict(extra="forbid")

    run_id: str
    step: int
    total_steps: int
    steps_per_epoch: int
    dataset_id: str
    dataset_sha256: str
    base_model: str
    base_fingerprint: str
    device: str
    dtype: str
    prompt_format: dict[str, Any]
    recipe: dict[str, Any]
    recoveries: list[Recovery]
    passes: Passes = Passes()
    joins: bool = False
    looks: Looks

    def write(self, checkpoint: Path) -> None:
        """Into a checkpoint that is not sealed yet."""
        # Not pydantic's own JSON: it has no NaN, and a loss may be one.
        (checkpoint / FILE).write_text(json.dumps(self.model_dump()), encoding="utf-8")

    @classmethod
    def read(cls, checkpoint: Path) -> Saved:
        """From a sealed checkpoint.

        Raises:
            BadInput: another version wrote it.
        """
        try:
            return cls.model_validate(json.loads((checkpoint / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{checkpoint.name} cannot be continued by this version: {str(error)[:200]}",
                next="Train again with start_training.",
            ) from error


def fingerprint(folder: Path) -> str:
    """SHA-256 that tells one base model from another.

    Over the names and sizes of its files, its config and tokenizer, and a sample of each weight file: training
    changes every part of a weight file, and reading gigabytes to the end would take minutes.
    """
    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        path = folder / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for start in (0, size // 2, max(0, size - _SAMPLE)):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
