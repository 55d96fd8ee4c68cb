"""Each family goes from its base to a GGUF that renders, splits and stops as the model was trained.

What trains and exports takes minutes for all of them (`make test-faults`); figures come from
benchmarks/export/families.py, which does the same.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.export.families import Chain, dialogues_for, metadata_prompt
from tests.export.family_models import FAMILIES, SIX, build
from tests.models.dialogues import many
from tests.models.go_template import render as go_render
from tests.models.templates import EXAMPLES
from tunesmith.errors import BadInput, NotSupported
from tunesmith.export.gguf import convert
from tunesmith.export.tokenizer_parity import TEXTS, check_tokenizer
from tunesmith.machine.llama_cpp import find_llama_cpp
from tunesmith.models.bases import prompt_format_for, tokenizer_for
from tunesmith.models.pre_tokenizer import by_rules
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.tokenizer_files import copy_tokenizer, read_tokenizer, runtime_name
from tunesmith.workspace import Workspace

# One whose pre-tokenizer is told by its rules, one that has a tokenizer.model alone. Neither could be exported once.
CONVERTED = (pytest.param("chatml", marks=pytest.mark.faults), "mistral")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def base(bases: Path) -> Any:
    @cache
    def made(name: str) -> Path:
        build(name, bases / name)
        return bases / name

    return made


def nothing() -> None:
    pass


@pytest.mark.parametrize("name", SIX)
def test_two_hundred_dialogues_are_the_same_bytes_in_transformers_here_and_in_ollama(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    family = FAMILIES[name]
    if family.template is None:
        prompt_format = PromptFormat.alpaca(family.eos, bos=family.bos)
        template, bos, eos = prompt_format.template, family.bos, family.eos
    else:
        example = EXAMPLES[family.template]
        template, bos, eos = example.text, example.bos, example.eos
        prompt_format = PromptFormat.from_chat_template(template, bos=bos, eos=eos)
    special = {kind: token for kind, token in (("bos_token", bos), ("eos_token", eos)) if token}
    ollama = prompt_format.ollama_template()
    dialogues = dialogues_for(prompt_format)
    assert len(dialogues) == 200
    for ask in (False, True):
        theirs, _ = render_jinja_template(
            dialogues, chat_template=template, add_generation_prompt=ask, enable_thinking=False, **special
        )
        assert [prompt_format.render(messages, add_generation_prompt=ask) for messages in dialogues] == theirs
    for messages, text in zip(dialogues, theirs, strict=True):
        assert prompt_format.leading_bos + go_render(ollama, messages) == text


@pytest.mark.parametrize("name", CONVERTED)
def test_the_gguf_of_a_family_splits_and_renders_as_the_model_does(name: str, base: Any, tmp_path: Path) -> None:
    """Without training: the base's weights with the trained prompt format, converted."""
    import shutil

    folder = base(name)
    prompt_format = prompt_format_for(Workspace(tmp_path / "ws", [folder.parent]), str(folder))
    whole = tmp_path / "whole"
    whole.mkdir()
    for part in ("config.json", "model.safetensors"):
        shutil.copyfile(folder / part, whole / part)
    copy_tokenizer((folder,), whole, prompt_format)
    gguf = tmp_path / "x.gguf"
    convert(find_llama_cpp(), whole, gguf, "f16", name="My phi3 notes", check=nothing)
    rendered = [prompt_format.render(messages, add_generation_prompt=True) for messages in dialogues_for(prompt_format)]
    compared = check_tokenizer(
        gguf, whole / "tokenizer.json", extra=[text for text in rendered[::10] if "\0" not in text],
        end=prompt_format.eos, check=nothing, first=prompt_format.leading_bos,
    )  # fmt: skip
    assert compared > len(TEXTS)
    prompt = metadata_prompt(gguf)
    assert [prompt(messages) for messages in dialogues_for(prompt_format)] == rendered


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_trained_merged_converted_and_answers(name: str, base: Any, tmp_path: Path) -> None:
    chain = Chain(base(name), tmp_path, alpaca=FAMILIES[name].template is None)
    result = chain.run()
    by_name = {file["quantization"]: file for file in result["files"]}
    assert by_name["f16"]["mean_kld"] < 1e-3
    assert by_name["f16"]["mean_kld"] <= by_name["q8_0"]["mean_kld"] < 0.05
    assert result["merge_kld"] < 1e-4
    assert result["tokenizer_texts"] > len(TEXTS)
    assert chain.answer(by_name["q8_0"]["path"]).strip()
    for file in result["files"]:
        prompt = metadata_prompt(Path(file["path"]))
        for messages in dialogues_for(chain.prompt_format):
            assert prompt(messages) == chain.prompt_format.render(messages, add_generation_prompt=True)


@pytest.mark.parametrize("name", ["mistral", "gemma", "phi"])
def test_a_tokenizer_model_alone_is_read_as_sentencepiece_reads_it(name: str, tmp_path: Path) -> None:
    import sentencepiece

    from tests.export.family_models import train_sentencepiece

    train_sentencepiece(FAMILIES[name], tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in (*TEXTS, *(message["content"] for messages in many(80) for message in messages)):
        if not any(mark in text for mark in ("<s>", "</s>", "<unk>", "<bos>", "<|", "[INST]", "\0")):
            assert tokenizer.encode(text, add_special_tokens=False).ids == theirs.encode(text), text
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(BadInput, match=r"no SentencePiece model"):
        read_tokenizer(tmp_path)


def test_a_unigram_model_is_refused(tmp_path: Path) -> None:
    import io

    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g h"] * 20 + ["hello world"] * 20), model_writer=written,
        model_type="unigram", vocab_size=20, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(written.getvalue())
    with pytest.raises(NotSupported, match="cannot be rebuilt"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"), [("chatml", "qwen2"), ("llama3", "llama-bpe"), ("phi4", "dbrx"), ("gemma", None)]
)
def test_a_pre_tokenizer_is_known_by_its_rules(name: str, expected: str | None, tmp_path: Path) -> None:
    from tests.export.family_models import make_tokenizer

    path = tmp_path / "tokenizer.json"
    make_tokenizer(FAMILIES[name], tmp_path).save(str(path))
    assert by_rules(path) == expected
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**tokenizer, "normalizer": {"type": "Lowercase"}}), encoding="utf-8")
    assert by_rules(path) is None


def test_phi_3_is_named_so_that_llama_cpp_strips_after_its_tokens_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    assert runtime_name("My phi-3 and Phi3 notes", path) == "My phi 3 and Phi 3 notes"
    path.write_text(json.dumps({"added_tokens": [{"content": "<|assistant|>", "rstrip": True}]}))
    assert runtime_name("Notes", path) == "Notes (Phi-3)"
    assert runtime_name("phi3 notes", path) == "phi3 notes"


def test_a_folder_without_any_tokenizer_says_so(tmp_path: Path, base: Any) -> None:
    with pytest.raises(NotSupported, match=r"no tokenizer\.json and no tokenizer\.model"):
        read_tokenizer(tmp_path)
    folder = base("mistral")
    workspace = Workspace(tmp_path / "ws", [folder.parent])
    assert tokenizer_for(workspace, str(folder)).token_to_id("[INST]") == 3
