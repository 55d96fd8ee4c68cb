"""A smaller base to propose when memory ran out and nothing else is left. Proposed, never taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import psutil

from tunesmith.errors import NotSupported
from tunesmith.models.catalogue import find
from tunesmith.training.base_choice import smaller_bases
from tunesmith.training.hardware import GIB, GPU_SHARE, RAM_SHARE, Hardware
from tunesmith.training.memory import Shape
from tunesmith.training.recipe import Recipe

EMBEDDED, EMBEDDED_B = "embedded", 0.135  # the base that comes along, and its weights in billions


def smaller_base(
    base_model: str, folder: Path, recipe: Recipe, *, languages: Mapping[str, int], hardware: Hardware | None = None
) -> str | None:
    """The largest known base below this one that should train in the memory there is, its own series first.

    Args:
        folder: of the base that did not fit.
        languages: rows by language code.
        hardware: what there is; None: what this process sees now.
    """
    hardware = hardware or _seen(recipe)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        parameters_b = Shape.from_config(config).parameters / 1e9
    except (OSError, ValueError, NotSupported):
        return None
    offered = smaller_bases(find(base_model), parameters_b, hardware, languages)
    if offered:
        return offered[0].model_id
    return EMBEDDED if parameters_b > 2 * EMBEDDED_B else None


def _seen(recipe: Recipe) -> Hardware:
    """Where this process trains, and what it may use now that it has given its own memory back."""
    import torch

    cuda = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] * GPU_SHARE if cuda else psutil.virtual_memory().available * RAM_SHARE
    return Hardware(
        device="cuda" if cuda else "cpu",
        name=torch.cuda.get_device_name(0) if cuda else "CPU",
        budget_gib=min(free / GIB, recipe.memory_budget_gib or free / GIB),
        capability=0.0,
        assumed=False,
        unsloth=recipe.engine == "unsloth",
        bitsandbytes=recipe.method == "qlora",
    )
