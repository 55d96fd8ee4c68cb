from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.errors import NotSupported
from tunesmith.training import memory

SMOL = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192,
    "model_type": "llama",
}  # fmt: skip
QWEN_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False, "max_position_embeddings": 32768,
    "model_type": "qwen2",
}  # fmt: skip
QWEN_05B = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 32768,
    "model_type": "qwen2",
}  # fmt: skip
LOAD = memory.Load(
    device="cuda",
    method="lora",
    engine="transformers",
    rank=16,
    targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    dropout=0.0,
    batch_size=2,
    length=1024,
    recompute=False,
    optimizer="adamw_8bit",
)


def test_parameters_are_counted_as_the_models_have_them():
    assert memory.Shape.from_config(SMOL).parameters == 134_515_008
    assert memory.Shape.from_config(QWEN_7B).parameters == pytest.approx(7.616e9, rel=0.001)
    assert memory.Shape.from_config(SMOL).adapter_parameters(16, LOAD.targets) == 4_884_480


def test_each_saving_saves_where_it_should():
    shape = memory.Shape.from_config(QWEN_7B)
    base = memory.predict(shape, LOAD)
    assert memory.predict(shape, replace(LOAD, method="qlora")).weights < 0.4 * base.weights
    assert memory.predict(shape, replace(LOAD, recompute=True)).activations < 0.2 * base.activations
    assert memory.predict(shape, replace(LOAD, batch_size=1)).activations == pytest.approx(
        base.activations / 2, rel=0.02
    )
    assert memory.predict(shape, replace(LOAD, optimizer="adamw_torch")).optimizer > 3 * base.optimizer
    assert memory.predict(shape, replace(LOAD, rank=32)).adapter == pytest.approx(2 * base.adapter, abs=0.001)


PACKED = {"masked": True, "packed": True}
RECOMPUTED = {"method": "qlora", "engine": "unsloth", "recompute": True}


@pytest.mark.parametrize(
    ("config", "changed", "reserved"),
    [
        (QWEN_7B, {"batch_size": 1, "length": 2048, **PACKED}, 29.29),
        (QWEN_05B, {"batch_size": 1, "length": 2048, **PACKED}, 5.09),
        (QWEN_7B, {"batch_size": 2, "length": 1417, "dropout": 0.05, "masked": True, **RECOMPUTED}, 6.2),
        (QWEN_7B, {"batch_size": 16, "length": 2048, **PACKED, **RECOMPUTED}, 12.3),
    ],
    ids=["7B 16-bit", "0.5B 16-bit", "7B 4-bit Unsloth 2 rows", "7B 4-bit Unsloth 16 packed"],
)
def test_the_predicted_peak_is_within_a_tenth_of_what_a_card_reserved(config, changed, reserved):
    # Measured on an H100, GiB. The points of benchmarks/training/memory.py are many more.
    shape = memory.Shape.from_config(config)
    assert memory.total(memory.predict(shape, replace(LOAD, **changed))) == pytest.approx(reserved, rel=0.1)


@pytest.mark.parametrize("engine", ["unsloth", "transformers"])
def test_seven_billion_weights_in_four_bits_are_tight_in_eight_gib(engine):
    shape = memory.Shape.from_config(QWEN_7B)
    load = replace(LOAD, method="qlora", engine=engine, batch_size=1, length=2048, recompute=True, **PACKED)
    assert 6 < memory.total(memory.predict(shape, load)) < 7.1


def test_a_mask_costs_transformers_memory_and_unsloth_saves_less_a_block():
    shape = memory.Shape.from_config(QWEN_7B)
    plain = memory.predict(shape, LOAD).activations
    assert memory.predict(shape, replace(LOAD, masked=True)).activations > 1.05 * plain
    assert memory.predict(shape, replace(LOAD, engine="unsloth")).activations < 0.6 * plain


def test_scores_are_held_for_one_chunk_whatever_the_batch():
    shape = memory.Shape.from_config(QWEN_7B)
    one = memory.predict(shape, LOAD).logits
    assert one == memory.predict(shape, replace(LOAD, batch_size=16)).logits
    assert one < 0.5
    assert memory.predict(shape, replace(LOAD, batch_size=1, length=128)).logits == pytest.approx(one / 4, abs=0.01)


@pytest.mark.parametrize("missing", ["hidden_size", "intermediate_size", "vocab_size"])
def test_an_architecture_it_does_not_know_is_refused(missing):
    config = {name: value for name, value in SMOL.items() if name != missing}
    with pytest.raises(NotSupported, match="llama"):
        memory.Shape.from_config(config)


WHOLE = replace(LOAD, method="full", rank=0, targets=())
CPU = {"device": "cpu", "weight_bytes": 4, "optimizer": "adamw_torch"}


@pytest.mark.parametrize(
    ("changed", "resident"),
    [
        ({"batch_size": 1, "length": 256}, 2.90),
        ({"batch_size": 4, "length": 256}, 4.03),
        ({"batch_size": 4, "length": 256, "recompute": True}, 3.03),
        ({"batch_size": 4, "length": 64, "recompute": True}, 2.76),
        ({"batch_size": 4, "length": 64, "recompute": True, "accumulates": True}, 2.92),
        ({"batch_size": 4, "length": 64, "accumulates": True}, 3.28),
        ({"batch_size": 4, "length": 256, "accumulates": True}, 4.59),
        ({"batch_size": 4, "length": 512, "recompute": True, "accumulates": True}, 3.91),
        ({"batch_size": 4, "length": 512, "recompute": True, "accumulates": True, "masked": True}, 4.08),
        ({"batch_size": 4, "length": 512, "accumulates": True, "masked": True}, 5.99),
        ({"batch_size": 8, "length": 67}, 3.32),
    ],
)
def test_training_every_weight_is_predicted_within_a_tenth_of_what_a_cpu_took(changed, resident):
    # Measured with SmolLM2-135M in float32, peak resident memory in GiB.
    load = replace(WHOLE, **CPU, **changed)
    assert memory.total(memory.predict(memory.Shape.from_config(SMOL), load)) == pytest.approx(resident, rel=0.1)


def test_every_weight_has_a_gradient_and_two_states_and_both_are_counted():
    shape = memory.Shape.from_config(QWEN_05B)
    whole = memory.predict(shape, WHOLE)
    assert whole.weights == whole.gradients == pytest.approx(4 * shape.parameters / memory.GIB, rel=1e-3)
    # Embeddings keep 32-bit states, a third of this model; the rest two bytes a weight.
    assert whole.optimizer == pytest.approx((2.03 * 358e6 + 8 * 136e6) / memory.GIB, rel=0.01)
    assert memory.predict(shape, replace(WHOLE, optimizer="adamw_torch")).optimizer == pytest.approx(
        2 * whole.weights, rel=1e-3
    )
    assert memory.total(whole) > memory.total(memory.predict(shape, LOAD))


def test_seven_billion_weights_trained_whole_are_far_beyond_a_card_of_24_gib():
    shape = memory.Shape.from_config(QWEN_7B)
    least = replace(WHOLE, batch_size=1, length=512, recompute=True)
    assert 70 < memory.total(memory.predict(shape, least)) < 85


def test_a_step_of_several_passes_holds_gradients_during_the_forward_pass():
    shape = memory.Shape.from_config(QWEN_05B)
    once, often = (memory.total(memory.predict(shape, replace(WHOLE, accumulates=more))) for more in (False, True))
    assert 0 < often - once <= 4 * shape.parameters / memory.GIB * 1.02
