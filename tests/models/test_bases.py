"""Base models as files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.conftest import CHATML, write_base
from tests.models.dialogues import talk
from tunesmith.errors import BadInput, InvalidArgument, NotFound, NotSupported, PathRefused
from tunesmith.models.bases import base_config, base_folder, prompt_format_for, tokenizer_for
from tunesmith.models.rendering import render_row
from tunesmith.workspace import Workspace


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    return write_base(workspace.roots.roots[0] / "base", chat_template=CHATML)


def test_a_local_folder_is_a_base(workspace: Workspace, folder: Path) -> None:
    assert base_folder(workspace, "./base") == folder
    assert base_config(workspace, str(folder))["hidden_size"] == 8
    assert tokenizer_for(workspace, "base").encode("<|im_start|>a", add_special_tokens=False).tokens == [
        "<|im_start|>",
        "a",
    ]
    prompt_format = prompt_format_for(workspace, "./base")
    assert (prompt_format.family, prompt_format.eos, prompt_format.bos) == ("chatml", "<|im_end|>", None)


def test_a_tokenizer_neither_cuts_nor_pads(workspace: Workspace, folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert len(tokenizer_for(workspace, "./base").encode("abcdef").ids) == 6


def test_a_folder_outside_or_missing_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    outside = write_base(tmp_path / "outside")
    for call in (base_folder, base_config, tokenizer_for, prompt_format_for):
        with pytest.raises(PathRefused):
            call(workspace, str(outside))
        with pytest.raises(NotFound):
            call(workspace, "./missing")
        with pytest.raises(InvalidArgument):
            call(workspace, "what is this")


@pytest.mark.parametrize("reference", ["ollama:qwen2.5:7b", "openai:gpt-4o-mini", "run_" + "a" * 12, "mdl_" + "a" * 12])
def test_what_has_no_weights_to_train_is_no_base(workspace: Workspace, reference: str) -> None:
    for call in (base_folder, base_config, tokenizer_for, prompt_format_for):
        with pytest.raises(NotSupported, match="cannot be a base"):
            call(workspace, reference)


def test_pickled_weights_are_refused(workspace: Workspace, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(NotSupported, match="safetensors"):
        base_folder(workspace, "./base")


def test_a_folder_without_weights_or_with_some_missing_is_refused(workspace: Workspace, folder: Path) -> None:
    weights = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    (folder / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(NotFound, match="1 of 2 weight files"):
        base_folder(workspace, "./base")
    (folder / "model-2.safetensors").write_bytes(b"")
    assert base_folder(workspace, "./base") == folder
    for path in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
        path.unlink()
    with pytest.raises(BadInput, match="no weights"):
        base_folder(workspace, "./base")


def test_adapters_and_gguf_folders_say_what_they_are(workspace: Workspace, folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(BadInput, match=r"no config\.json"):
        base_config(workspace, "./base")
    (folder / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(NotSupported, match="GGUF"):
        base_folder(workspace, "./base")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(NotSupported, match="adapter"):
        base_config(workspace, "./base")


def test_files_that_are_damaged_are_named(workspace: Workspace, folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        tokenizer_for(workspace, "./base")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(NotSupported, match=r"no tokenizer\.json"):
        tokenizer_for(workspace, "./base")
    for content in ("{", "[]"):
        (folder / "config.json").write_text(content)
        with pytest.raises(BadInput, match=r"config\.json"):
            base_config(workspace, "./base")


def test_the_language_part_of_a_config_of_several_parts_is_used(workspace: Workspace) -> None:
    write_base(
        workspace.roots.roots[0] / "seeing",
        config={"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560}},
    )
    assert base_config(workspace, "./seeing")["hidden_size"] == 2560


def test_a_base_without_a_chat_template_cannot_chat_but_can_alpaca(workspace: Workspace) -> None:
    write_base(workspace.roots.roots[0] / "plain", bos_token={"content": "<|im_start|>"})
    with pytest.raises(NotSupported, match="no chat template") as caught:
        prompt_format_for(workspace, "./plain")
    assert "Instruct" in caught.value.next
    assert "alpaca" in caught.value.next
    alpaca = prompt_format_for(workspace, "./plain", "alpaca")
    assert (alpaca.name, alpaca.eos, alpaca.bos) == ("alpaca", "<|im_end|>", None)
    with pytest.raises(InvalidArgument, match="'chat' or 'alpaca'"):
        prompt_format_for(workspace, "./plain", "chatml")


def test_alpaca_begins_with_bos_where_the_tokenizer_adds_one(workspace: Workspace) -> None:
    from tokenizers import Tokenizer, processors

    folder = write_base(workspace.roots.roots[0] / "adding", bos_token="<|im_start|>")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.token_to_id("<|im_start|>"))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    alpaca = prompt_format_for(workspace, "./adding", "alpaca")
    assert alpaca.render(talk("x")).startswith("<|im_start|>Below is")
    assert not alpaca.ollama_prompt(talk("x")).startswith("<|im_start|>")


@pytest.mark.parametrize("place", ["file", "list", "old file", "settings"])
def test_the_chat_template_is_found_wherever_it_is_kept(workspace: Workspace, place: str) -> None:
    other = CHATML.replace("<|im_start|>", "<|im_start|>x")
    settings = {
        "settings": {"chat_template": CHATML},
        "list": {"chat_template": [{"name": "tool_use", "template": other}, {"name": "default", "template": CHATML}]},
        "file": {"chat_template": other},
    }.get(place, {})
    folder = write_base(workspace.roots.roots[0] / "base", **settings)
    if place == "file":
        (folder / "chat_template.jinja").write_text(CHATML)
    if place == "old file":
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}))
    assert prompt_format_for(workspace, "./base").template == CHATML


def test_a_row_is_shown_as_it_is_trained_on(workspace: Workspace, folder: Path) -> None:
    row = render_row(talk("q", "a"), prompt_format_for(workspace, "./base"), tokenizer_for(workspace, "./base"))
    assert row.text == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    assert [(part.text, part.trained) for part in row.segments][1] == ("a<|im_end|>", True)
    assert (row.tokens, row.trained_tokens) == (1 + 6 + 1 + 1 + 1 + 10 + 2 + 1, 2)
    assert render_row(talk("q", "a"), prompt_format_for(workspace, "./base"), None).tokens is None


def test_the_modules_that_hold_records_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "import tunesmith.models.bases, tunesmith.models.rendering\n"
        "import tunesmith.models.store, tunesmith.models.references\n"
        "heavy = {'torch', 'transformers', 'numpy', 'gguf', 'jinja2', 'tokenizers', 'huggingface_hub', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
