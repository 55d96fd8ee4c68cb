"""Every weight trained, from the plan to a model that is exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.training.conftest import kill, make_rows, outcome, wait_for_step
from tests.training.tiny_model import CHATML
from tunesmith import checkpoints
from tunesmith.errors import DoesNotFit, InvalidArgument, NotSupported
from tunesmith.evaluation.contestants import contestant
from tunesmith.export.exporting import HeldOut, export_model
from tunesmith.models.bases import tokenizer_for
from tunesmith.models.store import ModelStore
from tunesmith.training.planning import plan, start_arguments
from tunesmith.training.recipe import ADAPTER_FIELDS, Recipe, parse_options
from tunesmith.training.records import AssumedGpu, TrainResult

SHORT = {
    "method": "full",
    "epochs": 5,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "learning_rate": 0.01,
    "eval_steps": 5,
    "save_steps": 2,
    "early_stopping_patience": 100,
}


@pytest.fixture
def base(tmp_path: Path, workspace) -> Path:
    """A two-layer Llama, head and embedding one matrix, with a tokenizer that llama.cpp knows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "base"
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer_for(workspace, "embedded").save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def planned(workspace, dataset_id, base, changed=None, **options):
    return plan(workspace, dataset_id, str(base), parse_options({**SHORT, **(changed or {})}), **options)


def weights_in(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_every_weight_is_trained_and_a_killed_run_goes_on_without_a_trace(
    workspace, new_dataset, tiny_base, start_worker
):
    before = planned(workspace, new_dataset(make_rows(24)), tiny_base)
    quiet, quiet_dir = start_worker(start_arguments(before))
    process, run_dir = start_worker(start_arguments(before))
    wait_for_step(process, run_dir, 7)
    kill(process)
    left = outcome(quiet, quiet_dir)
    assert "result" in left, left
    expected = TrainResult.model_validate(left["result"])
    left = outcome(*start_worker({**start_arguments(before), "resume_from": run_dir.name}))
    assert "result" in left, left
    resumed = TrainResult.model_validate(left["result"])

    assert expected.eval_loss.after < 0.8 * expected.eval_loss.before
    assert expected.dtype == "float32"
    assert resumed.resumed_from is not None
    assert resumed.eval_loss.model_dump() == pytest.approx(expected.eval_loss.model_dump(), rel=1e-5)
    newest, problems = checkpoints.newest_whole(quiet_dir / "checkpoints")
    assert newest is not None
    assert problems == []

    store = ModelStore(workspace)
    record, folder = store.get(expected.model_id), store.folder(expected.model_id) / "weights"
    trained, again = weights_in(folder), weights_in(store.folder(resumed.model_id) / "weights")
    untrained = weights_in(tiny_base)
    assert trained.keys() == again.keys() == untrained.keys()
    for name, weight in trained.items():
        assert abs(weight - untrained[name]).max() > 1e-4, name
        assert abs(weight - again[name]).max() < 1e-6, name
    assert (record.method, record.base_model) == ("full", str(tiny_base))
    assert [record.recipe[name] for name in ADAPTER_FIELDS] == [None] * 4
    assert [file.kind for file in record.files] == ["weights"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["use_cache"], config["dtype"]) == (True, "float32")
    assert (folder / "chat_template.jinja").read_text() == CHATML


@pytest.mark.slow
def test_a_model_trained_whole_is_run_as_it_is_and_exported_without_merging(workspace, new_dataset, base, start_worker):
    before = planned(workspace, new_dataset(make_rows(12)), base, {"epochs": 1, "eval_steps": 2, "save_steps": 2})
    left = outcome(*start_worker(start_arguments(before)))
    assert "result" in left, left
    model_id = left["result"]["model_id"]
    unexported = contestant(workspace, "full", model_id)
    assert (unexported.way, unexported.weights_folder().name) == ("torch", "weights")
    held_out = HeldOut([[message.model_dump() for message in row.messages] for row in make_rows(4)], "builtin")
    result = export_model(workspace, model_id, quantizations=["f16"], held_out=held_out)
    assert result.tokenizer_parity is True
    assert result.merge_kld is None
    assert result.files[0].mean_kld is not None
    assert result.files[0].mean_kld < 1e-3
    assert contestant(workspace, "full", model_id).way == "gguf"
    with pytest.raises(NotSupported, match="no adapter"):
        export_model(workspace, model_id, adapter_only=True)


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_the_best_checkpoint_is_put_back_whether_it_is_one_file_or_several(tmp_path, tiny_base, shard):
    from transformers import AutoModelForCausalLM

    from tunesmith.training.keeping import load_trained, save_weights

    best = AutoModelForCausalLM.from_pretrained(tiny_base)
    best.save_pretrained(tmp_path / "best", max_shard_size=shard)
    later = AutoModelForCausalLM.from_pretrained(tiny_base)
    for weight in later.parameters():
        weight.data += 1
    load_trained(later, tmp_path / "best")
    found, right = dict(later.named_parameters()), dict(best.named_parameters())
    assert all((found[name] == weight).all() for name, weight in right.items())
    (tmp_path / "kept").mkdir()
    save_weights(later, tmp_path / "kept", "bfloat16")
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "kept", dtype="auto")
    assert str(kept.dtype) == "torch.bfloat16"
    for path in (tmp_path / "best").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(RuntimeError, match="no weights"):
        load_trained(later, tmp_path / "best")


def test_a_plan_for_every_weight_says_what_differs_and_why(workspace, new_dataset, tiny_base):
    whole = plan(workspace, new_dataset(make_rows(24)), str(tiny_base), parse_options({"method": "full"}))
    recipe = whole.recipe
    assert recipe.adapter is None
    assert (recipe.learning_rate, recipe.engine, recipe.optimizer) == (2e-5, "transformers", "adamw_torch")
    assert "unlearns" in whole.reasons["learning_rate"]
    assert whole.memory.breakdown.adapter == 0
    assert whole.memory.breakdown.gradients == whole.memory.breakdown.weights
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_on_a_card_the_other_engine_is_taken_with_the_reason_or_refused_by_name(workspace, new_dataset, tiny_base):
    dataset_id, card = new_dataset(make_rows(24)), AssumedGpu(total_gib=24)
    whole = planned(workspace, dataset_id, tiny_base, assume_gpu=card)
    assert (whole.engine, whole.recipe.optimizer) == ("transformers", "adamw_8bit")
    assert "32 bits" in whole.reasons["engine"]
    with pytest.raises(NotSupported, match="engine='unsloth'"):
        planned(workspace, dataset_id, tiny_base, {"engine": "unsloth"}, assume_gpu=card)


def test_what_does_not_fit_stays_what_was_asked_for_and_an_adapter_is_offered(workspace, new_dataset):
    options = {"method": "full", "batch_size": None, "gradient_accumulation": None}
    big = planned(workspace, new_dataset(make_rows(24)), "embedded", {**options, "memory_budget_gib": 2.5})
    assert big.recipe.method == "full"
    assert (big.recipe.batch_size, big.recipe.gradient_checkpointing) == (1, "on")
    assert not big.memory.fits
    adapter = next(other for other in big.alternatives if 'method="lora"' in other.change)
    assert adapter.fits
    with pytest.raises(DoesNotFit) as caught:
        start_arguments(big)
    assert 'method="lora"' in (caught.value.next or "")


def test_weights_that_are_quantised_are_not_trained_whole(workspace, new_dataset, tiny_base):
    base = tiny_base.parent / "quantised"
    shutil.copytree(tiny_base, base, dirs_exist_ok=True)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(NotSupported, match="quantised"):
        planned(workspace, new_dataset(make_rows(24)), base)


@pytest.mark.parametrize("name", ADAPTER_FIELDS)
def test_what_belongs_to_an_adapter_is_refused_by_name(name):
    value = ["q_proj"] if name == "target_modules" else 0.1 if name == "dropout" else 4
    with pytest.raises(InvalidArgument, match=f"trains no adapter, so {name}"):
        parse_options({"method": "full", name: value})


def test_a_resolved_recipe_has_an_adapter_exactly_where_its_method_has_one(workspace, new_dataset, tiny_base):
    recipe = planned(workspace, new_dataset(make_rows(24)), tiny_base).recipe.model_dump(mode="json")
    with pytest.raises(ValueError, match="null for method full"):
        Recipe.model_validate({**recipe, "rank": 4})
    with pytest.raises(ValueError, match="null for method full"):
        Recipe.model_validate({**recipe, "method": "lora"})
