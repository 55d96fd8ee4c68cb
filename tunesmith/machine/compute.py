"""How this machine computes, measured in a few hundredths of a second. Called in worker processes."""

from __future__ import annotations

import time
from typing import Any

# bfloat16 loses accuracy in training, so on a CPU it has to be clearly faster to be worth it.
WORTH_IT = 1.5
_SMALL, _LARGE = 96, 384  # sizes of the square matrices


def choose_cpu_dtype() -> tuple[str, str]:
    """The dtype to train in on this CPU: ("float32" or "bfloat16", the reason with both speeds in GFLOP/s).

    Asking the processor's feature flags is not enough: without AVX-512-BF16 or AMX
    a bfloat16 product is computed element by element, hundreds of times slower.
    Takes about 50 ms once torch is imported.

    Raises:
        MissingExtra: torch is not installed.
    """
    torch = _torch()
    # A small product first: where bfloat16 is emulated, a large one would take seconds.
    single, half = (_gflops(torch, dtype, _SMALL, 0.008) for dtype in (torch.float32, torch.bfloat16))
    if half > single / 4:
        single, half = (_gflops(torch, dtype, _LARGE, 0.016) for dtype in (torch.float32, torch.bfloat16))
    figures = f"float32 reaches {_shown(single)} GFLOP/s here, bfloat16 {_shown(half)} GFLOP/s"
    if half >= WORTH_IT * single:
        return "bfloat16", f"Measured: {figures}."
    return "float32", f"Measured: {figures}; bfloat16 has to be {WORTH_IT} times faster to be chosen."


def _torch() -> Any:
    from tunesmith.errors import MissingExtra

    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtra("torch", extra="train", purpose="measure this processor") from error
    return torch


def _shown(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"


def _gflops(torch: Any, dtype: Any, size: int, seconds: float) -> float:
    """The best speed of a `size` × `size` product seen within about `seconds`."""
    left = torch.ones(size, size, dtype=dtype)
    right = torch.ones(size, size, dtype=dtype)
    best = 0.0
    with torch.inference_mode():
        torch.mm(left, right)  # the first call also sets up the kernel and the threads
        deadline = time.perf_counter() + seconds
        while True:
            started = time.perf_counter()
            torch.mm(left, right)
            ended = time.perf_counter()
            best = max(best, 2 * size**3 / max(ended - started, 1e-9) / 1e9)
            if ended >= deadline:
                return best
