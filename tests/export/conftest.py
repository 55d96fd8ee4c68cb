"""A tiny Llama with the embedded model's tokenizer, and LoRA adapters for it: real files, converted in seconds."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.warm_workers import WarmWorker
from tunesmith.data.records import Message, Row
from tunesmith.data.store import DatasetStore
from tunesmith.export.gguf import convert
from tunesmith.machine.llama_cpp import find_llama_cpp
from tunesmith.models.bases import prompt_format_for, tokenizer_for
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelRecord
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.work import run_by_hand
from tunesmith.workspace import Workspace, new_id

QUESTIONS = [
    ("What does the amber lamp on the Quillon mean?", "The tank is below two litres. Refill it before noon."),
    ("谁负责校准？", "校准由林师傅负责，每周一早上八点。"),
    ("How do I open the lid?", "Turn the brass ring left.\n\nThen lift it with both hands."),
    ("Show the reset code.", '```python\ndef reset(valve):\n    """Reset one valve."""\n    return f"V{valve}!"\n```'),
]


@dataclass
class Tiny:
    """A workspace with a tiny base model and one trained adapter."""

    workspace: Workspace
    base: Path
    adapter: Path
    dataset_id: str
    prompt_format: PromptFormat

    def model(self, name: str = "Quillon notes", **changes: Any) -> ModelRecord:
        """A new model with a copy of the adapter."""
        facts = {
            "name": name,
            "base_model": str(self.base),
            "method": "lora",
            "prompt_format": self.prompt_format.as_record(),
            "recipe": {"max_length": 256, "rank": 4},
            "dataset_id": self.dataset_id,
        }
        model_id = new_id("mdl")
        folder = self.workspace.models / model_id
        shutil.copytree(self.adapter, folder / "adapter")
        store = ModelStore(self.workspace)
        store.new(**{**facts, **changes}, model_id=model_id)
        return store.update(model_id, add_files=[describe_file(folder, folder / "adapter", "adapter")])

    def folder(self, record: ModelRecord) -> Path:
        return self.workspace.models / record.model_id

    def names(self, record: ModelRecord) -> set[str]:
        """What lies in a model's folder."""
        return {path.name for path in self.folder(record).iterdir()}

    def start(self, kind: str, record: ModelRecord, **args: Any) -> tuple[WarmWorker, Path]:
        """The worker process."""
        run_dir = run_by_hand(self.workspace, kind, {"model_id": record.model_id, **args})
        return WarmWorker("export", run_dir, os.environ), run_dir

    def run(self, kind: str, record: ModelRecord, **args: Any) -> dict[str, Any]:
        """What the worker leaves: {"result": …} or {"error": …}."""
        process, run_dir = self.start(kind, record, **args)
        process.wait(120)
        left = run_dir / "result.json"
        assert left.is_file(), (run_dir / "log.txt").read_text()
        return json.loads(left.read_text())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("export")
    base = root / "bases" / "tiny"
    base.mkdir(parents=True)
    workspace = Workspace(root / "workspace", [base.parent])
    prompt_format = prompt_format_for(workspace, "embedded")
    tokenizer_for(workspace, "embedded").save(str(base / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "chat_template": prompt_format.template,
    }
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    adapter = root / "adapter"
    make_model(base, adapter)
    rows = [
        Row(
            row_id="",
            messages=[Message(role="user", content=question), Message(role="assistant", content=answer)],
            split="eval" if number % 2 else "train",
        )
        for number, (question, answer) in enumerate(QUESTIONS * 3)
    ]
    dataset = DatasetStore(workspace).create(rows, name="quillon", created_by="add_examples")
    return Tiny(workspace, base, adapter, dataset.dataset_id, prompt_format)


@pytest.fixture(scope="session")
def f16(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base as a 16-bit GGUF."""
    path = tmp_path_factory.mktemp("f16") / "f16.gguf"
    convert(find_llama_cpp(), tiny.base, path, "f16", name="tiny", check=lambda: None)
    return path


def make_model(base: Path, adapter: Path) -> None:
    """A random Llama of two layers in `base`, a random LoRA on it in `adapter`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    # Distributions that are neither flat nor certain, so that differences show.
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    model.save_pretrained(base)
    lora = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    for name, weight in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    lora.save_pretrained(adapter, save_embedding_layers=False)
