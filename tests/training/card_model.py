"""A Llama large enough for a card's memory to be measured: `python card_model.py FOLDER`. Random, no download."""

from __future__ import annotations

import sys
from pathlib import Path

SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


def build(folder: Path, **shape: int) -> None:
    import torch
    from tiny_model import build as build_tiny  # for its tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    build_tiny(folder)
    config = LlamaConfig(**{**SHAPE, **shape}, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    torch.manual_seed(7)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
