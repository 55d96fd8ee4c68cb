"""Which llama.cpp is found, in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunesmith.machine.llama_cpp import find_llama_cpp


@pytest.fixture(autouse=True)
def nothing_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_packages_are_complete_by_themselves() -> None:
    found = find_llama_cpp()
    assert found.source == "packages"
    assert found.complete
    assert found.converter and Path(found.converter).name == "convert_hf_to_gguf.py"
    assert found.lora_converter and Path(found.lora_converter).is_file()
    assert (found.quantizer, found.runtime) == ("package:cyllama", "package:xllamacpp")


def test_programs_on_the_path_come_before_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = program(tmp_path / "llama-quantize")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_llama_cpp()
    assert found.quantizer == str(quantizer)
    assert found.runtime == "package:xllamacpp"
    assert found.source == "PATH+packages"


def test_the_users_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "path" / "llama-quantize")
    server = program(tmp_path / "path" / "llama-server")
    folder = tmp_path / "llama.cpp"
    quantizer = program(folder / "build" / "bin" / "llama-quantize")
    converter = folder / "convert_hf_to_gguf.py"
    converter.write_text("")
    monkeypatch.setenv("LLAMA_CPP_DIR", str(folder))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    found = find_llama_cpp()
    assert (found.converter, found.quantizer, found.runtime) == (str(converter), str(quantizer), str(server))
    assert found.source == "LLAMA_CPP_DIR+PATH+packages"  # the LoRA converter is a package's


def test_the_users_own_is_left_alone_where_the_packaged_one_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "llama-server")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    assert find_llama_cpp().runtime == str(tmp_path / "llama-server")
    monkeypatch.setenv("TUNESMITH_LLAMA_CPP", "packaged")
    assert find_llama_cpp().runtime == "package:xllamacpp"


def test_a_file_that_cannot_be_run_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama-quantize").write_text("")
    monkeypatch.setenv("LLAMA_CPP_DIR", f"{tmp_path}{os.sep}")
    assert find_llama_cpp().quantizer == "package:cyllama"
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path / "missing"))
    assert find_llama_cpp().source == "packages"
