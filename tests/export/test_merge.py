"""Adapters merged into tiny models of several architectures, held against what PEFT makes of them in memory."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer, models

from tests.training.tiny_model import CHATML, SPECIAL
from tunesmith.errors import BadInput, CheckFailed, OutOfMemory
from tunesmith.export import merge_whole, streamed
from tunesmith.export.merge import Merged, merge, record_whole
from tunesmith.export.quality import Reference, TokenRow
from tunesmith.models.prompt_format import PromptFormat

if TYPE_CHECKING:
    import torch

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
# Lengths that make batches of their own and some that share one.
ROWS = [
    TokenRow([(7 * place * place + 11 * row) % 300 for place in range(length)], list(range(3, length - 1)))
    for row, length in enumerate((12, 40, 41, 9, 25))
]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def nothing() -> None:
    pass


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class Place:
    """Folders for one merge."""

    def __init__(self, root: Path) -> None:
        names = ("base", "adapter", "output", "scratch")
        self.base, self.adapter, self.output, self.scratch = (root / name for name in names)
        for folder in (self.base, self.adapter, self.output, self.scratch):
            folder.mkdir()

    def model(self, kind: str, dtype: str = "float32", *, shard: str = "1GB", **changes: Any) -> Any:
        """A new random model of an architecture, saved as the base."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(3)
        config = AutoConfig.for_model(kind, **{**SMALL, **changes})
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        model.save_pretrained(self.base, max_shard_size=shard)
        return model

    def lora(self, model: Any, targets: list[str], **settings: Any) -> None:
        """A random adapter for the model, saved."""
        import torch
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": targets, **settings})
        lora = get_peft_model(model, config)
        for name, weight in lora.named_parameters():
            if "lora_B" in name or "magnitude" in name or "modules_to_save" in name:
                torch.nn.init.normal_(weight, mean=1.0 if "magnitude" in name else 0.0, std=0.2)
        lora.save_pretrained(str(self.adapter), save_embedding_layers=False)
        vocabulary = {token: number for number, token in enumerate(SPECIAL)}
        Tokenizer(models.BPE(vocabulary, [])).save(str(self.adapter / "tokenizer.json"))

    def merge(self, rows: list[TokenRow] | None = None, trained_in: str | None = None) -> Merged:
        return merge(
            self.base,
            self.adapter,
            self.output,
            prompt_format=PromptFormat.from_chat_template(CHATML, bos=None, eos=SPECIAL[2]),
            rows=ROWS if rows is None else rows,
            scratch=self.scratch,
            check=nothing,
            trained_in=trained_in,
        )

    def merged_by_peft(self) -> dict[str, torch.Tensor]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(merge_whole.load(self.base), self.adapter)
        merged: Any = model.merge_and_unload(safe_merge=True)  # pyright: ignore[reportCallIssue]
        return dict(merged.state_dict())

    def merged_here(self) -> dict[str, torch.Tensor]:
        return dict(merge_whole.load(self.output).state_dict())


def in_one_piece(*_: Any, **__: Any) -> Any:
    raise AssertionError("the whole model was loaded")


@pytest.mark.parametrize(
    ("kind", "dtype", "targets", "changes"),
    [
        ("llama", "float32", [*LINEAR, "lm_head"], {"tie_word_embeddings": False}),
        ("llama", "bfloat16", [*LINEAR, "lm_head"], {"tie_word_embeddings": False}),
        ("qwen2", "bfloat16", LINEAR, {"tie_word_embeddings": True}),
        ("qwen3", "float32", ATTENTION, {"tie_word_embeddings": True}),
        ("mistral", "float32", LINEAR, {}),
        ("phi3", "float32", ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], {}),
        ("gemma3_text", "float32", LINEAR, {"layer_types": ["sliding_attention", "full_attention"]}),
        ("qwen3_moe", "float32", ATTENTION, EXPERTS),
    ],
)
def test_a_merge_in_pieces_gives_the_weights_of_a_merge_in_memory(
    place: Place, kind: str, dtype: str, targets: list[str], changes: dict[str, Any]
) -> None:
    import torch

    place.lora(place.model(kind, dtype, shard="60KB", **changes), targets)
    made = place.merge()
    expected, got, base = place.merged_by_peft(), place.merged_here(), merge_whole.load(place.base).state_dict()
    assert expected.keys() == got.keys()
    assert len(list(place.output.glob("*.safetensors"))) > 1
    for name, weight in expected.items():
        assert got[name].dtype == weight.dtype
        if dtype == "float32":
            assert torch.equal(got[name], weight), name
        else:
            # PEFT rounds what is added and then the sum; here the sum is rounded once.
            added = (weight.float() - base[name].float()).abs()
            assert ((got[name] - weight).abs() <= 2.0**-7 * torch.maximum(weight.abs().float(), added)).all(), name
    assert made.divergence is not None
    assert made.divergence.positions == sum(len(row.positions) for row in ROWS)
    assert made.divergence.mean_kld < (1e-6 if dtype == "float32" else 5e-3)
    assert made.notes == []


def test_sixteen_bits_are_rounded_once(place: Place) -> None:
    import torch
    from safetensors.torch import load_file

    place.lora(place.model("llama", "float16"), LINEAR)
    place.merge([])
    before, after = load_file(place.base / "model.safetensors"), load_file(place.output / "model.safetensors")
    adapter = load_file(place.adapter / "adapter_model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    assert torch.equal(after[f"{name}.weight"], (before[f"{name}.weight"].float() + 2.0 * (b @ a)).half())
    untouched = [key for key in before if not key.removesuffix(".weight").endswith(tuple(LINEAR))]
    assert len(untouched) == 7
    assert all(torch.equal(before[key], after[key]) for key in untouched)


@pytest.mark.parametrize(
    "settings",
    [
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 3}},
        {"use_rslora": True, "layers_to_transform": [1]},
    ],
)
def test_ranks_and_factors_may_differ_between_matrices(
    place: Place, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    place.lora(place.model("llama"), LINEAR, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(merge_whole, "load", in_one_piece)
        place.merge()
    expected, got = place.merged_by_peft(), place.merged_here()
    assert all(torch.equal(got[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"], "bias": "lora_only", "target_modules": [*ATTENTION, "embed_tokens"]},
    ],
    ids=["dora", "a module trained whole, biases, embeddings"],
)
def test_what_is_not_a_plain_lora_is_merged_by_peft(place: Place, settings: dict[str, Any]) -> None:
    import torch

    place.lora(place.model("qwen2", tie_word_embeddings=False), LINEAR, **settings)
    made = place.merge()
    expected, got = place.merged_by_peft(), place.merged_here()
    assert all(torch.equal(got[name], weight) for name, weight in expected.items())
    assert made.divergence is not None
    assert made.divergence.mean_kld < 1e-6


def test_the_distributions_are_those_of_the_model_in_memory(place: Place) -> None:
    import numpy as np
    import torch
    from peft import PeftModel

    place.lora(place.model("gemma3_text", layer_types=["sliding_attention", "full_attention"]), LINEAR)
    made = place.merge()
    assert made.reference is not None
    model = PeftModel.from_pretrained(merge_whole.load(place.base), place.adapter).eval()
    recorded = made.reference.logprobs()
    for row in made.reference.rows:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.positions]
        for expected in torch.log_softmax(logits.float(), -1).numpy():
            np.testing.assert_allclose(next(recorded), expected, atol=0.02)
    assert Reference.load(place.scratch / "after-merging").rows == made.reference.rows


def test_a_model_that_also_sees_keeps_what_it_sees_with(place: Place) -> None:
    import torch
    from safetensors.torch import load_file

    text = {**SMALL, "layer_types": ["sliding_attention", "full_attention"]}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    model = place.model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    place.lora(model, r".*language_model.*\.(q_proj|down_proj)")  # pyright: ignore[reportArgumentType]
    made = place.merge()
    expected, got = place.merged_by_peft(), place.merged_here()
    assert all(torch.equal(got[name], weight) for name, weight in expected.items())
    before, after = load_file(place.base / "model.safetensors"), load_file(place.output / "model.safetensors")
    assert before.keys() == after.keys()
    assert sum(not torch.equal(before[name], after[name]) for name in before) == 4
    assert made.divergence is not None
    assert made.divergence.mean_kld < 1e-6


def test_the_figure_of_the_training_is_that_of_the_model_which_bitsandbytes_loads(place: Place) -> None:
    pytest.importorskip("bitsandbytes")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from tunesmith.export.quality import compare_rows
    from tunesmith.models.four_bits import four_bits

    place.lora(place.model("qwen2", tie_word_embeddings=True, hidden_size=128), LINEAR)
    made = place.merge(trained_in="float32")
    quantised = AutoModelForCausalLM.from_pretrained(
        place.base, quantization_config=BitsAndBytesConfig(**four_bits(torch.float32)), device_map={"": "cpu"}
    )
    trained = PeftModel.from_pretrained(quantised, place.adapter).eval()
    exact = PeftModel.from_pretrained(merge_whole.load(place.base), place.adapter).eval()

    def reads(model: Any) -> Callable[[list[int], list[int]], Any]:
        def evaluate(ids: list[int], positions: list[int]) -> Any:
            with torch.inference_mode():
                return model(input_ids=torch.tensor([ids])).logits[0, positions].float().numpy()

        return evaluate

    by_hand = compare_rows(Reference.record(place.scratch / "by-hand", ROWS, reads(trained)), reads(exact))
    assert made.trained is not None
    assert by_hand.mean_kld > 0.01
    assert made.trained.mean_kld == pytest.approx(by_hand.mean_kld, rel=0.02)
    assert any("in 4 bits" in note for note in made.notes) == (made.trained.mean_kld > 0.05)
    assert not (place.scratch / "as-trained").exists()


def test_an_adapter_of_another_base_is_refused(place: Place) -> None:
    place.lora(place.model("llama", num_hidden_layers=3), LINEAR)
    shutil.rmtree(place.base)
    place.model("llama")
    with pytest.raises(BadInput, match="cannot be put on this base"):
        place.merge()
    assert not list(place.output.iterdir())


def test_a_damaged_adapter_and_a_damaged_base_are_said_to_be(place: Place) -> None:
    place.lora(place.model("llama"), LINEAR)
    weights, whole = place.adapter / "adapter_model.safetensors", place.base / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:1000])
    with pytest.raises(BadInput, match="cannot be read"):
        place.merge()
    weights.write_bytes(kept)
    whole.write_bytes(whole.read_bytes()[:-10])
    with pytest.raises(BadInput, match="damaged"):
        place.merge()


def test_an_adapter_that_holds_nan_is_refused(place: Place) -> None:
    from safetensors.torch import load_file, save_file

    place.lora(place.model("llama"), LINEAR)
    path = place.adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckFailed, match="NaN"):
        place.merge([])


def test_where_measuring_would_take_hours_the_merge_is_made_and_this_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    place.lora(place.model("llama"), LINEAR)
    monkeypatch.setattr(streamed, "PATIENCE_S", 0.0)
    made = place.merge()
    assert (made.divergence, made.reference, made.trained) == (None, None, None)
    (note,) = made.notes
    assert "were not compared" in note
    assert "minutes here" in note
    expected, got = place.merged_by_peft(), place.merged_here()
    assert all(torch.equal(got[name], weight) for name, weight in expected.items())
    notes: list[str] = []
    assert record_whole(place.output, ROWS, place.scratch, nothing, notes) is None
    assert "were not compared" in notes[0]


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    place.lora(place.model("llama"), LINEAR, use_dora=True)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(OutOfMemory, match="in memory as a whole"):
        place.merge()
    # A plain adapter takes no memory to speak of; only the comparison is left out.
    shutil.rmtree(place.adapter)
    place.adapter.mkdir()
    place.lora(place.model("llama"), LINEAR)
    made = place.merge()
    assert made.divergence is None
    assert "GiB are free" in made.notes[0]


def test_a_slow_machine_measures_on_fewer_rows(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.lora(place.model("llama"), LINEAR)
    monkeypatch.setattr(streamed, "MEASURING_S", 0.0)
    made = place.merge()
    assert made.reference is not None
    assert made.reference.rows == [ROWS[3]]  # the shortest
    assert made.notes == []


def test_the_base_is_only_read(place: Place) -> None:
    def digests() -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.base.iterdir()}

    place.lora(place.model("llama", shard="60KB"), LINEAR)
    before = digests()
    place.merge([])
    assert digests() == before
    index = "model.safetensors.index.json"
    assert json.loads((place.output / index).read_text()) == json.loads((place.base / index).read_text())
