"""One string says which model is meant."""

from __future__ import annotations

import pytest

from tunesmith.errors import InvalidArgument, NotFound, PathRefused
from tunesmith.models.references import Reference, check_base_url, parse_reference
from tunesmith.workspace import Workspace

RUN, MODEL = "run_" + "a" * 12, "mdl_" + "b2c3d4e5f6g7"


@pytest.mark.parametrize(
    ("text", "kind", "name", "url"),
    [
        (RUN, "run", RUN, None),
        (MODEL, "model", MODEL, None),
        ("embedded", "embedded", "embedded", None),
        (" embedded ", "embedded", "embedded", None),
        ("ollama:qwen2.5:7b", "ollama", "qwen2.5:7b", None),
        ("ollama:hf.co/someone/model:Q4_K_M", "ollama", "hf.co/someone/model:Q4_K_M", None),
        ("openai:gpt-4o-mini", "openai", "gpt-4o-mini", None),
        ("openai:@cf/meta/llama", "openai", "@cf/meta/llama", None),
        ("openai:m@http://127.0.0.1:8000/v1", "openai", "m", "http://127.0.0.1:8000/v1"),
        ("openai:org/m:free@https://api.example.org/v1/", "openai", "org/m:free", "https://api.example.org/v1"),
        ("openai:m@http://[::1]:8000/v1", "openai", "m", "http://[::1]:8000/v1"),
        ("Qwen/Qwen2.5-7B-Instruct", "hub", "Qwen/Qwen2.5-7B-Instruct", None),
    ],
)
def test_every_form_is_understood(workspace: Workspace, text: str, kind: str, name: str, url: str | None) -> None:
    found = parse_reference(text, workspace)
    assert (found.kind, found.name, found.base_url) == (kind, name, url)
    assert isinstance(found, Reference)


def test_a_folder_is_known_by_its_path_or_by_being_there(workspace: Workspace) -> None:
    folder = workspace.roots.roots[0] / "org" / "model"
    folder.mkdir(parents=True)
    for text in (str(folder), "./org/model", "org/model"):
        found = parse_reference(text, workspace)
        assert (found.kind, found.name) == ("folder", str(folder.resolve()))


def test_folders_that_are_missing_or_outside_are_refused(workspace: Workspace) -> None:
    with pytest.raises(NotFound):
        parse_reference("./nothing", workspace)
    with pytest.raises(PathRefused):
        parse_reference("/etc", workspace)
    with pytest.raises(PathRefused):
        parse_reference("../..", workspace)
    (workspace.roots.roots[0] / "m.gguf").write_bytes(b"")
    with pytest.raises(InvalidArgument, match="is a file"):
        parse_reference("./m.gguf", workspace)


@pytest.mark.parametrize(
    "text",
    ["", "  ", "gpt2", "a/b/c", "http://example.org", "hf:org/name", "org/na me", "x\ny", "-org/name", "o" * 600,
     "run_short", "mdl_ABCDEFGHIJKL", "ollama:", "ollama:a b", "ollama:-x", "openai:", "openai:a b",
     "org\0/name", "你好"],
)  # fmt: skip
def test_what_has_no_form_is_refused_with_the_forms(workspace: Workspace, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_reference(text, workspace)
    assert caught.value.next


def test_the_forms_are_listed_for_what_has_none(workspace: Workspace) -> None:
    with pytest.raises(InvalidArgument, match=r"run_….*mdl_….*ollama:NAME.*openai:NAME@http.*embedded.*folder"):
        parse_reference("gpt2", workspace)


@pytest.mark.parametrize(
    "url",
    ["ftp://host/v1", "file:///etc/passwd", "http://user:secret@host/v1", "http://user@host", "http://169.254.169.254/v1",
     "http://169.254.1.1", "http://2852039166/", "http://0xA9FEA9FE/", "http://0251.0376.0251.0376/", "http://[fe80::1]/v1",
     "http://[::ffff:169.254.169.254]/", "http://metadata.google.internal/v1", "http://METADATA.google.internal./v1",
     "http://100.100.100.200/", "http://[fd00:ec2::254]/", "http://0.0.0.0:8000/v1", "http://224.0.0.1/", "http://",
     "http://host:0/", "http://host:99999/", "http://host/v1?x=1", "http://host/v1#x", "http://ho st/", "http://host\\@x/",
     "http://ho\nst/", "javascript:alert(1)", "http://[::1/v1"],
)  # fmt: skip
def test_addresses_that_are_never_called_are_refused(workspace: Workspace, url: str) -> None:
    with pytest.raises(InvalidArgument):
        check_base_url(url)
    with pytest.raises(InvalidArgument):
        parse_reference(f"openai:model@{url}", workspace)


def test_no_secret_of_an_address_reaches_the_error(workspace: Workspace) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_reference("openai:m@http://user:hunter2@host/v1", workspace)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost:11434/v1", "https://10.0.0.5/v1", "http://gpu-box.lan:8000"])
def test_ordinary_addresses_are_taken(url: str) -> None:
    assert check_base_url(url) == url
