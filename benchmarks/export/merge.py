"""Memory and time of merging an adapter into a large model and of its conversion to f16. Random weights.

    python benchmarks/export/merge.py [--size 7B] [--scratch DIR] [--rows 1] [--keep]

Builds a model of Qwen2.5's shapes (7B: 15 GB) and a LoRA of rank 16 on all its linear layers, merges in a process of
its own, comparing base + adapter with the merged weights on that many texts (0: none), and converts the result as an
export does. Three times the size of the model is written to DIR and removed. The last line is JSON; peaks are of a
process with its children: rss counts the pages of files that it has mapped, anonymous does not.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch  # noqa: TID253 - weights are made here

GIB = 2**30
SHARD_BYTES = 4 * 10**9
SHAPES = {
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "3B": (2048, 11008, 36, 16, 2, 151936, True),
    "0.5B": (896, 4864, 24, 14, 2, 151936, True),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK = 16


def config_of(size: str) -> dict[str, Any]:
    hidden, inner, layers, heads, keys, vocabulary, tied = SHAPES[size]
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "rope_theta": 1_000_000.0,
        "hidden_act": "silu",
        "dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def build(size: str, base: Path, adapter: Path) -> None:
    """The model in shards and an adapter for it, written tensor by tensor."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.models import embedded

    base.mkdir(parents=True)
    adapter.mkdir()
    config = config_of(size)
    (base / "config.json").write_text(json.dumps(config))
    gguf = embedded.read_gguf(embedded.gguf_path())
    embedded.build_tokenizer(gguf).save(str(base / "tokenizer.json"))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base), dtype=torch.bfloat16)
    torch.manual_seed(7)
    noise = (torch.randn(2**24) * 0.02).bfloat16()
    weights = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in weights.items():
        if filled > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += 2 * math.prod(shape)
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        index |= dict.fromkeys(names, file)
        _write(base / file, {name: weights[name] for name in names}, noise)
    total = sum(2 * math.prod(shape) for shape in weights.values())
    listing = {"metadata": {"total_size": total}, "weight_map": index}
    (base / "model.safetensors.index.json").write_text(json.dumps(listing))
    settings = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, task_type="CAUSAL_LM")
    lora = get_peft_model(model, settings, low_cpu_mem_usage=True)
    settings.save_pretrained(str(adapter))
    tensors = {
        name.replace(".default", ""): torch.randn(parameter.shape) * 0.02
        for name, parameter in lora.named_parameters()
        if ".lora_" in name
    }
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copy(base / "tokenizer.json", adapter)


def _write(path: Path, shapes: dict[str, tuple[int, ...]], noise: torch.Tensor) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * math.prod(shape)]}
        end += 2 * math.prod(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = noise.view(torch.uint8).numpy().data
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            left = 2 * math.prod(shape)
            if "norm" in name:
                file.write(torch.ones(shape, dtype=torch.bfloat16).view(torch.uint8).numpy().data)
                left = 0
            while left:
                left -= file.write(data[: min(left, len(data))])


def merge_here(scratch: Path, count: int) -> None:
    """In the process that is watched."""
    from tokenizers import Tokenizer

    from tunesmith.export.dialogues import ANSWERED
    from tunesmith.export.held_out import token_rows
    from tunesmith.export.merge import merge
    from tunesmith.models.embedded import BOS, EOS, embedded_template
    from tunesmith.models.prompt_format import PromptFormat
    from tunesmith.workspace import Workspace

    template = embedded_template(Workspace(scratch / "ws", [scratch]))
    prompt_format = PromptFormat.from_chat_template(template, bos=BOS, eos=EOS)
    tokenizer = Tokenizer.from_file(str(scratch / "base" / "tokenizer.json"))
    rows = token_rows(ANSWERED, prompt_format, tokenizer)[:count]
    for name in ("merged", "compared"):
        (scratch / name).mkdir()
    made = merge(
        scratch / "base",
        scratch / "adapter",
        scratch / "merged",
        prompt_format=prompt_format,
        rows=rows,
        scratch=scratch / "compared",
        check=lambda: None,
    )
    print(
        json.dumps(
            {
                "rows": [len(row.ids) for row in made.reference.rows] if made.reference else [],
                "merge": made.divergence.model_dump() if made.divergence else None,
                "notes": made.notes,
            }
        )
    )


def convert_here(scratch: Path) -> None:
    """In the process that is watched; the converter is its child."""
    from tunesmith.export.gguf import convert
    from tunesmith.machine.llama_cpp import find_llama_cpp

    output = scratch / "f16.gguf"
    convert(find_llama_cpp(), scratch / "merged", output, "f16", name="random", check=lambda: None)
    print(json.dumps({"bytes": output.stat().st_size}))


def watched(phase: str, scratch: Path, rows: int) -> dict[str, Any]:
    """Run a phase in a process of its own: what it prints last, its seconds, its peaks."""
    command = [sys.executable, __file__, "--phase", phase, "--scratch", str(scratch), "--rows", str(rows)]
    began = time.monotonic()
    rss = anonymous = 0
    with (scratch / f"{phase}.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            now = [_resident(child) for child in _family(process.pid)]
            rss, anonymous = max(rss, sum(part[0] for part in now)), max(anonymous, sum(part[1] for part in now))
            time.sleep(0.2)
        log.seek(0)
        lines = log.read().splitlines()
    if process.returncode:
        raise SystemExit("\n".join(lines[-20:]))
    return {
        "s": round(time.monotonic() - began, 1),
        "peak_rss_gib": round(rss / GIB, 2),
        "peak_anonymous_gib": round(anonymous / GIB, 2),
        **json.loads(lines[-1]),
    }


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> tuple[int, int]:
    """Bytes in memory, and those of them that belong to no file."""
    try:
        info = process.memory_info()
    except psutil.NoSuchProcess:
        return 0, 0
    return info.rss, info.rss - getattr(info, "shared", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="7B")
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="the model, for another time")
    parser.add_argument("--phase", choices=["merge", "convert"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase == "merge":
        return merge_here(options.scratch, options.rows)
    if options.phase == "convert":
        return convert_here(options.scratch)
    scratch = (options.scratch or Path(tempfile.mkdtemp(prefix="tunesmith-merge-"))).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    if not (scratch / "base").is_dir():
        build(options.size, scratch / "base", scratch / "adapter")
    size = sum(path.stat().st_size for path in (scratch / "base").glob("*.safetensors"))
    print(f"built: {size / GIB:.1f} GiB", flush=True)
    found: dict[str, Any] = {"size": options.size, "base_gib": round(size / GIB, 2)}
    try:
        for phase in ("merge", "convert"):
            found[phase] = watched(phase, scratch, options.rows)
            print(phase, json.dumps(found[phase]), flush=True)
    finally:
        for made in ("merged", "compared", "ws", *(() if options.keep else ("base", "adapter"))):
            shutil.rmtree(scratch / made, ignore_errors=True)
        (scratch / "f16.gguf").unlink(missing_ok=True)
    print(json.dumps(found))
    return None


if __name__ == "__main__":
    main()
