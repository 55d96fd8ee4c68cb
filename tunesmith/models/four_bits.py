"""How method qlora holds a base in 4 bits: one definition, for training and for measuring what was trained."""

from __future__ import annotations

from typing import Any

# NF4 in blocks of 64 weights, whose scales are quantised again (QLoRA, arXiv 2305.14314). Unsloth chooses the same
# when asked for 4 bits.
QUANT_TYPE = "nf4"
DOUBLE_QUANT = True


def four_bits(compute_dtype: Any) -> dict[str, Any]:
    """Arguments of transformers' BitsAndBytesConfig.

    Args:
        compute_dtype: number format of the computation, as torch's dtype.
    """
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": QUANT_TYPE,
        "bnb_4bit_use_double_quant": DOUBLE_QUANT,
        "bnb_4bit_compute_dtype": compute_dtype,
    }
