"""What bounds training on a card: a bare loop, without trainer, data set or server around it.

    python benchmarks/training/bare_loop.py --model 7B --tokens 2048,8192 --profile
    python benchmarks/training/bare_loop.py --model 7B --four-bit --recompute --variants joined,compiled --tokens 2048,8192
    python benchmarks/training/bare_loop.py --model 0.5B --variants joined,compiled --tokens 2048,16384 --profile
    python benchmarks/training/bare_loop.py --device cpu --model tiny --tokens 512 --variants sdpa,joined   # a rehearsal

A step is forward, loss in chunks, backward, clipping and fused AdamW, on full batches of random packed rows as long as
the workload's. The variants: `sdpa` keeps rows apart by a mask, `joined` by their boundaries, `compiled` is joined
with compiled blocks. One JSON line a case. Tokens a second count every token; there is no padding. On a CPU `joined`
computes row by row, and `compiled` must be asked for. The repository must be installed or on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import time
from typing import Any

import setting

VARIANTS = ("sdpa", "joined", "compiled")  # compiling cannot be undone: it comes last
PART = 2048  # tokens within which rows are drawn, and the longest row
ROWS = 16  # more than a part is expected to hold
WORDS = 49000  # of the vocabulary that tokens are drawn from
CHUNK = 2048  # tokens whose scores are computed at a time; the package takes fewer, to save memory
BATCHES, WARM_STEPS, STEPS, SHOWN = 4, 3, 6, 14


def drawn_lengths(total: int, draw: random.Random) -> list[int]:
    """Tokens of each row, `total` together."""
    lengths, left = [], total
    middle = math.log(setting.DRAWN_MEAN) - setting.SPREAD**2 / 2
    while left > 100:
        wanted = max(setting.SHORTEST, draw.lognormvariate(middle, setting.SPREAD))
        lengths.append(int(min(setting.LONGEST, wanted, left)))
        left -= lengths[-1]
    return [*lengths, left] if left else lengths


def batch(tokens: int, seed: int, device: str, *, masked: bool) -> dict[str, Any]:
    """One sequence of `tokens`, of whose rows the last two thirds are trained."""
    import torch

    from tunesmith.training.engines.joined import REAL, Joining
    from tunesmith.training.examples import IGNORED
    from tunesmith.training.kernels import LONGEST, ROW_ENDS, TRAINED

    parts = [min(PART, tokens - start) for start in range(0, tokens, PART)]
    lengths = [n for number, part in enumerate(parts) for n in drawn_lengths(part, random.Random(seed * 100 + number))]
    ids = torch.randint(0, WORDS, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    trained = [place >= length // 3 for length in lengths for place in range(length)]
    labels = [token if learned else IGNORED for token, learned in zip(ids, trained, strict=True)]
    joining = Joining(length=tokens, longest=PART, rows=ROWS * len(parts), filler=0)
    inputs = joining([{"input_ids": ids, "labels": labels, "seq_lengths": lengths}])
    # With one row of tokens and no mask given, transformers makes the mask from the positions that begin again at 0.
    left_out = {REAL, TRAINED, *((ROW_ENDS, LONGEST) if masked else ())}
    kept = {name: value for name, value in inputs.items() if name not in left_out}
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in kept.items()}


def build(name: str, device: str, *, four_bit: bool, recompute: bool) -> Any:
    """A model with random weights in 16 bits, or its blocks in 4, and an adapter of rank 16 on all linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = {key: value for key, value in setting.SHAPES[name].items() if key != "model_type"}
    config = Qwen2Config(**shape, use_cache=False, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    torch.manual_seed(setting.SEED)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Qwen2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    if four_bit:
        _to_four_bits(model.model.layers, device)
        model.is_loaded_in_4bit = True  # read by PEFT
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules=setting.TARGETS, task_type="CAUSAL_LM")
    return get_peft_model(model, adapter).train()


def _to_four_bits(blocks: Any, device: str) -> None:
    import bitsandbytes
    import torch

    form = {"compress_statistics": True, "quant_type": "nf4"}
    for parent in blocks.modules():
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                size = {"input_features": child.in_features, "output_features": child.out_features}
                layer = bitsandbytes.nn.Linear4bit(
                    **size, bias=False, compute_dtype=torch.bfloat16, device="meta", **form
                )
                weight = bitsandbytes.nn.Params4bit(child.weight.data, requires_grad=False, **form)
                layer.weight, layer.bias = weight.to(device), child.bias
                setattr(parent, name, layer)
    gc.collect()
    torch.cuda.empty_cache()


def measure(model: Any, variant: str, tokens: int, *, profiled: bool) -> dict[str, Any]:
    """Speed of one case over STEPS steps, and the most memory that PyTorch reserved."""
    import torch

    from tunesmith.training.engines import attention, head_loss

    head_loss.LOGIT_TOKENS = CHUNK
    causal = model.get_base_model()
    causal.config._attn_implementation = "sdpa" if variant == "sdpa" else attention.NAME
    torch.compiler.reset()  # each size is compiled for itself
    device = model.device.type
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    batches = [batch(tokens, seed, device, masked=variant == "sdpa") for seed in range(BATCHES)]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def steps(count: int) -> tuple[float, float]:
        began = time.perf_counter()
        for number in range(count):
            with torch.autocast(device, torch.bfloat16):
                loss = head_loss.loss_of(model, batches[number % BATCHES], None)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.3)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait()
        return time.perf_counter() - began, float(loss.detach())

    warm_s, loss = steps(WARM_STEPS)
    took_s, _ = steps(STEPS)
    found: dict[str, Any] = {"tokens_per_s": round(tokens * STEPS / took_s), "step_ms": round(took_s / STEPS * 1e3, 1)}
    found |= {"warm_s": round(warm_s, 1), "loss": round(loss, 4)}
    if device == "cuda":
        found["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    return {**found, **(_profile(lambda: steps(1), device) if profiled else {})}


def _profile(step: Any, device: str) -> dict[str, Any]:
    """How long the device was busy in a step, with how many kernels, and the longest: ms, calls, name."""
    from torch.profiler import profile

    with profile() as seen:
        step()
    attribute = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    events = [
        (getattr(event, attribute) / 1e3, event.count, event.key)
        for event in seen.key_averages()
        if event.device_type.name.lower() == device and getattr(event, attribute) > 0
    ]
    longest = [f"{ms:.2f} {count} {name[:90]}" for ms, count, name in sorted(events, reverse=True)[:SHOWN]]
    return {"busy_ms": round(sum(e[0] for e in events), 1), "kernels": sum(e[1] for e in events), "longest": longest}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=setting.SHAPES, default="7B")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--variants", default=None, help="some of sdpa,joined,compiled; on a CPU compiled only if named"
    )
    parser.add_argument("--tokens", default="2048", help="of a pass; several with commas")
    parser.add_argument("--four-bit", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--profile", action="store_true", help="one step more of each case, with its longest kernels")
    options = parser.parse_args()
    import torch

    from tunesmith.training.engines import attention

    wanted = options.variants.split(",") if options.variants else VARIANTS[: 3 if options.device == "cuda" else 2]
    if unknown := set(wanted) - set(VARIANTS):
        parser.error(f"no such variant: {', '.join(sorted(unknown))}")
    attention.register()
    model = build(options.model, options.device, four_bit=options.four_bit, recompute=options.recompute)
    for variant in (variant for variant in VARIANTS if variant in wanted):
        if variant == "compiled":
            attention.compile_blocks(model)
        for tokens in map(int, options.tokens.split(",")):
            case = {"model": options.model, "variant": variant, "tokens": tokens}
            case |= {"bits": 4 if options.four_bit else 16, "recompute": options.recompute}
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                found = measure(model, variant, tokens, profiled=options.profile)
            except torch.OutOfMemoryError as error:
                found = {"error": str(error)[:300]}
            print(json.dumps({**case, **found}), flush=True)
            model.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
