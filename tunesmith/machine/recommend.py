"""What to train with on this machine: engine, base model and method, with the reason.

A rule of thumb from a card's total memory, for somebody who has not chosen yet;
`plan_training` predicts the memory of an actual run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.machine.packages import numbers
from tunesmith.machine.records import Gpu, PackageFacts, Recommendation, TorchFacts

# Of Apple's shared memory, what the system leaves to the GPU without swapping.
APPLE_SHARE = 0.6


@dataclass(frozen=True)
class Base:
    """A base model and the total card memory, in GiB, from which a method is safe with it.

    Not round numbers: a card sold as 8 GB shows 7.6 to 8.0 GiB.
    """

    name: str
    parameters_b: float
    four_bit_from: float
    sixteen_bit_from: float


# Largest first. What the planner's memory model says; a test in tests/training holds the two together.
BASES = (
    Base("Qwen/Qwen2.5-7B-Instruct", 7.62, 8.8, 20.0),
    Base("Qwen/Qwen3-4B-Instruct-2507", 4.02, 5.1, 11.5),
    Base("Qwen/Qwen2.5-1.5B-Instruct", 1.54, 3.0, 5.0),
    Base("Qwen/Qwen2.5-0.5B-Instruct", 0.49, 2.0, 2.5),
)


def recommend(
    gpus: list[Gpu], torch: TorchFacts, packages: Mapping[str, PackageFacts], *, hidden: str | None = None
) -> Recommendation:
    """The choice for the card with the most memory, or for the processor where no card can be used.

    Args:
        hidden: the setting that hides the cards from CUDA programs, if any.
    """
    if not gpus:
        return _on_cpu("No GPU was found: on the processor only the embedded 135M model trains in minutes.")
    gpu = max(gpus, key=lambda card: card.total_gib)
    if gpu.compute_capability is None:
        return _on_apple(gpu)
    if hidden:
        return _on_cpu(f"{gpu.name} is there, but {hidden} hides it from CUDA programs.")
    if torch.installed and torch.cuda is None:
        return _on_cpu(f"{gpu.name} is there, but the installed torch {torch.version} is a build without CUDA.")
    return _on_cuda(gpu, torch, packages)


def disk_needed_gib(base_model: str) -> float:
    """Room, in GiB, for a base model's weights, the merged model and one GGUF; 1 for the embedded one."""
    for base in BASES:
        if base.name == base_model:
            return round(base.parameters_b * (2 + 2 + 2 + 0.7) * 1e9 / 2**30, 1)
    return 1.0


def _on_cpu(why: str) -> Recommendation:
    return Recommendation(engine="transformers", base_model="embedded", method="lora", reason=why)


def _on_apple(gpu: Gpu) -> Recommendation:
    usable = gpu.total_gib * APPLE_SHARE
    # bitsandbytes has no 4-bit kernels for Apple's GPU, so weights stay in 16 bits.
    for base in BASES:
        if usable >= base.sixteen_bit_from:
            reason = (
                f"{gpu.name} can use about {usable:.0f} of {gpu.total_gib:.0f} GiB; without 4-bit kernels "
                f"{base.parameters_b:g}B in 16 bits is what fits."
            )
            return Recommendation(engine="transformers", base_model=base.name, method="lora", reason=reason)
    return _on_cpu(f"{gpu.name} shares {gpu.total_gib:.0f} GiB with the system: too little for a larger model.")


def _on_cuda(gpu: Gpu, torch: TorchFacts, packages: Mapping[str, PackageFacts]) -> Recommendation:
    four_bit = packages["bitsandbytes"].ok
    capable = _capability(gpu) >= (7, 0)
    with_unsloth = packages["unsloth"].ok and four_bit and capable
    # What the planner chooses by itself: packed rows without a mask where memory suffices (training/kernels.py).
    packs = _capability(gpu) >= (8, 0) and numbers(torch.version or "0") >= (2, 11)
    for base in BASES:
        if gpu.total_gib >= base.sixteen_bit_from:
            method, bits = "lora", "16"
        elif four_bit and gpu.total_gib >= base.four_bit_from:
            method, bits = "qlora", "4"
        else:
            continue
        engine = "unsloth" if with_unsloth and not (packs and method == "lora") else "transformers"
        reason = f"{gpu.name} has {gpu.total_gib:.1f} GiB: {base.parameters_b:g}B in {bits} bits fits safely"
        reason += f"{_larger(gpu, four_bit)}."
        if not with_unsloth and not packs:
            reason += " With Unsloth it would be faster and take less memory." if capable else ""
        if not gpu.bf16:
            reason += " The card has no bfloat16, so float16 is used."
        return Recommendation(engine=engine, base_model=base.name, method=method, reason=reason)
    return _on_cpu(f"{gpu.name} has {gpu.total_gib:.1f} GiB: too little for more than the embedded model.")


def _larger(gpu: Gpu, four_bit: bool) -> str:
    """What about the next size, which people ask for."""
    if not four_bit:
        return "; 4-bit training of a larger one needs bitsandbytes"
    if 7.5 <= gpu.total_gib < BASES[0].four_bit_from:
        return "; 7B in 4 bits is tight (a peak of 6.3 GiB was measured with Unsloth, and the desktop needs some)"
    return ""


def _capability(gpu: Gpu) -> tuple[int, ...]:
    return tuple(int(part) for part in (gpu.compute_capability or "0").split("."))
