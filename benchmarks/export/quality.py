"""The figures of an export, computed a second time without any of its code, and what the files answer.

    python benchmarks/export/quality.py WORKSPACE MODEL [--only kld,parts,greedy,stop] [--questions 100]

MODEL is one that trained.py made; it is exported as f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0 and iq4_xs first.

kld     transformers reads each GGUF (its weights dequantised by the gguf package) into float32 and runs the held-out
        rows; softmax and KL in float64. Twice: with the file's weights alone, and with the inputs of each layer rounded
        too, as llama.cpp's kernels do on a CPU (to 8 bits in blocks of 32 or 256 for quantised weights, to 16 bits
        for 16-bit ones and for queries, keys and values). The second is what a file computes; the first is what it
        holds.
greedy  the f16 file's answers against the merged weights' in float32, token by token, and how near the two best
        tokens were where they part.
parts   which matrices a file's divergence comes from: the merged weights with one kind of matrices taken from the file.
stop    how many answers to held-out questions end by themselves, coarse file and fine.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import speed
import tokenizers
import torch  # noqa: TID253 - nothing here does without it
from gguf import GGMLQuantizationType, GGUFReader
from transformers import AutoModelForCausalLM  # noqa: TID253

from tunesmith.export.gguf import threads
from tunesmith.export.held_out import token_rows
from tunesmith.export.llama_job import run_job
from tunesmith.export.stopping import questions
from tunesmith.export.worker import held_out
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.store import ModelStore
from tunesmith.workspace import Workspace

QUANTIZATIONS = ("f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs")
CLOSE = 0.05  # two logits nearer than this may change places by rounding to 16 bits
# Types whose kernels take inputs in blocks of 256; the other quantised ones take 32.
WIDE = {GGMLQuantizationType[name] for name in ("Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q2_K", "Q3_K")}

MATRICES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("model")
    parser.add_argument("--only", default="kld,greedy,stop")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--exported", action="store_true", help="MODEL holds every file already: do not export again")
    options = parser.parse_args()
    workspace = Workspace(options.workspace.resolve(), [])
    model_id = options.model
    if not options.exported:
        model_id = speed.copy_of(workspace, options.model)
        result, _ = speed.export(workspace, model_id, list(QUANTIZATIONS))
        ModelStore(workspace).folder(model_id).joinpath("result.json").write_text(json.dumps(result))
    result = json.loads(ModelStore(workspace).folder(model_id).joinpath("result.json").read_text())
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "kld": lambda: divergences(workspace, model_id, result),
        "parts": lambda: by_matrix(workspace, model_id, result),
        "greedy": lambda: greedy(workspace, model_id, options.questions),
        "stop": lambda: stopping(workspace, model_id, options.questions),
    }
    print(json.dumps({"model": model_id, **{name: parts[name]() for name in options.only.split(",")}}))


def divergences(workspace: Workspace, model_id: str, result: dict[str, Any]) -> dict[str, Any]:
    """Quantisation → {reported, weights, kernels}: mean KL in nats."""
    texts, prompt_format, tokenizer, folder = _setting(workspace, model_id)
    rows = token_rows(texts.conversations, prompt_format, tokenizer)[: result["verified_on"]["rows"]]
    expected = list(_logprobs(_load(folder / "merged"), rows))
    found = {}
    for file in result["files"]:
        model = _load_gguf(Path(file["path"]))
        weights = _mean_kld(expected, _logprobs(model, rows))
        hooks = _round_inputs(model, Path(file["path"]))
        kernels = _mean_kld(expected, _logprobs(model, rows))
        for hook in hooks:
            hook.remove()
        name, reported = file["quantization"], file["mean_kld"]
        found[name] = {
            "reported": reported,
            "weights": float(f"{weights:.4g}"),
            "kernels": float(f"{kernels:.4g}"),
            "apart": round(reported / kernels - 1, 3),
            "importance": file["importance"],
            "mib": round(file["bytes"] / 2**20, 1),
        }
        print(name, found[name], flush=True)
    return found


def by_matrix(workspace: Workspace, model_id: str, result: dict[str, Any]) -> dict[str, Any]:
    """Quantisation → matrix → mean KL in nats on the first three rows."""
    texts, prompt_format, tokenizer, folder = _setting(workspace, model_id)
    rows = token_rows(texts.conversations, prompt_format, tokenizer)[:3]
    model = _load(folder / "merged")
    expected = list(_logprobs(model, rows))
    found: dict[str, Any] = {}
    for file in result["files"]:
        if file["quantization"] not in ("q6_k", "q5_k_m", "q4_k_m"):
            continue
        other = dict(_load_gguf(Path(file["path"])).named_parameters())
        found[file["quantization"]] = {}
        for kind in MATRICES:
            own = {name: weight for name, weight in model.named_parameters() if f".{kind}." in name}
            kept = {name: weight.data for name, weight in own.items()}
            for name, weight in own.items():
                weight.data = other[name].data
            found[file["quantization"]][kind] = float(f"{_mean_kld(expected, _logprobs(model, rows)):.3g}")
            for name, weight in own.items():
                weight.data = kept[name]
        print("parts", file["quantization"], found[file["quantization"]], flush=True)
    return found


def greedy(workspace: Workspace, model_id: str, number: int) -> dict[str, Any]:
    """How the f16 file's answers differ from the merged weights'."""
    texts, prompt_format, tokenizer, folder = _setting(workspace, model_id)
    what = questions(texts.conversations, texts.training, prompt_format, tokenizer, at_most=number)
    theirs = _answers(workspace, model_id, "f16", what.prompts, what.limit)
    model = _load(folder / "merged")
    end = tokenizer.token_to_id(prompt_format.eos)
    same = tokens = close = 0
    parted: list[float] = []
    for prompt, answer in zip(what.prompts, theirs, strict=True):
        expected, gaps = _greedy(model, prompt, what.limit, end)
        got = [*answer["tokens"], *([end] if answer["stopped"] else [])]
        tokens += len(expected)
        close += sum(gap < CLOSE for gap in gaps)
        same += got == expected
        if got != expected:
            first = next((n for n, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1]), None)
            parted.append(round(gaps[first], 5) if first is not None else -1.0)
    facts = {"questions": len(what.prompts), "identical": same, "tokens": tokens, "close_positions": close}
    print("greedy", facts, parted, flush=True)
    return {**facts, "close": CLOSE, "gap_where_they_part": parted}


def stopping(workspace: Workspace, model_id: str, number: int) -> dict[str, Any]:
    """Stop rates on held-out questions."""
    texts, prompt_format, tokenizer, _ = _setting(workspace, model_id)
    what = questions(texts.conversations, texts.training, prompt_format, tokenizer, at_most=number)
    found: dict[str, Any] = {"limit_tokens": what.limit}
    for name in ("f16", "q4_k_m", "q4_0"):
        answers = _answers(workspace, model_id, name, what.prompts, what.limit)
        stopped = sum(answer["stopped"] is True for answer in answers)
        found[name] = {"asked": len(answers), "stopped": stopped, "rate": round(stopped / len(answers), 4)}
        print("stop", name, found[name], flush=True)
    return found


def _setting(workspace: Workspace, model_id: str) -> tuple[Any, PromptFormat, tokenizers.Tokenizer, Path]:
    store = ModelStore(workspace)
    record = store.get(model_id)
    work: Any = SimpleNamespace(workspace=workspace)
    folder = store.folder(model_id)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "merged" / "tokenizer.json"))
    return held_out(work, record), PromptFormat.from_record(record.prompt_format), tokenizer, folder


def _answers(
    workspace: Workspace, model_id: str, quantization: str, prompts: Sequence[Sequence[int]], limit: int
) -> list[dict[str, Any]]:
    store = ModelStore(workspace)
    file = store.get(model_id).file("gguf", quantization)
    assert file is not None
    order = {
        "model": str(store.folder(model_id) / file.path),
        "prompts": prompts,
        "limit": limit,
        "slots": 8,
        "cut_loops": False,
        "beginning_s": 3600,
        "ending_s": 3600,
        "threads": threads(),
    }
    return run_job("answer", order, check=lambda: None)["answers"]


def _load(folder: Path, **more: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **more).eval()


def _load_gguf(path: Path) -> Any:
    return _load(path.parent, gguf_file=path.name)


def _logprobs(model: Any, rows: Sequence[Any]) -> Iterator[torch.Tensor]:
    """Float64 of shape (positions, vocabulary), one a row."""
    with torch.inference_mode():
        for row in rows:
            logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, row.positions]
            yield torch.log_softmax(logits.double(), dim=-1)


def _mean_kld(expected: Sequence[torch.Tensor], candidate: Iterator[torch.Tensor]) -> float:
    found = [(ours.exp() * (ours - theirs)).sum(-1) for ours, theirs in zip(expected, candidate, strict=True)]
    return float(torch.cat(found).mean())


def _round_inputs(model: Any, path: Path) -> list[Any]:
    """Have each layer's inputs rounded as llama.cpp's kernel for its weight's type rounds them."""
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(path).tensors}
    hooks = []
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        parts = name.split(".")
        tensor = f"blk.{parts[2]}.{MATRICES[parts[-1]]}.weight" if len(parts) > 2 else "output.weight"
        kind = kinds.get(tensor, kinds["token_embd.weight"])
        hooks.append(module.register_forward_pre_hook(lambda _, inputs, kind=kind: (_rounded(inputs[0], kind),)))
        if parts[-1] in ("q_proj", "k_proj", "v_proj"):
            hooks.append(module.register_forward_hook(lambda _, inputs, output: output.half().float()))
    return hooks


def _rounded(values: torch.Tensor, kind: GGMLQuantizationType) -> torch.Tensor:
    if kind == GGMLQuantizationType.F32:
        return values
    if kind in (GGMLQuantizationType.F16, GGMLQuantizationType.BF16):
        return values.to(torch.float16 if kind == GGMLQuantizationType.F16 else torch.bfloat16).float()
    block = 256 if kind in WIDE else 32
    blocks = values.reshape(*values.shape[:-1], -1, block)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    if block == 32:
        scale = scale.half().float()  # stored in half precision
    whole = torch.where(scale > 0, (blocks / scale.clamp_min(1e-30)).round(), torch.zeros_like(blocks))
    return (whole * scale).reshape(values.shape)


def _greedy(model: Any, prompt: Sequence[int], limit: int, end: int) -> tuple[list[int], list[float]]:
    """The likeliest token again and again, and by how much its logit was the highest."""
    tokens: list[int] = []
    gaps: list[float] = []
    state, ids = None, torch.tensor([list(prompt)])
    with torch.inference_mode():
        while len(tokens) < limit:
            out = model(input_ids=ids, past_key_values=state, use_cache=True)
            best = out.logits[0, -1].topk(2)
            tokens.append(int(best.indices[0]))
            gaps.append(float(best.values[0] - best.values[1]))
            if tokens[-1] == end:
                break
            state, ids = out.past_key_values, best.indices[:1].reshape(1, 1)
    return tokens, gaps


if __name__ == "__main__":
    main()
