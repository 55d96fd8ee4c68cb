"""Exports through the worker process, as the supervisor starts it; then the files are loaded and asked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.export.conftest import Tiny
from tests.export.llama_server import post, served
from tests.export.ollama_modelfile import read
from tunesmith.errors import BadInput, CheckFailed, DiskFull, InvalidArgument, MissingExtra, NotSupported
from tunesmith.export import exporting, gguf, quantizations
from tunesmith.export.exporting import HeldOut, export_model
from tunesmith.export.gguf import convert
from tunesmith.export.tokenizer_parity import check_tokenizer
from tunesmith.machine.llama_cpp import find_llama_cpp
from tunesmith.machine.records import LlamaCpp
from tunesmith.models.bases import prompt_format_for
from tunesmith.models.records import ModelRecord
from tunesmith.models.store import ModelStore

QUESTION = {"role": "user", "content": "What does the amber lamp mean?"}


def nothing() -> None:
    pass


@pytest.fixture(scope="module")
def exported(tiny: Tiny) -> tuple[ModelRecord, dict[str, Any]]:
    """A model exported as q4_k_m and f16, verified."""
    record = tiny.model()
    left = tiny.run("export", record, quantizations=["Q4_K_M", "f16"], adapter_only=False, verify=True)
    assert "result" in left, left
    return ModelStore(tiny.workspace).get(record.model_id), left["result"]


def test_an_export_gives_the_fields_of_the_contract(exported: tuple[ModelRecord, dict[str, Any]], tiny: Tiny) -> None:
    record, result = exported
    assert result["model_id"] == record.model_id
    assert [file["quantization"] for file in result["files"]] == ["q4_k_m", "f16"]
    coarse, fine = result["files"]
    for file in (coarse, fine):
        path = Path(file["path"])
        assert path.parent == tiny.folder(record)
        assert path.stat().st_size == file["bytes"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]
        assert 0 <= file["mean_kld"] <= file["p99_kld"]
        assert 0.5 < file["same_top_token"] <= 1
        assert file["perplexity_ratio"] == pytest.approx(1, abs=0.2)
    assert fine["mean_kld"] < 1e-3
    assert fine["mean_kld"] < coarse["mean_kld"]
    assert 0 <= result["merge_kld"] < 1e-4
    assert result["tokenizer_parity"] is True
    assert result["tokenizer_texts"] > 30
    assert result["prompt_format_sha256"] == tiny.prompt_format.sha256
    assert result["verified_on"]["split"] == "eval"
    assert result["verified_on"]["rows"] == 6


def test_the_store_knows_every_file_and_nothing_temporary_is_left(
    exported: tuple[ModelRecord, dict[str, Any]], tiny: Tiny
) -> None:
    record, _ = exported
    assert [file.kind for file in record.files] == ["adapter", "merged", "gguf", "gguf", "modelfile"]
    assert all((tiny.folder(record) / file.path).exists() for file in record.files)
    assert tiny.names(record) == {
        "manifest.json", "adapter", "merged", "Modelfile", "README.md",
        "quillon-notes-q4_k_m.gguf", "quillon-notes-f16.gguf",
    }  # fmt: skip


def test_merged_weights_are_plain(exported: tuple[ModelRecord, dict[str, Any]], tiny: Tiny) -> None:
    merged = tiny.folder(exported[0]) / "merged"
    config = json.loads((merged / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["eos_token_id"] == 2
    assert list(merged.glob("*.safetensors"))
    assert (merged / "chat_template.jinja").read_text() == tiny.prompt_format.template
    assert "chat_template" not in json.loads((merged / "tokenizer_config.json").read_text())


def test_the_exported_file_answers_with_the_trained_prompt_format(
    exported: tuple[ModelRecord, dict[str, Any]], tiny: Tiny
) -> None:
    with served(exported[1]["files"][0]["path"]) as url:
        rendered = post(f"{url}/apply-template", {"messages": [QUESTION]})["prompt"]
        assert rendered == tiny.prompt_format.render([QUESTION], add_generation_prompt=True)
        reply = post(f"{url}/v1/chat/completions", {"messages": [QUESTION], "max_tokens": 8, "temperature": 0})
    assert reply["usage"]["completion_tokens"] >= 1
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")


def test_an_alpaca_model_is_served_with_the_alpaca_text(tiny: Tiny) -> None:
    alpaca = prompt_format_for(tiny.workspace, "embedded", "alpaca")
    record = tiny.model(prompt_format=alpaca.as_record())
    result = export_model(tiny.workspace, record.model_id, quantizations=["f16"])
    with served(result.files[0].path) as url:
        rendered = post(f"{url}/apply-template", {"messages": [QUESTION]})["prompt"]
    assert rendered == alpaca.render([QUESTION], add_generation_prompt=True)
    assert rendered.startswith("Below is an instruction")


def test_the_modelfile_works_by_hand(exported: tuple[ModelRecord, dict[str, Any]], tiny: Tiny) -> None:
    commands = read(Path(exported[1]["modelfile"]).read_text())
    assert commands[0] == ("FROM", "./quillon-notes-q4_k_m.gguf")
    assert ("TEMPLATE", tiny.prompt_format.ollama_template()) in commands
    assert ("PARAMETER num_ctx", "512") in commands
    assert ("PARAMETER stop", "<|im_end|>") in commands


def test_the_card_names_base_data_and_digests(exported: tuple[ModelRecord, dict[str, Any]], tiny: Tiny) -> None:
    card = Path(exported[1]["card"]).read_text()
    assert card.startswith("---\nlibrary_name: peft\n")  # the base is a folder, which means nothing on the Hub
    for expected in (tiny.dataset_id, "quillon", exported[1]["files"][0]["sha256"], tiny.prompt_format.sha256):
        assert expected in card


def test_a_second_export_uses_the_merged_weights_again(
    exported: tuple[ModelRecord, dict[str, Any]], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "LARGE_BYTES", 0)  # converted after it was read, as a large model is
    record, first = exported
    before = (tiny.folder(record) / "merged" / "model.safetensors").stat().st_mtime_ns
    result = export_model(tiny.workspace, record.model_id, quantizations=["bf16"])
    assert (tiny.folder(record) / "merged" / "model.safetensors").stat().st_mtime_ns == before
    assert result.merge_kld == first["merge_kld"]
    assert result.files[0].mean_kld is None
    assert result.verified_on is None
    assert ModelStore(tiny.workspace).get(record.model_id).file("gguf", "q4_k_m") is not None
    # The card tells of both exports, with what was measured at each.
    card = Path(result.card).read_text()
    assert all(file["sha256"] in card for file in first["files"])
    assert result.files[0].sha256 in card
    assert f"Not verified: `{Path(result.files[0].path).name}`." in card
    assert f"{first['verified_on']['positions']:,} positions" in card


def test_an_adapter_alone_becomes_a_lora_under_a_harmless_name(tiny: Tiny) -> None:
    record = tiny.model(name="../../etc/<passwd> 笔记")
    result = export_model(tiny.workspace, record.model_id, adapter_only=True, held_out=HeldOut([], "builtin"))
    from gguf import GGUFReader

    (file,) = result.files
    assert Path(file.path) == tiny.folder(record) / "etc-passwd-adapter-f16.gguf"
    tensors = [tensor.name for tensor in GGUFReader(file.path).tensors]
    assert len(tensors) == 16  # 2 layers, 4 projections, A and B
    assert result.tokenizer_parity is None
    assert ModelStore(tiny.workspace).get(record.model_id).file("lora_gguf", "f16") is not None
    assert not (tiny.folder(record) / "merged").exists()


def test_a_file_too_far_from_the_model_is_not_handed_out(
    exported: tuple[ModelRecord, dict[str, Any]], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = exported
    strict = quantizations.Quantization(ftype=2, bits=5.0, worst_kld=1e-9)
    monkeypatch.setitem(quantizations.QUANTIZATIONS, "q4_0", strict)
    before = tiny.names(record)
    with pytest.raises(CheckFailed, match="q4_0 file is too far"):
        export_model(
            tiny.workspace,
            record.model_id,
            quantizations=["q4_0"],
            held_out=HeldOut([[QUESTION, {"role": "assistant", "content": "The tank is low."}]], "builtin"),
        )
    assert tiny.names(record) == before
    assert ModelStore(tiny.workspace).get(record.model_id).file("gguf", "q4_0") is None


def test_an_adapter_that_diverged_is_refused(tiny: Tiny) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    record = tiny.model()
    weights = tiny.folder(record) / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * torch.nan for name, tensor in tensors.items()}, weights)
    with pytest.raises(CheckFailed, match="adapter cannot be merged"):
        export_model(tiny.workspace, record.model_id)
    assert "merged" not in tiny.names(record)


def test_a_tokenizer_the_converter_does_not_know_fails_loudly(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "strange"
    shutil.copytree(tiny.base, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(BadInput, match="does not recognise the tokenizer"):
        convert(find_llama_cpp(), folder, tmp_path / "x.gguf", "f16", name="x", check=nothing)


def test_an_architecture_the_converter_does_not_know_is_named(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "strange"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["QuillonForCausalLM"], "model_type": "quillon"}))
    with pytest.raises(BadInput, match="QuillonForCausalLM is not supported"):
        convert(find_llama_cpp(), folder, tmp_path / "x.gguf", "f16", name="x", check=nothing)


def test_a_gguf_that_splits_text_differently_is_refused(
    exported: tuple[ModelRecord, dict[str, Any]], tiny: Tiny, tmp_path: Path
) -> None:
    path = Path(exported[1]["files"][0]["path"])
    original = tiny.base / "tokenizer.json"
    assert check_tokenizer(path, original, extra=["数字123"], end="<|im_end|>", check=nothing) > 30
    tokenizer = json.loads(original.read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = False
    changed = tmp_path / "tokenizer.json"
    changed.write_text(json.dumps(tokenizer))
    with pytest.raises(CheckFailed, match="splits text differently"):
        check_tokenizer(path, changed, extra=[], end="<|im_end|>", check=nothing)
    with pytest.raises(CheckFailed, match="end of an answer"):
        check_tokenizer(path, original, extra=[], end="<|im_start|>", check=nothing)


def test_a_file_that_is_no_gguf_cannot_end_us(tmp_path: Path, tiny: Tiny) -> None:
    broken = tmp_path / "x.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 400)
    with pytest.raises(CheckFailed, match="cannot be used"):
        check_tokenizer(broken, tiny.base / "tokenizer.json", extra=[], end="<|im_end|>", check=nothing)
    with pytest.raises(CheckFailed, match="quantising to q8_0"):
        gguf.quantise(find_llama_cpp(), broken, tmp_path / "y.gguf", "q8_0", check=nothing)


def test_the_users_own_converter_may_import_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as in every run
    own = tmp_path / "convert_hf_to_gguf.py"
    own.write_text("import sys, beside\nbeside.write(sys.argv[sys.argv.index('--outfile') + 1])\n")
    (tmp_path / "beside.py").write_text("def write(path):\n    open(path, 'wb').write(b'GGUF')\n")
    tools = find_llama_cpp().model_copy(update={"converter": str(own)})
    convert(tools, tmp_path, tmp_path / "x.gguf", "f16", name="x", check=nothing)
    assert (tmp_path / "x.gguf").read_bytes() == b"GGUF"


def test_the_users_own_llama_quantize_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "llama-quantize"
    own.write_text(
        f"#!{sys.executable}\nimport shutil, sys\nassert sys.argv[3] == 'Q4_K_M'\nshutil.copy(*sys.argv[1:3])\n"
    )
    own.chmod(0o755)
    source, output = tmp_path / "f16.gguf", tmp_path / "q.gguf"
    source.write_bytes(b"GGUF from the user's program")
    tools = find_llama_cpp().model_copy(update={"quantizer": str(own)})
    gguf.quantise(tools, source, output, "q4_k_m", check=nothing)
    assert output.read_bytes() == source.read_bytes()
    with pytest.raises(CheckFailed, match="AssertionError"):
        gguf.quantise(tools, source, output, "q8_0", check=nothing)


def test_a_fully_trained_model_needs_no_merging(tiny: Tiny) -> None:
    record = tiny.model(method="full")
    (tiny.folder(record) / "adapter").rename(trained := tiny.folder(record) / "weights")
    shutil.rmtree(trained)
    shutil.copytree(tiny.base, trained)
    held_out = HeldOut([[QUESTION, {"role": "assistant", "content": "The tank is low."}]], "builtin")
    result = export_model(tiny.workspace, record.model_id, quantizations=["q8_0"], held_out=held_out)
    assert result.merge_kld is None
    assert result.files[0].mean_kld is not None
    assert result.files[0].mean_kld < 0.01
    assert not (tiny.folder(record) / "merged").exists()
    assert "from the trained 16/32-bit weights" in Path(result.card).read_text()
    with pytest.raises(NotSupported, match="no adapter"):
        export_model(tiny.workspace, record.model_id, adapter_only=True)


def test_what_a_killed_export_left_is_removed_after_a_day(tiny: Tiny) -> None:
    record = tiny.model()
    old, recent = (tiny.folder(record) / f".tmp-export-{name}" for name in ("old", "recent"))
    old.mkdir()
    recent.mkdir()
    os.utime(old, (0, 0))
    with pytest.raises(DiskFull), pytest.MonkeyPatch.context() as patch:
        usage = shutil.disk_usage(tiny.workspace.root)
        patch.setattr(gguf.shutil, "disk_usage", lambda _path: usage._replace(free=0))
        export_model(tiny.workspace, record.model_id)
    assert tiny.names(record) == {"manifest.json", "adapter", ".tmp-export-recent"}


def test_the_disk_is_looked_at_before_anything_is_written(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tiny.model()
    before = tiny.names(record)
    usage = shutil.disk_usage(tiny.workspace.root)
    monkeypatch.setattr(gguf.shutil, "disk_usage", lambda _path: usage._replace(free=1_000_000))
    with pytest.raises(DiskFull, match="q8_0"):
        export_model(tiny.workspace, record.model_id, quantizations=["q8_0"])
    assert tiny.names(record) == before


def test_a_quantised_base_is_not_merged_into(tiny: Tiny) -> None:
    base = tiny.base.parent / "quantised"
    shutil.copytree(tiny.base, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(NotSupported, match="bitsandbytes"):
        export_model(tiny.workspace, tiny.model(base_model=str(base)).model_id)


def test_an_unknown_quantization_ends_the_run_with_the_nearest(tiny: Tiny) -> None:
    left = tiny.run("export", tiny.model(), quantizations=["q4_k_l"])
    assert left["error"]["code"] == "invalid_argument"
    assert "q4_k_m" in left["error"]["message"]


def test_without_llama_cpp_the_extra_is_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    none = LlamaCpp(converter=None, lora_converter=None, quantizer=None, runtime=None, source=None)
    monkeypatch.setattr(exporting, "find_llama_cpp", lambda: none)
    with pytest.raises(MissingExtra, match="convert the adapter") as caught:
        export_model(tiny.workspace, tiny.model().model_id, adapter_only=True)
    assert "tunesmith[embedded]" in caught.value.next


def test_a_missing_adapter_is_named(tiny: Tiny) -> None:
    record = tiny.model()
    shutil.rmtree(tiny.folder(record) / "adapter")
    with pytest.raises(BadInput, match="adapter"):
        export_model(tiny.workspace, record.model_id)


def test_a_cancelled_export_leaves_nothing(tiny: Tiny) -> None:
    record = tiny.model()
    before = tiny.names(record)
    process, run_dir = tiny.start("export", record, quantizations=["q8_0"])
    deadline = time.monotonic() + 60
    events = run_dir / "events.jsonl"
    while not (events.is_file() and "Merging" in events.read_text()):
        assert time.monotonic() < deadline, (run_dir / "log.txt").read_text()
        assert process.poll() is None, (run_dir / "log.txt").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert not (run_dir / "result.json").exists()
    assert tiny.names(record) == before


def test_an_unknown_model_is_not_found(tiny: Tiny) -> None:
    with pytest.raises(InvalidArgument):
        export_model(tiny.workspace, "nonsense")
