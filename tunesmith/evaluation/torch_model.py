"""Models run by transformers: those that are not exported as GGUF, and held-out losses.

Only for worker processes: the libraries are imported when a model is loaded. One
base is loaded once; the adapters trained on it are put on and taken off.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith.models.endpoints import Draw

BATCH_TOKENS = 2048  # of one forward pass over held-out rows, padding included
IGNORED = -100


class TorchModel:
    """A base model in memory with the adapters that were trained on it.

    Args:
        folder: config.json, *.safetensors.

    Attributes:
        device: cuda or cpu.
        context: tokens the model can see, prompt and answer together.
    """

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        # On most CPUs 16-bit numbers are many times slower than 32-bit ones.
        dtype = torch.float32
        if self.device == "cuda":
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        loaded: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, use_safetensors=True)
        self._model: Any = loaded.to(self.device).eval()
        self._adapters: dict[Path, str] = {}
        self.context = int(getattr(self._model.config, "max_position_embeddings", 0) or 4096)

    @contextlib.contextmanager
    def wearing(self, adapter: Path | None) -> Iterator[Any]:
        """The model with an adapter on, or bare."""
        if adapter is None:
            bare = self._model.disable_adapter() if self._adapters else contextlib.nullcontext()
            with bare:
                yield self._model
            return
        name = self._adapters.get(adapter) or self._load(adapter)
        self._model.set_adapter(name)
        yield self._model

    def generate(
        self, prompts: Sequence[Sequence[int]], draw: Draw, ends: Sequence[int], adapter: Path | None
    ) -> list[list[int]]:
        """Token ids that continue each prompt, ending with one of `ends` or after `max_tokens`.

        Args:
            prompts: token ids; padded on the left where they differ in length.
            ends: token ids that end an answer.
        """
        import torch

        longest = max(len(prompt) for prompt in prompts)
        pad = ends[0]
        ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=self.device)
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.device
        )
        torch.manual_seed(draw.seed)
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if draw.temperature > 0:
            sampling = {"do_sample": True, "temperature": draw.temperature, "top_p": 1.0, "top_k": 0}
        with self.wearing(adapter) as model, torch.inference_mode():
            made = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=min(draw.max_tokens, max(1, self.context - longest)),
                eos_token_id=list(ends),
                pad_token_id=pad,
                **sampling,
            )
        return [_until_end(row, ends) for row in made[:, longest:].tolist()]

    def losses(self, rows: Sequence[tuple[list[int], list[int]]], adapter: Path | None) -> list[tuple[float, int]]:
        """For each row the summed loss over its trained tokens, in nats, and how many they are.

        Args:
            rows: token ids and labels; a label of -100 carries no loss.
        """
        import torch

        result: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
        with self.wearing(adapter) as model, torch.inference_mode():
            for batch in _batches(order, rows):
                longest = max(len(rows[index][0]) for index in batch)
                ids = torch.tensor([_padded(rows[index][0], longest, 0) for index in batch], device=self.device)
                labels = torch.tensor(
                    [_padded(rows[index][1], longest, IGNORED) for index in batch], device=self.device
                )
                mask = torch.tensor(
                    [_padded([1] * len(rows[index][0]), longest, 0) for index in batch], device=self.device
                )
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                targets = labels[:, 1:]
                for place, index in enumerate(batch):
                    # Only where there is loss: the scores over a vocabulary are the largest thing here.
                    trained = targets[place] != IGNORED
                    scores = logits[place, :-1][trained].float()
                    loss = torch.nn.functional.cross_entropy(scores, targets[place][trained], reduction="sum")
                    result[index] = (float(loss), int(trained.sum()))
        return result

    def _load(self, adapter: Path) -> str:
        from peft import PeftModel

        name = f"adapter{len(self._adapters)}"
        if self._adapters:
            self._model.load_adapter(str(adapter), adapter_name=name)
        else:
            self._model = PeftModel.from_pretrained(self._model, str(adapter), adapter_name=name)
        self._model.eval()
        self._adapters[adapter] = name
        return name


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """Up to and with the first end; what follows is padding."""
    for position, token in enumerate(ids):
        if token in ends:
            return ids[: position + 1]
    return ids


def _batches(order: Sequence[int], rows: Sequence[tuple[list[int], list[int]]]) -> Iterator[list[int]]:
    """Rows of like length together, as many as fit the token budget; at least one."""
    batch: list[int] = []
    for index in order:  # ascending: the newest is the longest
        if batch and (len(batch) + 1) * len(rows[index][0]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _padded(values: Sequence[int], length: int, filler: int) -> list[int]:
    return [*values, *[filler] * (length - len(values))]
