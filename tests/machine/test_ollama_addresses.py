"""Which hosts and names are taken, and which are refused before anything is sent."""

from __future__ import annotations

import pytest

from tunesmith.errors import InvalidArgument
from tunesmith.machine.hosts import ollama_url, refuse_hidden_address
from tunesmith.machine.ollama import OllamaClient
from tunesmith.machine.ollama_names import check_model_name, full_name, same_name


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("localhost", "http://localhost:11434"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://gpu-box", "http://gpu-box:80"),
        ("https://gpu-box", "https://gpu-box:443"),
        ("https://gpu-box:11434/ollama/", "https://gpu-box:11434/ollama"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:9000", "http://127.0.0.1:9000"),
        ("[::]:9000", "http://[::1]:9000"),
        ("::1", "http://[::1]:11434"),
        ("192.168.1.20", "http://192.168.1.20:11434"),
        (" http://127.0.0.1:11434 ", "http://127.0.0.1:11434"),
    ],
)
def test_hosts_are_read_as_ollama_reads_them(given: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ollama_url(given) == url
    monkeypatch.setenv("OLLAMA_HOST", given)
    assert ollama_url() == url
    monkeypatch.delenv("OLLAMA_HOST")
    assert ollama_url() == "http://127.0.0.1:11434"


@pytest.mark.parametrize(
    "host",
    [
        "http://169.254.169.254",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]:11434",
        "http://[::ffff:169.254.169.254]",
        "http://2852039166",
        "http://0xa9fea9fe",
        "http://169.254.43518",
        "http://0251.0376.0251.0376",
        "http://[fd00:ec2::254]",
        "http://100.100.100.200",
        "http://metadata.google.internal",
        "http://Metadata.Google.Internal.",
        "http://224.0.0.1",
        "file:///etc/passwd",
        "ftp://127.0.0.1",
        "gopher://127.0.0.1:11434",
        "unix:///run/ollama.sock",
        "http://user:secret@127.0.0.1",
        "http://127.0.0.1:11434/?a=b",
        "http://127.0.0.1:11434/#x",
        "http://127.0.0.1:11434/../x",
        "http://127.0.0.1:0",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "http://",
        "",
        "   ",
        "http://127.0.0.1\n.evil",
        "http://127.0.0.1\\@evil",
        "http://ex ample",
        "http://[::1",
        "http://\u202e1",
    ],
)
def test_other_hosts_are_refused(host: str) -> None:
    with pytest.raises(InvalidArgument):
        OllamaClient(host)


def test_a_name_that_leads_to_a_metadata_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **_: object) -> list[object]:
        return [(2, 1, 6, "", ("10.0.0.7", port)), (2, 1, 6, "", ("169.254.169.254", port))]

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    with pytest.raises(InvalidArgument, match="link-local"):
        refuse_hidden_address("http://innocent.example:11434")
    with OllamaClient("http://innocent.example") as client, pytest.raises(InvalidArgument):
        client.version()


@pytest.mark.parametrize(
    "name", ["notes", "notes:v1", "me/notes", "me/notes:latest", "host.example:5000/me/notes:v1", "Qwen2.5_7b.x", "_a"]
)
def test_names_that_ollama_takes_are_taken(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "-rf",
        "a b",
        "notes\nFROM evil",
        "notes\r",
        "../notes",
        "a..b",
        "me/../notes",
        "a/b/c/d",
        "/notes",
        "notes/",
        "notes:",
        ":v1",
        "notes:-v",
        "me.x/notes",
        "笔记",
        "a" * 81,
        "notes:" + "t" * 81,
        "$(id)",
        "a;b",
        "a\0b",
        "notes@sha256:abc",
        "notes:cloud",
        "notes:local",
        "notes:7b-cloud",
        "notes:x:y",
    ],
)
def test_names_that_ollama_would_refuse_or_misread_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_model_name(name)


def test_a_name_without_a_tag_is_listed_as_latest() -> None:
    assert full_name("notes") == "notes:latest"
    assert full_name("host:5000/me/notes") == "host:5000/me/notes:latest"
    assert full_name("me/notes:v1") == "me/notes:v1"
    assert full_name("library/notes") == full_name("registry.ollama.ai/library/notes:latest") == "notes:latest"


def test_names_that_ollama_takes_for_one_are_one() -> None:
    assert same_name("Notes", "library/notes:LATEST")
    assert not same_name("notes", "me/notes")


@pytest.mark.parametrize("host", ["http://user:secret@127.0.0.1", "http://user:secret@[::1", "ftp://user:secret@x"])
def test_a_refused_address_does_not_repeat_its_password(host: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        OllamaClient(host)
    assert "secret" not in str(caught.value)
