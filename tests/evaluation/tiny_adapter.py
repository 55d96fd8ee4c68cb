"""A tiny base whose adapter knows one sentence by heart: `python tiny_adapter.py ROOT ORDER.json`.

Reads {prompt_format, question, answer, rows: [{question, answer}]} from the order,
rescales ROOT/base, saves ROOT/adapter, and prints, as JSON, the losses of both on
the rows, worked out the plain way: one row at a time, without batches or padding.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch  # noqa: TID253  # a script, never imported
from peft import LoraConfig, get_peft_model  # noqa: TID253  # a script, never imported
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM  # noqa: TID253  # a script, never imported

from tunesmith.models.prompt_format import PromptFormat


class Builder:
    def __init__(self, root: Path, order: dict[str, Any]) -> None:
        torch.manual_seed(1)
        self.base, self.adapter = root / "base", root / "adapter"
        self.format = PromptFormat.from_record(order["prompt_format"])
        self.tokenizer = Tokenizer.from_file(str(self.base / "tokenizer.json"))
        self.order = order

    def encode(self, question: str, answer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and labels of one row; the loss is on the answer and the token that ends it."""
        messages = [{"role": "user", "content": question}]
        prompt = self.ids(self.format.render(messages, add_generation_prompt=True))
        said = self.ids(answer + self.format.eos)
        return torch.tensor([prompt + said]), torch.tensor([[-100] * len(prompt) + said])

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def scale_base(self) -> Any:
        """With embeddings as small as they are drawn, no adapter could make one token much likelier than another."""
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        with torch.no_grad():
            model.get_input_embeddings().weight *= 15
        model.save_pretrained(self.base)
        return model

    def train(self, model: Any) -> None:
        ids, labels = self.encode(self.order["question"], self.order["answer"])
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        for _ in range(1000):
            loss = model(input_ids=ids, labels=labels).loss
            if loss.item() < 0.02:
                break
            loss.backward()
            # Without it the outcome hangs on the last bits of the processor's arithmetic.
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        assert loss.item() < 0.2, loss.item()

    @torch.no_grad()
    def loss(self, model: Any) -> float:
        total, tokens = 0.0, 0
        for row in self.order["rows"]:
            ids, labels = self.encode(row["question"], row["answer"])
            count = int((labels != -100).sum())
            total += model(input_ids=ids, labels=labels).loss.item() * count
            tokens += count
        return total / tokens


def main() -> None:
    torch.set_num_threads(1)
    builder = Builder(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    model = builder.scale_base()
    losses = {"base": builder.loss(model)}
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tuned = get_peft_model(
        model, LoraConfig(r=16, lora_alpha=32, target_modules=modules, task_type="CAUSAL_LM", lora_dropout=0.0)
    )
    builder.train(tuned)
    tuned.eval()
    losses["tuned"] = builder.loss(tuned)
    tuned.save_pretrained(str(builder.adapter), save_embedding_layers=False)
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
