"""Tiny models of each family: its architecture with random weights, its kind of tokenizer trained on a page of text.

    python -m tests.export.family_models FOLDER [FAMILY ...]

writes FOLDER/FAMILY, ready to be trained: config, safetensors, tokenizer, chat template.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.models.dialogues import many
from tests.models.templates import EXAMPLES

VOCABULARY = 700  # of which 256 are bytes


@dataclass(frozen=True)
class Family:
    """How a model of a family looks.

    Attributes:
        architecture: the class in transformers.
        template: the name of its chat template in tests/models/templates.py; None: it has none (alpaca).
        tokenizer: qwen2, llama3, cl100k (bytes, merged by these rules), sentencepiece.
        special: tokens of the turns. With SentencePiece: control pieces; those `after` it are added behind them.
        only_model: there is a tokenizer.model and no tokenizer.json, as older models have it.
        settings: of tokenizer_config.json.
        shape: of the architecture, beside what all have.
    """

    architecture: str
    template: str | None
    tokenizer: str
    special: tuple[str, ...]
    after: tuple[str, ...] = ()
    only_model: bool = False
    bos: str | None = None
    eos: str = ""
    pad: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_PHI3 = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
_GEMMA: dict[str, Any] = {
    "tokenizer": "sentencepiece", "special": ("<start_of_turn>", "<end_of_turn>"),
    "bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "settings": {"tokenizer_class": "GemmaTokenizer"},
}  # fmt: skip
_WIDE = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}

FAMILIES: dict[str, Family] = {
    "chatml": Family(
        "Qwen2ForCausalLM", "chatml_default_system", "qwen2", _CHATML, eos="<|im_end|>", pad="<|endoftext|>",
        shape={"tie_word_embeddings": True},
    ),
    "llama3": Family(
        "LlamaForCausalLM", "llama3_dated", "llama3", _LLAMA3,
        bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|end_of_text|>", shape={"rope_theta": 500000.0},
    ),
    "mistral": Family(
        "MistralForCausalLM", "mistral_trims_answers", "sentencepiece", ("[INST]", "[/INST]"), only_model=True,
        bos="<s>", eos="</s>", pad="</s>", settings={"tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
    ),
    # Six layers: in Gemma 3 the sixth is the first that sees the whole text.
    "gemma": Family("Gemma3ForCausalLM", "gemma", **_GEMMA, shape={**_WIDE, "num_hidden_layers": 6}),
    "phi": Family(
        "Phi3ForCausalLM", "phi3", "sentencepiece", (), after=_PHI3,
        bos="<s>", eos="<|endoftext|>", pad="<|endoftext|>",
        settings={"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "legacy": False},
    ),
    "alpaca": Family(
        "LlamaForCausalLM", None, "sentencepiece", (), bos="<s>", eos="</s>", pad="</s>",
        settings={"tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
    ),
    # A second architecture or tokenizer where a family has several.
    "chatml-qwen3": Family(
        "Qwen3ForCausalLM", "chatml_thinking", "qwen2", _CHATML, eos="<|im_end|>", pad="<|endoftext|>",
        shape={"head_dim": 16},
    ),
    "gemma2": Family("Gemma2ForCausalLM", "gemma_no_system", **_GEMMA, shape=_WIDE),
    "mistral-once": Family(
        "MistralForCausalLM", "mistral_trims_answers", "sentencepiece-once", ("[INST]", "[/INST]"),
        bos="<s>", eos="</s>", pad="</s>", settings={"tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
    ),
    "phi4": Family(
        "Phi3ForCausalLM", "phi4", "cl100k", ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"),
        bos="<|endoftext|>", eos="<|im_end|>", pad="<|endoftext|>", settings={"tokenizer_class": "GPT2Tokenizer"},
    ),
    "alpaca-qwen": Family(
        "Qwen2ForCausalLM", None, "qwen2", _CHATML, eos="<|endoftext|>", pad="<|endoftext|>",
    ),
}  # fmt: skip
SIX = ("chatml", "llama3", "mistral", "gemma", "phi", "alpaca")

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    name: rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{_REST}"
    for name, digits in (("qwen2", r"\p{N}"), ("llama3", r"\p{N}{1,3}"), ("cl100k", r"\p{N}{1,3}"))
}


def corpus() -> Iterator[str]:
    """A page of text in many scripts, line by line."""
    for dialogue in many(60):
        for message in dialogue:
            yield from (line[:300] for line in message["content"].replace("\0", "").splitlines() if line.strip())


def build(name: str, folder: Path) -> None:
    """Write the tiny model of a family into `folder`."""
    family = FAMILIES[name]
    folder.mkdir(parents=True)
    tokenizer = make_tokenizer(family, folder)
    if not family.only_model:
        tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": family.eos, "pad_token": family.pad,
        **({"bos_token": family.bos} if family.bos else {}), **family.settings,
    }  # fmt: skip
    if family.template is not None:
        settings["chat_template"] = EXAMPLES[family.template].text
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    ids = {
        kind: tokenizer.token_to_id(token)
        for kind, token in (("bos", family.bos), ("eos", family.eos), ("pad", family.pad))
        if token
    }
    _weights(family, folder, tokenizer.get_vocab_size(), ids)


def make_tokenizer(family: Family, folder: Path) -> Any:
    """The tokenizer; of the SentencePiece kind its tokenizer.model is left in `folder`."""
    return _sentencepiece(family, folder) if family.tokenizer.startswith("sentencepiece") else _bytes(family)


def _bytes(family: Family) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=family.tokenizer == "llama3"))
    split = pre_tokenizers.Split(Regex(_SPLITS[family.tokenizer]), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    if family.tokenizer == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens(list(family.special))
    if family.tokenizer == "llama3":
        first = (family.bos, tokenizer.token_to_id(family.bos))
        tokenizer.post_processor = processors.TemplateProcessing(f"{family.bos} $A", None, [first])
    return tokenizer


def train_sentencepiece(family: Family, folder: Path) -> None:
    """Write tokenizer.model and what belongs to it."""
    from sentencepiece import SentencePieceTrainer

    gemma = family.bos == "<bos>"
    ids = (
        {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "bos_piece": "<bos>", "eos_piece": "<eos>",
         "pad_piece": "<pad>", "user_defined_symbols": [*family.special, "\n", "\n\n", "▁▁", "▁▁▁▁"]}
        if gemma
        else {"unk_id": 0, "bos_id": 1, "eos_id": 2, "control_symbols": list(family.special)}
    )  # fmt: skip
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=corpus(), model_writer=written, model_type="bpe", vocab_size=VOCABULARY, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=not gemma,
        split_digits=True, allow_whitespace_only_pieces=True, character_coverage=0.98, minloglevel=2, **ids,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    added = {token: VOCABULARY + number for number, token in enumerate(family.after)}
    if added:
        (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "tokenizer_config.json").write_text(json.dumps(family.settings))


def _sentencepiece(family: Family, folder: Path) -> Any:
    from tokenizers import pre_tokenizers

    from tunesmith.models.sentencepiece_model import tokenizer_from_model

    train_sentencepiece(family, folder)
    tokenizer = tokenizer_from_model(folder)
    if family.after:  # Phi-3's swallow the blanks after them
        description = json.loads(tokenizer.to_str())
        for token in description["added_tokens"]:
            token["rstrip"] = token["content"] in {*family.after[1:], "</s>"}
        tokenizer = type(tokenizer).from_str(json.dumps(description))
    if family.tokenizer == "sentencepiece-once":
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
    return tokenizer


def _weights(family: Family, folder: Path, vocabulary: int, ids: dict[str, int]) -> None:
    import torch
    import transformers

    torch.manual_seed(7)
    architecture = getattr(transformers, family.architecture)
    config = architecture.config_class(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=1024,
        **{f"{kind}_token_id": number for kind, number in ids.items()},
        **{"original_max_position_embeddings": 1024} if family.architecture == "Phi3ForCausalLM" else {},
        **{"num_hidden_layers": 2, **family.shape},
    )  # fmt: skip
    model = architecture(config)
    for name, weight in model.named_parameters():
        if "norm" not in name:
            # Distributions that are neither flat nor certain, so that differences show.
            torch.nn.init.normal_(weight, std=0.15)
    model.to(torch.float32).save_pretrained(folder)


if __name__ == "__main__":
    root, *names = sys.argv[1:]
    for family_name in names or FAMILIES:
        build(family_name, Path(root) / family_name)
