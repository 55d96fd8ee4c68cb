"""The base as method qlora trained on it: its linear layers rounded to 4 bits and back, the way bitsandbytes does."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tunesmith.export.streamed import Source, Unmeasured
from tunesmith.models.four_bits import DOUBLE_QUANT, QUANT_TYPE

if TYPE_CHECKING:
    import torch

    from tunesmith.export.skeleton import Skeleton

QUANTISING_S = 60.0  # on a processor a second quantises 20 million weights, on a card 10 billion


def rounded_layers(bones: Skeleton) -> set[torch.nn.Module]:
    """The layers that hold 4 bits in training, as transformers chooses them. To be asked before PEFT wraps them."""
    from torch import nn
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    model = bones.model
    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return {
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and should_convert_module(name, kept)
    }


def four_bit_source(bones: Skeleton, layers: set[torch.nn.Module], dtype: str, device: str) -> Source:
    """What each layer computed with in training.

    Args:
        layers: see `rounded_layers`.
        dtype: number format of the computation in training, such as "bfloat16": weights are brought into it first,
            and those that are rounded to 4 bits come back in it.
        device: "cuda" or "cpu".

    Raises:
        Unmeasured: bitsandbytes is not installed, or it would take minutes here.
    """
    import torch

    if find_spec("bitsandbytes") is None:
        raise Unmeasured("bitsandbytes is not installed")
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    number: torch.dtype = getattr(torch, dtype)

    def there_and_back(weight: torch.Tensor) -> torch.Tensor:
        coded, state = quantize_4bit(weight, quant_type=QUANT_TYPE, compress_statistics=DOUBLE_QUANT)
        return dequantize_4bit(coded, state)

    def source(module: torch.nn.Module, name: str) -> torch.Tensor:
        weight = bones.files.read(name).to(device).to(number)
        # A bias keeps its 16 bits.
        return there_and_back(weight) if module in layers and weight.dim() == 2 else weight

    sample = torch.randn(1024, 1024, device=device).to(number)
    there_and_back(sample)  # loads the library
    began = time.perf_counter()
    float(there_and_back(sample).float().sum())
    elements = sum(bones.files.places[bones.owners[layer]["weight"]].elements for layer in layers)
    seconds = (time.perf_counter() - began) * elements / sample.numel()
    if seconds > QUANTISING_S:
        raise Unmeasured(
            f"rounding {elements / 1e9:.1f} billion weights to 4 bits would take {seconds / 60:.0f} minutes"
        )
    return source
