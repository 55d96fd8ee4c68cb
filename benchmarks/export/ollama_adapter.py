"""What an adapter on a base does in llama.cpp's server, against base plus adapter as they were trained.

    python benchmarks/export/ollama_adapter.py WORKSPACE MODEL [--questions 20]

Ollama from 0.30 on hands a model with an adapter to llama.cpp's server as --model and --lora; this does the same with
the packaged server, the GGUF that `register_ollama(quantization="adapter")` uploads as base, and the adapter that
`export_gguf(adapter_only=true)` made. Each question of the held-out rows is rendered as Ollama must render it, and the
server's log-probabilities of the next token are held against transformers' and PEFT's in float32. Once more with the
server's base alone: what an adapter that is not applied would look like.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - nothing here does without it
from peft import PeftModel  # noqa: TID253
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM  # noqa: TID253

from tunesmith.export.dialogues import ANSWERED
from tunesmith.export.exporting import export_model
from tunesmith.export.ollama_base import base_gguf
from tunesmith.models.bases import base_folder, tokenizer_for
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.store import ModelStore
from tunesmith.workspace import Workspace

TOP = 10  # likeliest tokens compared
WRITTEN = 8  # tokens of each greedy answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("model")
    parser.add_argument("--questions", type=int, default=20)
    options = parser.parse_args()
    workspace = Workspace(options.workspace.resolve(), [])
    store = ModelStore(workspace)
    record = store.get(options.model)
    if record.file("lora_gguf") is None:
        export_model(workspace, record.model_id, adapter_only=True)
        record = store.get(record.model_id)
    base = base_gguf(workspace, record, say=print, check=lambda: None)
    entry = record.file("lora_gguf")
    assert entry is not None
    adapter = store.folder(record.model_id) / entry.path
    prompt_format = PromptFormat.from_record(record.prompt_format)
    prompts = [prompt_format.ollama_prompt(messages) for messages in _questions(workspace, record.dataset_id)]
    prompts = prompts[: options.questions]
    theirs = _trained(workspace, record.base_model, store.folder(record.model_id) / "adapter", prompts)
    result = {
        "model": record.model_id,
        "base": base.path.name,
        "adapter": adapter.name,
        "questions": len(prompts),
        "with_adapter": _compare(theirs, _served(base.path, adapter, prompts)),
        "base_alone": _compare(theirs, _served(base.path, None, prompts)),
    }
    print(json.dumps(result))


def _questions(workspace: Workspace, dataset_id: str | None) -> list[Any]:
    from tunesmith.data.store import DatasetStore

    if dataset_id is None:
        return [dialogue[:-1] for dialogue in ANSWERED]
    rows = [row for row in DatasetStore(workspace).rows(dataset_id) if row.split == "eval"]
    return [row.messages[:-1] for row in rows]


def _trained(workspace: Workspace, base_model: str, adapter: Path, prompts: list[str]) -> list[dict[str, Any]]:
    """For each prompt: {"logprobs": token → log-probability of the likeliest, "answer": greedy token ids}."""
    tokenizer: Tokenizer = tokenizer_for(workspace, base_model)
    model = AutoModelForCausalLM.from_pretrained(base_folder(workspace, base_model), dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    found = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids).logits[0, -1].double(), dim=-1)
            answer = model.generate(ids, max_new_tokens=WRITTEN, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        top = torch.topk(logprobs, TOP)
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        found.append({"logprobs": dict(pairs), "answer": answer.tolist()})
    return found


def _served(base: Path, adapter: Path | None, prompts: list[str]) -> list[dict[str, Any]]:
    """The same from llama.cpp's server."""
    import urllib.request

    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(base)
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_parallel = 1
    parameters.n_ctx = 2048
    parameters.warmup = False
    parameters.ui = False
    if adapter is not None:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(adapter), 1.0
        parameters.lora_adapters = [info]
    server = xllamacpp.Server(parameters)
    found = []
    for prompt in prompts:
        body = {"prompt": prompt, "n_predict": WRITTEN, "temperature": 0, "n_probs": 200, "return_tokens": True,
                "cache_prompt": False}  # fmt: skip
        request = urllib.request.Request(
            f"{server.listening_address}/completion",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as reply:
            said = json.load(reply)
        first = said["completion_probabilities"][0]
        # The server leaves out a token that is only a part of a character; then the first it tells of is a later one.
        told = first["top_logprobs"] if first["id"] == said["tokens"][0] else []
        found.append({"logprobs": {entry["id"]: entry["logprob"] for entry in told}, "answer": said["tokens"]})
    return found


def _compare(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, float]:
    differences: list[float] = []
    compared = same_top = same_answer = 0
    for wanted, got in zip(theirs, ours, strict=True):
        told = got["logprobs"]
        if told:
            compared += 1
            floor = min(told.values())
            differences += [abs(value - told.get(token, floor)) for token, value in wanted["logprobs"].items()]
            same_top += next(iter(wanted["logprobs"])) == max(told, key=lambda token: told[token])
        length = min(len(wanted["answer"]), len(got["answer"]), WRITTEN - 1)
        same_answer += wanted["answer"][:length] == got["answer"][:length]
    return {
        "compared": compared,
        "mean_abs_logprob_difference": round(sum(differences) / len(differences), 5),
        "max_abs_logprob_difference": round(max(differences), 5),
        "same_top_token": round(same_top / max(1, compared), 4),
        "same_greedy_answer": round(same_answer / len(theirs), 4),
    }


if __name__ == "__main__":
    main()
