"""Proof that a GGUF LoRA holds the adapter that was trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tunesmith.errors import CheckFailed

# The largest relative change of a matrix's norm that rounding explains.
ROUNDING = {"f16": 0.002, "bf16": 0.01, "q8_0": 0.02}
_LORA = re.compile(r"(.*)\.lora_([AB])(\.default)?\.weight")


def check_adapter(gguf: Path, adapter: Path, outtype: str) -> int:
    """Compare a GGUF LoRA with the PEFT adapter it was made from. Returns the number of adapted matrices.

    The converter renames layers and reorders the rows of some: what it may not
    change is how many matrices there are, their norms, and the scale.

    Raises:
        CheckFailed: says what differs, or what such a file cannot hold.
    """
    trained, scale = _trained(adapter)
    converted, found_scale = _converted(gguf)
    if len(trained) != len(converted):
        raise _differs(f"{len(trained)} matrices were trained and {len(converted)} are in the file")
    if abs(found_scale - scale) > 1e-6 * max(1.0, abs(scale)):
        raise _differs(f"its alpha is {found_scale:g} instead of {scale:g}")
    # Sorted norms pair the matrices without knowing either side's names.
    for before, after in zip(sorted(trained), sorted(converted), strict=True):
        if not abs(after - before) <= ROUNDING[outtype] * before + 1e-6:
            raise _differs(f"a matrix of norm {before:.6g} has norm {after:.6g} in the file")
    return len(trained) // 2


def _trained(adapter: Path) -> tuple[list[float], float]:
    """Norms of the matrices A and B, and alpha."""
    from safetensors.torch import load_file

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    # Whoever reads the file multiplies every pair by alpha / rank.
    for setting in ("use_rslora", "alpha_pattern", "use_dora"):
        if config.get(setting):
            raise _differs(f"{setting} is set, and the file has one alpha for all matrices, divided by the rank")
    tensors = load_file(adapter / "adapter_model.safetensors")
    norms = [float(tensor.float().norm()) for name, tensor in tensors.items() if _LORA.fullmatch(name)]
    return norms, float(config["lora_alpha"])


def _converted(gguf: Path) -> tuple[list[float], float]:
    import numpy as np
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(gguf)
    field: Any = reader.get_field("adapter.lora.alpha")
    if field is None:
        raise _differs("it names no alpha")
    norms = [
        float(np.linalg.norm(dequantize(tensor.data, tensor.tensor_type).astype(np.float64)))
        for tensor in reader.tensors
        if tensor.name.endswith((".lora_a", ".lora_b"))
    ]
    return norms, float(field.contents())


def _differs(what: str) -> CheckFailed:
    return CheckFailed(
        f"The adapter in GGUF form is not the one that was trained: {what}. No file was handed out.",
        next="Export without adapter_only; merged weights do not depend on this converter.",
    )
