"""Registering a model in Ollama, against a strict double of its API on a real socket."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ollama_double
from tests.export.conftest import Tiny
from tests.export.ollama_modelfile import read
from tests.models import go_template
from tests.ollama_double import OllamaDouble, refused_url
from tunesmith.errors import CheckFailed, Conflict, InvalidArgument, NotFound, NotSupported, ServiceFailed, Unreachable
from tunesmith.export.ollama_register import register_model
from tunesmith.export.records import RegisterResult
from tunesmith.models.records import ModelRecord
from tunesmith.models.store import ModelStore, describe_file

CONTENT = b"GGUF" + bytes(range(256)) * 40


class Faithful:
    """Renders the TEMPLATE it was sent, as Ollama does."""

    def __init__(self) -> None:
        self.seen: list[list[dict[str, str]]] = []

    def __call__(self, template: str, messages: list[dict[str, str]]) -> str:
        self.seen.append(messages)
        return go_template.render(template, messages)


@pytest.fixture(autouse=True)
def _prompt_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    # Headers and body are two small packets; otherwise each of hundreds of replies waits 40 ms for an acknowledgement.
    monkeypatch.setattr(ollama_double._Handler, "disable_nagle_algorithm", True)


@pytest.fixture
def record(tiny: Tiny) -> ModelRecord:
    """A model whose q4_k_m file is there."""
    record = tiny.model()
    path = tiny.folder(record) / "quillon-notes-q4_k_m.gguf"
    path.write_bytes(CONTENT)
    entry = describe_file(tiny.folder(record), path, "gguf", "q4_k_m")
    return ModelStore(tiny.workspace).update(record.model_id, add_files=[entry])


@pytest.fixture
def faithful() -> Faithful:
    return Faithful()


@pytest.fixture
def ollama(tmp_path: Path, faithful: Faithful) -> Iterator[OllamaDouble]:
    with OllamaDouble(tmp_path / "ollama", render=faithful, reply=lambda *_: "The tank is low.") as double:
        yield double


def register(tiny: Tiny, record: ModelRecord, ollama: OllamaDouble, **changes: Any) -> RegisterResult:
    arguments: dict[str, Any] = {"name": "quillon", "host": ollama.url, **changes}
    return register_model(tiny.workspace, record.model_id, **arguments)


def test_a_model_is_uploaded_proven_and_created(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble, faithful: Faithful
) -> None:
    result = register(tiny, record, ollama, system="Be brief.", parameters={"temperature": 0.2, "stop": ["END"]})
    model = ollama.models["quillon:latest"]
    assert set(ollama.models) == {"quillon:latest"}, "the trial model is gone"
    assert ollama.blob(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}").read_bytes() == CONTENT
    assert model.template == tiny.prompt_format.ollama_template()
    assert model.system == "Be brief."
    assert model.parameters == {
        "temperature": 0.2, "top_p": 0.9, "top_k": 40, "num_ctx": 512, "stop": ["<|im_end|>", "<|im_start|>", "END"],
    }  # fmt: skip
    assert result.name == "quillon:latest"
    assert result.digest == model.digest
    assert result.command == "ollama run quillon:latest"
    assert result.uploaded
    assert result.smoke.stopped
    assert result.smoke.reply == "The tank is low."
    assert result.parity.dialogues == result.parity.identical == len(faithful.seen) >= 20
    assert result.parity.first_difference is None


def test_dialogues_cover_system_turns_chinese_and_code(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble, faithful: Faithful
) -> None:
    register(tiny, record, ollama)
    firsts = [messages[0] for messages in faithful.seen]
    texts = [message["content"] for messages in faithful.seen for message in messages]
    assert {"role": "system", "content": ""} in firsts
    assert any(first["role"] == "system" and first["content"] for first in firsts)
    assert any(len(messages) > 5 for messages in faithful.seen)
    assert any("绿灯" in text for text in texts)
    assert any("def area" in text for text in texts)


def test_the_modelfile_says_the_same_as_what_was_created(tiny: Tiny, record: ModelRecord, ollama: OllamaDouble) -> None:
    system = 'Line one\nFROM nowhere\nSay """hello""" politely.'
    result = register(tiny, record, ollama, system=system)
    commands = read(Path(result.modelfile).read_text())
    model = ollama.models["quillon:latest"]
    assert ("FROM", "./quillon-notes-q4_k_m.gguf") in commands
    assert ("SYSTEM", system) in commands
    assert ("TEMPLATE", model.template) in commands
    assert [value for name, value in commands if name == "PARAMETER stop"] == model.parameters["stop"]
    assert ModelStore(tiny.workspace).get(record.model_id).file("modelfile") is not None


def test_a_file_that_ollama_has_is_not_sent_again(tiny: Tiny, record: ModelRecord, ollama: OllamaDouble) -> None:
    register(tiny, record, ollama)
    uploads = [path for path in ollama.paths() if path.startswith("POST /api/blobs")]
    assert not register(tiny, record, ollama, name="quillon:v2").uploaded
    assert [path for path in ollama.paths() if path.startswith("POST /api/blobs")] == uploads
    assert set(ollama.models) == {"quillon:latest", "quillon:v2"}


def test_a_name_that_is_taken_is_kept_unless_replacing(tiny: Tiny, record: ModelRecord, ollama: OllamaDouble) -> None:
    ollama.install("quillon", system="mine")
    with pytest.raises(Conflict, match="quillon:latest") as caught:
        register(tiny, record, ollama)
    assert "replace=true" in caught.value.next
    assert ollama.models["quillon:latest"].system == "mine"
    assert "Modelfile" not in tiny.names(record)
    register(tiny, record, ollama, replace=True)
    assert ollama.models["quillon:latest"].system == ""


def test_another_rendering_stops_the_registration_and_shows_the_byte(
    tiny: Tiny, record: ModelRecord, tmp_path: Path
) -> None:
    def forgetful(_template: str, messages: list[dict[str, str]]) -> str:
        text = tiny.prompt_format.ollama_prompt(messages)
        return text.replace("绿灯", "绿", 1)

    with OllamaDouble(tmp_path / "ollama", render=forgetful) as ollama:
        ollama.install("quillon", system="mine")
        with pytest.raises(CheckFailed, match="dialogue 5 of") as caught:
            register(tiny, record, ollama, replace=True)
        assert set(ollama.models) == {"quillon:latest"}
        assert ollama.models["quillon:latest"].system == "mine"
    prompt = tiny.prompt_format.ollama_prompt([{"role": "user", "content": "绿灯亮起来是什么意思？"}])
    where = prompt.encode().index("灯".encode())
    assert f"First differing byte: {where}" in caught.value.message
    assert "灯亮起来" in caught.value.message
    assert "Modelfile" not in tiny.names(record)


def test_a_server_that_cannot_show_its_rendering_is_not_called_equal(
    tiny: Tiny, record: ModelRecord, tmp_path: Path
) -> None:
    with OllamaDouble(tmp_path / "ollama", version="0.9.0") as ollama:
        result = register(tiny, record, ollama)
    assert (result.parity.dialogues, result.parity.identical) == (0, 0)
    assert "0.11.5" in (result.parity.reason or "")
    assert result.ollama == "0.9.0"


def test_a_model_that_does_not_stop_is_not_registered(tiny: Tiny, record: ModelRecord, tmp_path: Path) -> None:
    endless = {"render": Faithful(), "reply": lambda *_: "again " * 2000}
    with OllamaDouble(tmp_path / "ollama", **endless) as ollama:
        with pytest.raises(CheckFailed, match="did not end its answer within 256 tokens"):
            register(tiny, record, ollama)
        assert ollama.models == {}
        ollama.reply = lambda *_: "  "
        with pytest.raises(CheckFailed, match="empty answer"):
            register(tiny, record, ollama)


def test_without_ollama_the_modelfile_is_written_and_the_way_to_start_it_named(tiny: Tiny, record: ModelRecord) -> None:
    with pytest.raises(Unreachable) as caught:
        register_model(tiny.workspace, record.model_id, name="quillon", host=refused_url())
    path = tiny.folder(record) / "Modelfile"
    assert str(path) in caught.value.message
    assert "ollama serve" in caught.value.next
    assert f"ollama create quillon:latest -f {path}" in caught.value.next
    assert read(path.read_text())[0] == ("FROM", "./quillon-notes-q4_k_m.gguf")


def test_a_full_disk_at_ollama_is_its_own_error(tiny: Tiny, record: ModelRecord, tmp_path: Path) -> None:
    with OllamaDouble(tmp_path / "ollama", disk_bytes=100) as ollama:
        with pytest.raises(ServiceFailed, match="no space left"):
            register(tiny, record, ollama)
        assert ollama.models == {}


def test_a_creation_that_breaks_off_registers_nothing(tiny: Tiny, record: ModelRecord, tmp_path: Path) -> None:
    with OllamaDouble(tmp_path / "ollama", break_create_after="parsing GGUF") as ollama:
        with pytest.raises(ServiceFailed, match="creating"):
            register(tiny, record, ollama)
        assert ollama.models == {}


def test_an_ollama_too_old_says_which_is_needed(tiny: Tiny, record: ModelRecord, tmp_path: Path) -> None:
    with OllamaDouble(tmp_path / "ollama", version="0.4.7") as ollama, pytest.raises(NotSupported, match=r"0\.5\.5"):
        register(tiny, record, ollama)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "no spaces"}, "space"),
        ({"name": "../x"}, r"\.\."),
        ({"parameters": {"temprature": 1}}, "temperature"),
        ({"parameters": {"top_k": 0.5}}, "top_k"),
        ({"quantization": "q4_x"}, "q4_"),
        ({"system": 'a"""\nFROM b'}, "three double quotes"),
        ({"host": "file:///etc"}, "file"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_sent(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidArgument, match=named):
        register(tiny, record, ollama, **changes)
    assert ollama.paths() == []


def test_a_quantization_that_was_not_exported_names_the_call_that_makes_it(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble
) -> None:
    with pytest.raises(NotFound, match="no q8_0 file") as caught:
        register(tiny, record, ollama, quantization="q8_0")
    assert f"export_gguf(model='{record.model_id}', quantizations=['q8_0'])" in caught.value.next


def test_the_worker_registers_and_asks_a_question_of_the_dataset(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble
) -> None:
    left = tiny.run("register", record, name="quillon", quantization="q4_k_m", parameters={}, host=ollama.url)
    assert set(left["result"]) >= {"name", "digest", "modelfile", "parity", "smoke", "command"}
    assert set(left["result"]["parity"]) >= {"dialogues", "identical", "first_difference"}
    assert left["result"]["smoke"]["prompt"] == "谁负责校准？"
    assert "quillon:latest" in ollama.models
