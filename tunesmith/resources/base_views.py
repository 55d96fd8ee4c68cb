"""The catalogue of base models against a memory: which of them fit, by which method."""

from __future__ import annotations

import json
import re
from typing import Any

from tunesmith.errors import InvalidArgument
from tunesmith.machine.check import check_machine
from tunesmith.training.base_choice import Entry, table
from tunesmith.training.hardware import find_hardware
from tunesmith.training.records import AssumedGpu
from tunesmith.workspace import Workspace

_NUMBER = re.compile(r"\d{1,4}(\.\d{1,3})?")
WHAT = (
    "Predicted peak memory of training each base on this machine, or on a card of so many GiB (?gib=8): rank 16 on all "
    "linear layers, one sequence at a time, activations recomputed. fits: yes, tight (the estimate fits, the upper end "
    "of its interval does not), no. Without methods: models that also see pictures, which cannot be trained here yet. "
    "plan_training predicts a run on your rows."
)


def bases_page(workspace: Workspace, ollama_host: str | None, gib: str | None) -> str:
    """The catalogue as JSON, what fits first, the largest first.

    Raises:
        InvalidArgument: `gib` is no amount of memory.
    """
    if gib is None:
        hardware = find_hardware(check_machine(workspace, ollama_host=ollama_host), None, None)
    else:
        if not _NUMBER.fullmatch(gib) or not 0 < float(gib) <= 4096:
            raise InvalidArgument(f"gib {gib[:20]!r} is not an amount of memory.", next="Give for example gib=8.")
        hardware = find_hardware(None, AssumedGpu(total_gib=float(gib)), None)
    entries = sorted(table(workspace, hardware), key=_rank)
    page = {
        "about": WHAT,
        "planned_for": hardware.name,
        "usable_gib": hardware.budget_gib,
        "bases": [_shown(entry) for entry in entries],
    }
    return json.dumps(page, ensure_ascii=False)


def _rank(entry: Entry) -> tuple[int, float]:
    best = min((("yes", "tight", "no").index(way.fits) for way in entry.ways), default=3)
    return best, -entry.base.parameters_b


def _shown(entry: Entry) -> dict[str, Any]:
    base = entry.base
    return {
        "base_model": base.model_id,
        "parameters_b": base.parameters_b,
        "methods": {way.method: {"needs_gib": way.needs_gib, "fits": way.fits} for way in entry.ways},
        "licence": base.licence,
        "gated": base.gated,
        "languages": ",".join(base.languages),
        "template": base.template,
        "context": base.context,
        "here": entry.here,
        "download_gb": None if entry.here else base.download_gb,
    }
