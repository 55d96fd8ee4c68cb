"""What bounds training on a card: a bare loop, without trainer, data set or server around it.

    python benchmarks/training/bare_loop.py --model 7B --tokens 2048 8192 --profile
    python benchmarks/training/bare_loop.py --model 7B --variants joined compiled --tokens 2048 8192 --4bit --recompute
    python benchmarks/training/bare_loop.py --model 0.5B --variants joined compiled --tokens 2048 16384
    python benchmarks/training/bare_loop.py --device cpu --model tiny --tokens 512      # a rehearsal

A step is forward, loss in chunks, backward, clipping and fused AdamW, on full batches of random packed rows as long as
the workload's. The variants: `sdpa` keeps rows apart by a mask, `joined` by their boundaries, `compiled` is joined
with compiled blocks. One JSON line a case. Tokens a second count every token; there is no padding. On a CPU `joined`
computes row by row, and `compiled` must be asked for.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import time
from collections.abc import Callable
from typing import Any

import setting
import torch  # noqa: TID253 - nothing here does without it

from tunesmith.training.engines import attention, head_loss
from tunesmith.training.engines.joined import REAL, Joining
from tunesmith.training.examples import IGNORED
from tunesmith.training.kernels import LONGEST, ROW_ENDS, TRAINED

VARIANTS = ("sdpa", "joined", "compiled")  # compiling cannot be undone: it comes last
PART = 2048  # tokens within which rows are drawn, and the longest row
ROWS = 16  # more than a part is expected to hold
WORDS = 49000  # of the vocabulary that tokens are drawn from
BATCHES, WARM_STEPS, STEPS, SHOWN = 4, 3, 6, 14


def drawn_lengths(total: int, draw: random.Random) -> list[int]:
    """Tokens of each row, `total` together."""
    lengths = []
    middle = math.log(setting.DRAWN_MEAN) - setting.SPREAD**2 / 2
    while (left := total - sum(lengths)) > 100:
        wanted = max(setting.SHORTEST, draw.lognormvariate(middle, setting.SPREAD))
        lengths.append(int(min(setting.LONGEST, wanted, left)))
    return [*lengths, left] if left else lengths


def batch(tokens: int, seed: int, device: str, *, masked: bool) -> dict[str, Any]:
    """One sequence of `tokens`, of whose rows the last two thirds are trained."""
    parts = [min(PART, tokens - start) for start in range(0, tokens, PART)]
    lengths = [n for number, part in enumerate(parts) for n in drawn_lengths(part, random.Random(seed * 100 + number))]
    ids = torch.randint(0, WORDS, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    trained = [place >= length // 3 for length in lengths for place in range(length)]
    labels = [token if learned else IGNORED for token, learned in zip(ids, trained, strict=True)]
    joining = Joining(length=tokens, longest=PART, rows=ROWS * len(parts), filler=0)
    inputs = joining([{"input_ids": ids, "labels": labels, "seq_lengths": lengths}])
    # Without boundaries transformers makes a mask from the positions, which begin again at 0.
    for name in (REAL, TRAINED, *((ROW_ENDS, LONGEST) if masked else ())):
        del inputs[name]
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def build(name: str, device: str, *, four_bit: bool, recompute: bool) -> Any:
    """A model with random weights in 16 bits, or its blocks in 4, and an adapter of rank 16 on all linear layers."""
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

    form = {"compress_statistics": True, "quant_type": "nf4"}
    for path, old in list(blocks.named_modules()):
        if type(old) is torch.nn.Linear:
            new = bitsandbytes.nn.Linear4bit(old.in_features, old.out_features, device="meta", **form)
            new.compute_dtype, new.bias = torch.bfloat16, old.bias
            new.weight = bitsandbytes.nn.Params4bit(old.weight.data, requires_grad=False, **form).to(device)
            blocks.set_submodule(path, new)


def measure(model: Any, variant: str, tokens: int, *, profiled: bool) -> dict[str, Any]:
    """Speed of one case over STEPS steps, and the most memory that PyTorch reserved."""
    head_loss.LOGIT_TOKENS = PART  # whose scores are computed at a time; the package takes fewer, to save memory
    device = model.device.type
    model.get_base_model().config._attn_implementation = "sdpa" if variant == "sdpa" else attention.NAME
    torch.compiler.reset()  # each size is compiled for itself
    batches = [batch(tokens, seed, device, masked=variant == "sdpa") for seed in range(BATCHES)]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

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
    found = {"tokens_per_s": round(tokens * STEPS / took_s), "step_ms": round(took_s / STEPS * 1e3, 1)}
    reserved = torch.cuda.max_memory_reserved() / 2**30  # 0 on a CPU
    found |= {"warm_s": round(warm_s, 1), "loss": round(loss, 4), "reserved_gib": round(reserved, 2)}
    return found | (_profile(lambda: steps(1), device) if profiled else {})


def _profile(step: Callable[[], Any], device: str) -> dict[str, Any]:
    """How long the device was busy in a step, with how many kernels, and the longest: ms, calls, name."""
    with torch.profiler.profile() as seen:
        step()
    time_of = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    own = [e for e in seen.key_averages() if e.device_type.name.lower() == device and not e.is_user_annotation]
    found = sorted(((round(getattr(e, time_of) / 1e3, 2), e.count, e.key[:90]) for e in own), reverse=True)
    return {"busy_ms": round(sum(e[0] for e in found)), "kernels": sum(e[1] for e in found), "longest": found[:SHOWN]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=setting.SHAPES, default="7B")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: all; on a CPU all but compiled")
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048], help="of a pass")
    parser.add_argument("--4bit", dest="four_bit", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--profile", action="store_true", help="one step more of each case, with its longest kernels")
    options = parser.parse_args()
    attention.register()
    model = build(options.model, options.device, four_bit=options.four_bit, recompute=options.recompute)
    usual = VARIANTS if options.device == "cuda" else VARIANTS[:2]
    for variant in sorted(options.variants or usual, key=VARIANTS.index):
        if variant == "compiled":
            attention.compile_blocks(model)
        for tokens in options.tokens:
            gc.collect()
            torch.cuda.empty_cache()
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                found = measure(model, variant, tokens, profiled=options.profile)
            except torch.OutOfMemoryError as error:
                found = {"error": str(error)[:300]}
            model.zero_grad(set_to_none=True)
            case = {"model": options.model, "four_bit": options.four_bit, "recompute": options.recompute}
            print(json.dumps(case | {"variant": variant, "tokens": tokens} | found), flush=True)


if __name__ == "__main__":
    main()
