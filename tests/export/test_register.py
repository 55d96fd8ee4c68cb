"""Registering a model in Ollama, against a strict double of its API on a real socket."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.export.conftest import Tiny
from tests.export.ollama_modelfile import read
from tests.export.rendering import Faithful
from tests.ollama_double import OllamaDouble, refused_url
from tunesmith.errors import (
    BadInput,
    CheckFailed,
    Conflict,
    InvalidArgument,
    NotFound,
    NotSupported,
    ServiceFailed,
    Unreachable,
)
from tunesmith.export.ollama_register import register_model
from tunesmith.export.records import RegisterResult
from tunesmith.machine import ollama_upload
from tunesmith.machine.ollama import OllamaClient
from tunesmith.models.records import ModelRecord
from tunesmith.models.store import ModelStore, describe_file

CONTENT = b"GGUF" + bytes(range(256)) * 40


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


def test_the_model_that_was_proven_is_the_one_that_gets_the_name(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble
) -> None:
    register(tiny, record, ollama)
    made = [request.body for request in ollama.requests if request.path == "/api/create"]
    (copied,) = [request.body for request in ollama.requests if request.path == "/api/copy"]
    assert len(made) == 1, "since 0.30 each creation writes the whole file anew"
    assert copied == {"source": made[0]["model"], "destination": "quillon:latest"}
    assert ollama.paths()[-2:] == ["DELETE /api/delete", "GET /api/tags"]


def test_replacing_removes_what_was_replaced_and_nothing_that_another_name_needs(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble
) -> None:
    for digest in ("1", "2"):
        ollama.blob(f"sha256:{digest * 64}").write_bytes(b"GGUF")
    old = {"layers": (f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"), "system": "mine"}
    ollama.install("quillon", **old)
    ollama.install("prod", **old | {"layers": (f"sha256:{'1' * 64}",)})
    ollama.load("quillon")
    result = register(tiny, record, ollama, replace=True)
    assert set(ollama.models) == {"quillon:latest", "prod:latest"}
    assert ollama.models["prod:latest"].system == "mine"
    assert ollama.blob(f"sha256:{'1' * 64}").exists()
    assert not ollama.blob(f"sha256:{'2' * 64}").exists()
    assert "was replaced" in result.notes[0]
    # The one in memory is not thrown out: whoever talks to it gets to the end.
    assert "quillon:latest" in ollama.loaded


def test_another_name_of_the_replaced_model_keeps_it(tiny: Tiny, record: ModelRecord, ollama: OllamaDouble) -> None:
    first = register(tiny, record, ollama, system="First.")
    with OllamaClient(ollama.url) as client:
        client.copy("quillon", "prod")
    assert ollama.models["prod:latest"].digest == first.digest
    register(tiny, record, ollama, system="Second.", replace=True)
    assert ollama.models["prod:latest"].digest == first.digest
    assert ollama.models["quillon:latest"].system == "Second."
    for name in ("prod:latest", "quillon:latest"):
        assert all(ollama.blob(digest).exists() for digest in ollama.models[name].layers)


def test_a_replacement_that_fails_at_the_last_step_leaves_the_old_model(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble
) -> None:
    ollama.install("quillon", system="mine")

    def instead(_method: str, path: str) -> tuple[int, bytes, str] | None:
        second = path == "/api/copy" and ollama.paths().count("POST /api/copy") == 2
        return (500, b'{"error":"write manifest: no space left on device"}', "application/json") if second else None

    ollama.instead = instead
    with pytest.raises(ServiceFailed, match="no space left"):
        register(tiny, record, ollama, replace=True)
    assert set(ollama.models) == {"quillon:latest"}
    assert ollama.models["quillon:latest"].system == "mine"


def test_capitals_do_not_make_another_name(tiny: Tiny, record: ModelRecord, ollama: OllamaDouble) -> None:
    register(tiny, record, ollama)
    with pytest.raises(Conflict):
        register(tiny, record, ollama, name="QUILLON")
    assert register(tiny, record, ollama, name="library/QUILLON", replace=True).name == "quillon:latest"
    assert set(ollama.models) == {"quillon:latest"}


def test_what_a_killed_run_left_is_removed_by_the_next_and_nothing_else(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble
) -> None:
    stranger = ollama.install("tunesmith-trial-aaaaaaaaaaaa", system="not ours to judge")
    asked = threading.Event()
    killed = threading.Event()

    def reply(*_: object) -> str:
        asked.set()
        killed.wait(60)
        return "Fine."

    ollama.reply = reply
    process, _ = tiny.start("register", record, name="quillon", quantization="q4_k_m", parameters={}, host=ollama.url)
    assert asked.wait(60)
    (left,) = set(ollama.models) - {stranger.name}
    # Another registration in the meantime leaves the trial of one that is alive alone.
    ollama.reply = lambda *_: "The tank is low."
    assert register(tiny, record, ollama, name="other").notes == []
    assert left in ollama.models
    process.kill()
    process.wait(30)
    killed.set()
    assert "Removed 1 trial model" in register(tiny, record, ollama).notes[0]
    assert set(ollama.models) == {"quillon:latest", "other:latest", stranger.name}


def test_a_model_that_was_refused_is_taken_out_of_memory(tiny: Tiny, record: ModelRecord, tmp_path: Path) -> None:
    with OllamaDouble(tmp_path / "ollama", render=lambda *_: "wrong") as ollama:
        with pytest.raises(CheckFailed):
            register(tiny, record, ollama)
        assert ollama.loaded == {}


def test_a_gguf_whose_own_template_ollama_prefers_is_held_against_the_format_too(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble, faithful: Faithful
) -> None:
    # Since 0.30: where the Jinja text inside the file can do more than TEMPLATE, here tools.
    ollama.gguf_template = "{# tools #}" + tiny.prompt_format.template
    assert register(tiny, record, ollama).parity.identical >= 20
    assert set(faithful.templates) == {ollama.gguf_template}
    ollama.gguf_template = ollama.gguf_template.replace("<|im_end|>", "<|im_end|> ")
    with pytest.raises(CheckFailed, match="dialogue 1 of"):
        register(tiny, record, ollama, name="second")
    ollama.version = "0.29.0"
    assert register(tiny, record, ollama, name="second").parity.identical >= 20


def test_an_answer_that_ollama_takes_for_thinking_is_named(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble
) -> None:
    ollama.gguf_template = "{# <think></think> #}" + tiny.prompt_format.template
    ollama.reply = lambda *_: "<think>The tank is low.</think>"
    with pytest.raises(CheckFailed, match="took what it wrote for thinking"):
        register(tiny, record, ollama)


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


def test_after_space_was_freed_the_same_call_goes_on_where_it_can(
    tiny: Tiny, record: ModelRecord, tmp_path: Path
) -> None:
    # Room for the file, and not for the copy that Ollama makes of it since 0.30.
    with OllamaDouble(
        tmp_path / "ollama", render=Faithful(), disk_bytes=int(len(CONTENT) * 1.5), reply=lambda *_: "Fine."
    ) as ollama:
        with pytest.raises(ServiceFailed, match="creating") as caught:
            register(tiny, record, ollama)
        assert "Free some space" in caught.value.next
        assert ollama.models == {}
        ollama.disk_bytes = None
        assert not register(tiny, record, ollama).uploaded
        assert set(ollama.models) == {"quillon:latest"}


def test_a_connection_that_breaks_in_mid_upload_is_tried_again_and_told(
    tiny: Tiny, record: ModelRecord, ollama: OllamaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama_upload, "RETRY_AFTER_S", (0.01, 0.02, 0.05))
    ollama.drop_uploads = 1
    ollama.on_drop = lambda: threading.Timer(0.03, ollama.start).start() if ollama.stop() is None else None
    said: list[str] = []
    result = register(tiny, record, ollama, progress=lambda message, *_: said.append(message))
    assert result.uploaded
    assert "it was sent again" in result.notes[0]
    assert any("trying again" in line for line in said)


def test_a_file_that_changed_since_its_export_is_named(tiny: Tiny, record: ModelRecord, ollama: OllamaDouble) -> None:
    (tiny.folder(record) / "quillon-notes-q4_k_m.gguf").write_bytes(b"GGUF something else")
    with pytest.raises(BadInput, match="is not the file that was recorded"):
        register(tiny, record, ollama)
    assert ollama.models == {}


def test_a_creation_that_breaks_off_registers_nothing(tiny: Tiny, record: ModelRecord, tmp_path: Path) -> None:
    with OllamaDouble(tmp_path / "ollama", break_create_after="parsing GGUF") as ollama:
        with pytest.raises(ServiceFailed, match="creating"):
            register(tiny, record, ollama)
        assert ollama.models == {}


def test_an_ollama_too_old_says_which_is_needed(tiny: Tiny, record: ModelRecord, tmp_path: Path) -> None:
    with OllamaDouble(tmp_path / "ollama", version="0.4.7") as ollama:
        with pytest.raises(NotSupported, match=r"0\.5\.5"):
            register(tiny, record, ollama)
        assert not any("blobs" in path for path in ollama.paths()), "nothing is sent in vain"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "no spaces"}, "space"),
        ({"name": "../x"}, r"\.\."),
        ({"parameters": {"temprature": 1}}, "temperature"),
        ({"parameters": {"top_k": 0.5}}, "top_k"),
        ({"quantization": "q4_x"}, "q4_"),
        ({"quantization": "adaptor"}, "adapter"),
        ({"system": 'a"""\nFROM b'}, "three double quotes"),
        ({"host": "file:///etc"}, "file"),
        ({"name": "x" * 300}, "300 characters"),
        ({"name": "a:b:c"}, "wrong"),
        ({"name": "x\nFROM y"}, "newline"),
        ({"name": "https://h/x/y"}, "wrong|many"),
        ({"parameters": {"num_ctx": 2049}}, "at most 2,048"),
        ({"parameters": {"num_ctx": 0}}, "at least 1"),
        ({"parameters": {"stop": ["x"] * 40}}, "40 texts"),
        ({"parameters": {"stop": ['a"""\nb']}}, "three double quotes"),
        ({"system": "a\0b"}, r"U\+0000 at position 1"),
        ({"system": "a\ud800"}, r"U\+D800"),
        ({"system": "x" * 1_000_000}, "1,000,000 characters"),
        ({"system": "word " * 900}, "num_ctx"),
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
