"""An adapter in Ollama: on a GGUF of its own base, or on a model that Ollama has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from tests.export.conftest import Tiny
from tests.export.ollama_modelfile import read
from tests.export.rendering import Faithful
from tests.ollama_double import OllamaDouble, refused_url
from tunesmith.errors import CheckFailed, InvalidArgument, NotFound, NotSupported, ServiceFailed, Unreachable
from tunesmith.export.ollama_register import register_model
from tunesmith.export.records import RegisterResult
from tunesmith.models.gguf_file import read_gguf
from tunesmith.models.records import ModelRecord
from tunesmith.models.store import ModelStore, describe_file

# What Ollama shows of the tiny base, had somebody put it there.
SHAPE = {"general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 64}


@pytest.fixture(scope="module")
def exported(tiny: Tiny) -> ModelRecord:
    """A model with a file such as the converter of adapters writes."""
    record = tiny.model("Quillon adapter")
    path = tiny.folder(record) / "quillon-adapter-f16.gguf"
    writer = GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 64), dtype=np.float32))
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    entry = describe_file(tiny.folder(record), path, "lora_gguf", "f16")
    return ModelStore(tiny.workspace).update(record.model_id, add_files=[entry])


@pytest.fixture
def ollama(tmp_path: Path) -> Iterator[OllamaDouble]:
    with OllamaDouble(tmp_path / "ollama", render=Faithful(), reply=lambda *_: "The tank is low.") as double:
        yield double


def register(tiny: Tiny, record: ModelRecord, ollama: OllamaDouble, **changes: Any) -> RegisterResult:
    arguments: dict[str, Any] = {"name": "quillon", "host": ollama.url, "quantization": "adapter", **changes}
    return register_model(tiny.workspace, record.model_id, **arguments)


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_an_adapter_is_registered_on_a_gguf_of_its_own_base(
    tiny: Tiny, exported: ModelRecord, ollama: OllamaDouble
) -> None:
    result = register(tiny, exported, ollama)
    model = ollama.models["quillon:latest"]
    assert result.base is not None
    base = Path(result.base)
    assert model.files == {base.name: digest_of(base)}
    adapter = tiny.folder(exported) / "quillon-adapter-f16.gguf"
    assert model.adapters == {adapter.name: digest_of(adapter)}
    assert model.template == tiny.prompt_format.ollama_template()
    assert result.smoke.stopped
    assert result.parity.identical == result.parity.dialogues >= 20
    facts = read_gguf(base).fields
    assert (facts["general.architecture"], facts["llama.block_count"]) == ("llama", 2)
    # The template inside is the trained one: Ollama may take that instead of TEMPLATE.
    assert facts["tokenizer.chat_template"].strip() == tiny.prompt_format.template.strip()

    commands = read(Path(result.modelfile).read_text())
    assert Path(result.modelfile).name == "Modelfile.adapter"
    assert commands[:2] == [("FROM", str(base)), ("ADAPTER", f"./{adapter.name}")]
    assert ("TEMPLATE", model.template) in commands

    # The base serves the next adapter too: it is neither made nor sent again.
    made = base.stat().st_mtime_ns
    uploads = [path for path in ollama.paths() if path.startswith("POST /api/blobs")]
    assert len(uploads) == 2
    again = register(tiny, exported, ollama, name="other")
    assert not again.uploaded
    assert base.stat().st_mtime_ns == made
    assert [path for path in ollama.paths() if path.startswith("POST /api/blobs")] == uploads


def test_an_adapter_is_registered_on_a_model_that_ollama_has(
    tiny: Tiny, exported: ModelRecord, ollama: OllamaDouble
) -> None:
    ollama.install(
        "tiny:1b", info=dict(SHAPE), parameters={"stop": ["X"], "mirostat": 1}, layers=("sha256:" + "1" * 64,)
    )
    result = register(tiny, exported, ollama, quantization="adapter@tiny:1b")
    model = ollama.models["quillon:latest"]
    assert result.base == "tiny:1b"
    assert list(model.adapters) == ["quillon-adapter-f16.gguf"]
    assert model.parameters["stop"] == list(tiny.prompt_format.stops)
    assert "tiny:1b" in result.notes[0]
    assert read(Path(result.modelfile).read_text())[0] == ("FROM", "tiny:1b")
    assert ollama.models["tiny:1b"].adapters == {}


def test_a_base_that_ollama_does_not_have_is_not_fetched(
    tiny: Tiny, exported: ModelRecord, ollama: OllamaDouble
) -> None:
    with pytest.raises(NotFound, match="no model nobody:latest") as caught:
        register(tiny, exported, ollama, quantization="adapter@nobody")
    assert "ollama pull nobody:latest" in caught.value.next
    assert not any("create" in path or "pull" in path for path in ollama.paths())


@pytest.mark.parametrize(
    ("info", "named"),
    [
        ({**SHAPE, "general.architecture": "qwen2"}, "architecture is qwen2, not llama"),
        ({**SHAPE, "llama.block_count": 30}, "number of layers is 30, not 2"),
        ({**SHAPE, "llama.embedding_length": 576}, "width is 576, not 64"),
    ],
)
def test_another_model_is_no_base(
    tiny: Tiny, exported: ModelRecord, ollama: OllamaDouble, info: dict[str, Any], named: str
) -> None:
    ollama.install("tiny", info=info)
    with pytest.raises(InvalidArgument, match=named):
        register(tiny, exported, ollama, quantization="adapter@tiny")
    assert set(ollama.models) == {"tiny:latest"}


def test_what_the_base_in_ollama_adds_to_prompts_is_named_when_they_differ(
    tiny: Tiny, exported: ModelRecord, ollama: OllamaDouble
) -> None:
    ollama.install("tiny", info=dict(SHAPE), system="You are Tiny.", layers=("sha256:" + "1" * 64,))
    with pytest.raises(CheckFailed, match="brings a SYSTEM prompt") as caught:
        register(tiny, exported, ollama, quantization="adapter@tiny")
    assert "quantization='adapter'" in caught.value.next
    assert register(tiny, exported, ollama, quantization="adapter@tiny", system="Be brief.").parity.identical >= 20


def test_an_adapter_on_an_adapter_is_refused(tiny: Tiny, exported: ModelRecord, ollama: OllamaDouble) -> None:
    ollama.install("tiny", info=dict(SHAPE), adapters={"a.gguf": "sha256:" + "2" * 64})
    with pytest.raises(InvalidArgument, match="has an adapter already"):
        register(tiny, exported, ollama, quantization="adapter@tiny")


def test_an_ollama_too_old_for_adapters_of_an_architecture_is_named(
    tiny: Tiny, exported: ModelRecord, ollama: OllamaDouble
) -> None:
    ollama.version = "0.20.0"
    ollama.install("tiny", info={"general.architecture": "llama"}, layers=("sha256:" + "1" * 64,))
    ollama.instead = lambda method, path: (
        (500, b'{"error":"error loading model: loras are not yet implemented"}', "application/json")
        if path == "/api/chat"
        else None
    )
    with pytest.raises(ServiceFailed, match="loras are not yet implemented") as caught:
        register(tiny, exported, ollama, quantization="adapter@tiny")
    assert "before 0.30.0" in caught.value.next
    assert set(ollama.models) == {"tiny:latest"}


def test_without_ollama_base_and_modelfile_are_made_all_the_same(tiny: Tiny, exported: ModelRecord) -> None:
    with pytest.raises(Unreachable) as caught:
        register_model(tiny.workspace, exported.model_id, name="q", quantization="adapter", host=refused_url())
    path = tiny.folder(exported) / "Modelfile.adapter"
    assert str(path) in caught.value.message
    (_, base), *_ = read(path.read_text())
    assert Path(base).is_file()


def test_what_there_is_no_adapter_of_names_the_call_that_makes_it(tiny: Tiny, ollama: OllamaDouble) -> None:
    record = tiny.model()
    with pytest.raises(NotFound, match="no adapter as GGUF") as caught:
        register(tiny, record, ollama)
    assert f"export_gguf(model='{record.model_id}', adapter_only=true)" in caught.value.next
    with pytest.raises(NotSupported, match="has no adapter"):
        register(tiny, tiny.model(method="full"), ollama)
    for wrong in ("adapter@", "adapter@../x", "adapter@a b"):
        with pytest.raises(InvalidArgument):
            register(tiny, record, ollama, quantization=wrong)
    assert ollama.paths() == []
