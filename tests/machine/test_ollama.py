"""OllamaClient against a strict double on a real socket."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ollama_double import OllamaDouble, refused_url
from tunesmith.errors import BadInput, InvalidArgument, NotFound, NotSupported, ServiceFailed, Unreachable
from tunesmith.machine.ollama import OllamaClient

HELLO = [{"role": "user", "content": "你好 there"}]


@pytest.fixture
def ollama(tmp_path: Path) -> Iterator[OllamaDouble]:
    with OllamaDouble(tmp_path / "ollama") as double:
        yield double


def gguf_file(folder: Path, size: int = 3_000_000) -> tuple[Path, str]:
    path = folder / "notes-q4_k_m.gguf"
    path.write_bytes(b"GGUF" + bytes(index % 251 for index in range(1000)) * (size // 1000))
    return path, "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_reports_version_installed_and_loaded_models(ollama: OllamaDouble) -> None:
    ollama.install("notes", size=5 * 2**30)
    ollama.load("notes")
    with OllamaClient(ollama.url) as client:
        assert client.version() == "0.33.0"
        (installed,) = client.tags()
        assert (installed.name, installed.gib, installed.quantization) == ("notes:latest", 5.0, "Q4_K_M")
        (loaded,) = client.loaded()
        assert (loaded.name, loaded.total_gib, loaded.gpu_gib) == ("notes:latest", 5.0, 5.0)


def test_uploads_a_file_once_with_its_length_and_progress(ollama: OllamaDouble, tmp_path: Path) -> None:
    path, digest = gguf_file(tmp_path)
    seen: list[tuple[int, int]] = []
    with OllamaClient(ollama.url) as client:
        assert not client.has_blob(digest)
        assert client.push_blob(path, digest, lambda sent, total: seen.append((sent, total)))
        assert client.has_blob(digest)
        assert not client.push_blob(path, digest)
    assert ollama.blob(digest).read_bytes() == path.read_bytes()
    size = path.stat().st_size
    assert seen[-1] == (size, size)
    assert [sent for sent, _ in seen] == sorted({sent for sent, _ in seen})
    (upload,) = [request for request in ollama.requests if request.method == "POST"]
    assert upload.headers["Content-Length"] == str(size)
    assert "Transfer-Encoding" not in upload.headers


def test_a_wrong_digest_is_refused_with_the_servers_message(ollama: OllamaDouble, tmp_path: Path) -> None:
    path, digest = gguf_file(tmp_path)
    wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    with OllamaClient(ollama.url) as client, pytest.raises(BadInput, match="digest mismatch"):
        client.push_blob(path, wrong)
    assert not ollama.blob(wrong).exists()


def test_a_full_disk_in_mid_upload_says_what_to_free(tmp_path: Path) -> None:
    path, digest = gguf_file(tmp_path, size=40_000_000)
    double = OllamaDouble(tmp_path / "ollama", disk_bytes=1_000_000)
    with double, OllamaClient(double.url) as client, pytest.raises(ServiceFailed) as caught:
        client.push_blob(path, digest)
    assert "space" in caught.value.next
    assert list((tmp_path / "ollama" / "blobs").iterdir()) == []


def test_after_space_was_freed_the_same_upload_succeeds(tmp_path: Path) -> None:
    path, digest = gguf_file(tmp_path)
    with OllamaDouble(tmp_path / "ollama", disk_bytes=1_000_000) as double, OllamaClient(double.url) as client:
        with pytest.raises(ServiceFailed, match="no space left"):
            client.push_blob(path, digest)
        double.disk_bytes = None
        assert client.push_blob(path, digest)
    assert double.blob(digest).read_bytes() == path.read_bytes()


def test_an_upload_whose_connection_breaks_is_sent_again_from_the_beginning(
    ollama: OllamaDouble, tmp_path: Path
) -> None:
    path, digest = gguf_file(tmp_path, size=8_000_000)
    ollama.drop_uploads = 2
    said: list[str] = []
    waited: list[float] = []
    with OllamaClient(ollama.url) as client:
        assert client.push_blob(path, digest, on_retry=said.append, pause=waited.append)
    sent = [request.body for request in ollama.requests if request.method == "POST"]
    assert [size == path.stat().st_size for size in sent] == [False, False, True]
    assert waited == [1.0, 2.0]
    assert len(said) == 2
    assert "trying again in 1 s" in said[0]
    assert ollama.blob(digest).read_bytes() == path.read_bytes()


def test_a_server_that_dies_in_mid_upload_and_comes_back_gets_the_file(ollama: OllamaDouble, tmp_path: Path) -> None:
    path, digest = gguf_file(tmp_path, size=8_000_000)
    ollama.drop_uploads = 1
    ollama.on_drop = ollama.stop
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            ollama.start()

    with OllamaClient(ollama.url) as client:
        assert client.push_blob(path, digest, pause=pause)
    assert len(waited) == 3
    assert ollama.blob(digest).read_bytes() == path.read_bytes()


def test_a_connection_that_keeps_breaking_is_given_up(ollama: OllamaDouble, tmp_path: Path) -> None:
    path, digest = gguf_file(tmp_path, size=2_000_000)
    ollama.drop_uploads = 99
    waited: list[float] = []
    with OllamaClient(ollama.url) as client, pytest.raises(ServiceFailed, match="broke the connection") as caught:
        client.push_blob(path, digest, pause=waited.append)
    assert "disk space" in caught.value.next
    assert waited == [1.0, 2.0, 5.0, 10.0, 20.0]


def test_waiting_for_the_next_try_can_be_ended(ollama: OllamaDouble, tmp_path: Path) -> None:
    path, digest = gguf_file(tmp_path, size=2_000_000)
    ollama.drop_uploads = 99

    def cancelled(_seconds: float) -> None:
        raise KeyboardInterrupt

    with OllamaClient(ollama.url) as client, pytest.raises(KeyboardInterrupt):
        client.push_blob(path, digest, pause=cancelled)


def test_a_busy_proxy_is_waited_for_and_a_full_one_is_not(ollama: OllamaDouble, tmp_path: Path) -> None:
    path, digest = gguf_file(tmp_path, size=100_000)
    answers = [(503, b"<html><title>Busy</title></html>", "text/html")]
    ollama.instead = lambda method, _path: answers.pop() if method == "POST" and answers else None
    waited: list[float] = []
    with OllamaClient(ollama.url) as client:
        assert client.push_blob(path, digest, pause=waited.append)
        assert waited == [1.0]
        ollama.blob(digest).unlink()
        answers = [(507, b"", "text/plain")]
        with pytest.raises(ServiceFailed, match="507"):
            client.push_blob(path, digest, pause=waited.append)
    assert waited == [1.0]


def test_a_web_page_instead_of_an_answer_is_said_to_be_one(ollama: OllamaDouble) -> None:
    page = b"<!doctype html><html><head><title>Sign in</title></head></html>"
    with OllamaClient(ollama.url) as client:
        ollama.instead = lambda *_: (200, page, "text/html")
        with pytest.raises(ServiceFailed, match="does not speak") as caught:
            client.version()
        assert "NO_PROXY" in caught.value.next
        ollama.instead = lambda *_: (403, page, "text/html")
        with pytest.raises(ServiceFailed, match=r"a web page, not an answer of Ollama \(Sign in\)"):
            client.create("notes", files={"a.gguf": "sha256:" + "a" * 64})
        ollama.instead = lambda *_: (301, b"", "text/html")
        with pytest.raises(ServiceFailed, match="301") as caught:
            client.tags()
        assert "redirections" in caught.value.next


def test_a_proxy_that_drops_the_request_to_show_the_prompt_is_no_proof(ollama: OllamaDouble) -> None:
    ollama.install("notes")
    ollama.drops = frozenset({"_debug_render_only"})
    with OllamaClient(ollama.url) as client, pytest.raises(NotSupported, match="without showing the prompt"):
        client.render("notes", HELLO)


def test_copies_a_model_and_names_a_missing_one(ollama: OllamaDouble) -> None:
    ollama.install("notes", system="mine")
    with OllamaClient(ollama.url) as client:
        client.copy("notes", "kept:v1")
        assert client.show("kept:v1")["system"] == "mine"
        with pytest.raises(NotFound, match="has no model 'other'"):
            client.copy("other", "kept:v2")


def test_creates_a_model_from_an_uploaded_file(ollama: OllamaDouble, tmp_path: Path) -> None:
    path, digest = gguf_file(tmp_path)
    seen: list[str] = []
    with OllamaClient(ollama.url) as client:
        client.push_blob(path, digest)
        lines = client.create(
            "me/notes:v1",
            files={path.name: digest},
            template="{{ .System }}{{ .Prompt }}",
            system="Answer from the notes.",
            parameters={"num_ctx": 512, "temperature": 0.7},
            stop=["<|im_end|>"],
            on_status=seen.append,
        )
        assert lines == seen
        assert lines[0] == "parsing GGUF"
        assert lines[-1] == "success"
        assert lines.count("validating GGUF model") == 1
        assert client.show("me/notes:v1")["system"] == "Answer from the notes."
        assert client.exists("me/notes:v1")
        assert not client.exists("me/notes")
    model = ollama.models["me/notes:v1"]
    assert model.parameters == {"num_ctx": 512, "temperature": 0.7, "stop": ["<|im_end|>"]}
    assert model.template == "{{ .System }}{{ .Prompt }}"
    assert model.files == {path.name: digest}


def test_creates_an_adapter_on_an_installed_model(ollama: OllamaDouble, tmp_path: Path) -> None:
    path, digest = gguf_file(tmp_path)
    ollama.install("base", files={"base.gguf": "sha256:" + "0" * 64})
    with OllamaClient(ollama.url) as client:
        client.push_blob(path, digest)
        assert client.create("tuned", from_model="base", adapters={path.name: digest})[-1] == "success"
    assert ollama.models["tuned:latest"].adapters == {path.name: digest}


def test_an_error_inside_the_creation_stream_is_raised(ollama: OllamaDouble, tmp_path: Path) -> None:
    with OllamaClient(ollama.url) as client:
        with pytest.raises(ServiceFailed, match="no such file or directory"):
            client.create("notes", files={"a.gguf": "sha256:" + "a" * 64})
        path = tmp_path / "text.gguf"
        path.write_bytes(b"not a model")
        digest = "sha256:" + hashlib.sha256(b"not a model").hexdigest()
        client.push_blob(path, digest)
        with pytest.raises(ServiceFailed, match="not in GGUF format"):
            client.create("notes", files={path.name: digest})
        assert not client.exists("notes")


def test_a_creation_that_breaks_off_is_no_success(tmp_path: Path) -> None:
    path, digest = gguf_file(tmp_path)
    double = OllamaDouble(tmp_path / "ollama", break_create_after="parsing GGUF")
    with double, OllamaClient(double.url) as client:
        client.push_blob(path, digest)
        with pytest.raises(ServiceFailed, match="creating notes"):
            client.create("notes", files={path.name: digest})


def test_an_old_server_is_named_with_the_version_needed(tmp_path: Path) -> None:
    with OllamaDouble(tmp_path, version="0.4.0") as double, OllamaClient(double.url) as client:
        with pytest.raises(NotSupported, match=r"0\.4\.0 .* too old to create .* 0\.5\.5"):
            client.create("notes", files={"a.gguf": "sha256:" + "a" * 64})
        double.install("notes")
        with pytest.raises(NotSupported, match=r"came with 0\.11\.5"):
            client.render("notes", HELLO)


def test_renders_the_prompt_without_asking_the_model(tmp_path: Path) -> None:
    def render(template: str, messages: list[dict[str, str]]) -> str:
        return template + "|".join(f"{message['role']}={message['content']}" for message in messages)

    def reply(*_: object) -> str:
        raise AssertionError("the model was asked")

    with OllamaDouble(tmp_path, render=render, reply=reply) as double, OllamaClient(double.url) as client:
        double.install("notes", template="T:", system="Be brief.")
        assert client.render("notes", HELLO) == "T:system=Be brief.|user=你好 there"
        assert double.requests[-1].body["truncate"] is False


def test_chats_with_options_over_the_models_own(ollama: OllamaDouble) -> None:
    ollama.install("notes", parameters={"num_ctx": 512, "num_predict": 9})
    ollama.reply = lambda model, messages, options: f"{options['num_ctx']} {messages[-1]['content']} a b c"
    with OllamaClient(ollama.url) as client:
        reply = client.chat("notes", HELLO, options={"temperature": 0, "seed": 1})
        assert (reply.content, reply.done_reason, reply.seconds) == ("512 你好 there a b c", "stop", 1.5)
        cut = client.chat("notes", HELLO, options={"num_predict": 2})
        assert (cut.content, cut.done_reason, cut.tokens) == ("512 你好", "length", 2)
        assert [model.name for model in client.loaded()] == ["notes:latest"]
        client.unload("notes")
        assert client.loaded() == []


def test_deletes_a_model_and_names_a_missing_one(ollama: OllamaDouble) -> None:
    ollama.install("notes")
    with OllamaClient(ollama.url) as client:
        client.delete("notes")
        assert client.tags() == []
        for call in (client.delete, client.show, client.unload, lambda name: client.chat(name, HELLO)):
            with pytest.raises(NotFound, match="has no model 'notes'"):
                call("notes")


def test_a_server_that_is_down_says_how_to_start_it() -> None:
    url = refused_url()
    with OllamaClient(url) as client, pytest.raises(Unreachable) as caught:
        client.version()
    assert url in caught.value.message
    assert "ollama serve" in caught.value.next
    assert "OLLAMA_HOST" in caught.value.next


def test_a_slow_server_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    started = time.monotonic()
    double = OllamaDouble(tmp_path, delay_s=30)
    with double, OllamaClient(double.url, timeout_s=0.3) as client, pytest.raises(Unreachable, match="in time"):
        client.version()
    assert time.monotonic() - started < 5


def test_another_service_on_the_port_is_recognised(ollama: OllamaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    with OllamaClient(f"{ollama.url}/elsewhere") as client, pytest.raises(ServiceFailed, match="does not speak"):
        client.version()


def test_a_proxy_is_not_used_for_this_machine(ollama: OllamaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", refused_url())
    monkeypatch.setenv("ALL_PROXY", refused_url())
    with OllamaClient(ollama.url) as client:
        assert client.version() == "0.33.0"


def test_wrong_parameters_are_named_before_anything_is_sent(ollama: OllamaDouble) -> None:
    digest = "sha256:" + "a" * 64
    wrong = {"num_ctx": "512", "temprature": 1, "top_p": float("nan"), "seed": True, "stop": "x", "min_p": 2}
    wrong |= {"top_k": 0.5, "num_predict": -3, "use_mmap": 1}
    with OllamaClient(ollama.url) as client:
        with pytest.raises(InvalidArgument) as caught:
            client.create("notes", files={"a.gguf": digest}, parameters=wrong)
        for name in wrong:
            assert name in caught.value.message
        assert "did you mean temperature" in caught.value.message
        for stops in (["x"] * 33, ["x" * 201], ["a\0b"], [""], [3]):
            with pytest.raises(InvalidArgument, match="stop"):
                client.create("notes", files={"a.gguf": digest}, parameters={"stop": stops})
        with pytest.raises(InvalidArgument, match="one adapter"):
            client.create("notes", from_model="base", adapters={"a.gguf": digest, "b.gguf": digest})
        with pytest.raises(InvalidArgument, match="stop is given twice"):
            client.create("notes", files={"a.gguf": digest}, parameters={"stop": ["a"]}, stop=["b"])
        for files in ({"../a.gguf": digest}, {"a/b.gguf": digest}, {"..": digest}, {"a.gguf": "sha256:xyz"}, {}):
            with pytest.raises(InvalidArgument):
                client.create("notes", files=files)
        with pytest.raises(InvalidArgument, match="no message"):
            client.chat("notes", [])
    assert ollama.requests == []
