"""The way of a family: a tiny base is trained, merged, converted, loaded and asked, all by the real workers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.models.dialogues import Messages, many
from tests.training.conftest import make_rows
from tunesmith.data.store import DatasetStore
from tunesmith.models.chat_templates import render
from tunesmith.models.gguf_file import read_gguf
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.store import ModelStore
from tunesmith.training.planning import plan, start_arguments
from tunesmith.training.recipe import parse_options
from tunesmith.work import run_by_hand
from tunesmith.workspace import Workspace

# Long enough that the tiny model learns by heart how its answers end.
RECIPE: dict[str, Any] = {
    "epochs": 40, "learning_rate": 0.02, "batch_size": 6, "gradient_accumulation": 1, "rank": 8, "max_length": 512,
    "early_stopping_patience": 100,
}  # fmt: skip
QUESTION = [{"role": "user", "content": "Which colour has lamp 3?"}]


def dialogues_for(prompt_format: PromptFormat) -> list[Messages]:
    """The 200 dialogues, without their system messages where the family has no place for one."""
    return [
        [message for message in messages if message["role"] != "system" or prompt_format.supports_system]
        for messages in many()
    ]


def metadata_prompt(gguf: Path) -> Callable[[Sequence[Any]], str]:
    """The prompt as a runtime makes it from the file alone: its chat template with its own first and end tokens."""
    fields = read_gguf(gguf).fields
    tokens = fields["tokenizer.ggml.tokens"]
    names = {kind: fields.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")}
    bos, eos = (tokens[names[kind]] if names[kind] is not None else None for kind in ("bos", "eos"))
    template = fields["tokenizer.chat_template"]
    return lambda messages: render(template, list(messages), bos=bos, eos=eos or "", add_generation_prompt=True)


class Chain:
    """One base on its way.

    Attributes:
        prompt_format: what was trained, once it was.
        seconds: of each step.
    """

    def __init__(self, base: Path, folder: Path, *, alpaca: bool) -> None:
        self.base = base
        self.alpaca = alpaca
        self.workspace = Workspace(folder / "workspace", [base.parent])
        self.seconds: dict[str, float] = {}

    @property
    def prompt_format(self) -> PromptFormat:
        return PromptFormat.from_record(ModelStore(self.workspace).get(self.model_id).prompt_format)

    def run(self, quantizations: Sequence[str] = ("f16", "q8_0")) -> dict[str, Any]:
        """Train and export. The export's result."""
        dataset = DatasetStore(self.workspace).create(make_rows(12), name="lamps", created_by="test")
        options = parse_options({**RECIPE, **({"prompt_format": "alpaca"} if self.alpaca else {})})
        arguments = start_arguments(plan(self.workspace, dataset.dataset_id, str(self.base), options))
        self.model_id = self._work("train", arguments)["model_id"]
        order = {"model_id": self.model_id, "quantizations": list(quantizations), "adapter_only": False, "verify": True}
        return self._work("export", order)

    def answer(self, gguf: str, tokens: int = 24) -> str:
        """What llama.cpp answers, loaded anew, to a question in the trained prompt."""
        order = {"gguf": gguf, "prompt": self.prompt_format.ollama_prompt(QUESTION), "tokens": tokens}
        command = [sys.executable, "-m", "tests.export.families", json.dumps(order)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    def _work(self, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        run_dir = run_by_hand(self.workspace, kind, arguments)
        module = "tunesmith.training.worker" if kind == "train" else "tunesmith.export.worker"
        with (run_dir / "log.txt").open("ab") as log:
            subprocess.run(
                [sys.executable, "-m", module, str(run_dir)], stdout=log, stderr=log, timeout=300, check=False
            )
        self.seconds[kind] = round(time.monotonic() - began, 1)
        left = run_dir / "result.json"
        assert left.is_file(), (run_dir / "log.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
        answer = json.loads(left.read_text(encoding="utf-8"))
        assert "result" in answer, answer
        return answer["result"]


def _ask(order: dict[str, Any]) -> str:
    from cyllama import LLM, GenerationConfig

    config = GenerationConfig(max_tokens=order["tokens"], temperature=0.0, n_ctx=512)
    return str(LLM(order["gguf"], config=config)(order["prompt"]))


if __name__ == "__main__":
    print(json.dumps(_ask(json.loads(sys.argv[1]))))
