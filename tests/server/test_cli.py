"""The command line, and what the README tells people to type."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

import tunesmith
from tunesmith.demo import connected

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunesmith", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_version_is_the_packages() -> None:
    assert tunesmith.__version__ in run("version").stdout


def test_doctor_tells_a_program_what_check_gpu_tells_an_assistant() -> None:
    report = json.loads(run("doctor", "--json").stdout)
    assert {"gpus", "packages", "ollama", "llama_cpp", "can_train", "recommended", "problems"} <= set(report)


def test_an_address_beyond_loopback_is_refused_with_the_next_step() -> None:
    done = run("serve", "--http", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "Next: " in done.stderr


def test_a_workspace_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("serve", "--workspace", str(tmp_path / "file"))
    assert done.returncode == 1
    assert "[workspace_unusable]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_readmes_client_blocks_start_a_server_that_answers(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"```(json|toml)\n(.*?)```", README, re.DOTALL))
    servers = [
        json.loads(blocks["json"])["mcpServers"]["tunesmith"],
        tomllib.loads(blocks["toml"])["mcp_servers"]["tunesmith"],
    ]

    async def ask(arguments: list[str]) -> int:
        command = StdioServerParameters(command=sys.executable, args=["-m", "tunesmith", *arguments])
        async with Client(command) as client:
            return len((await client.list_tools()).tools)

    for server in servers:
        assert server["command"] == "tunesmith"
        arguments = [str(tmp_path) if part == "/home/me/notes" else part for part in server["args"]]
        assert anyio.run(ask, [*arguments, "--workspace", str(tmp_path / "ws")]) == 23


def test_read_only_offers_only_tools_that_change_nothing(tmp_path: Path) -> None:
    async def hints() -> list[bool]:
        arguments = ["-m", "tunesmith", "serve", "--read-only", "--workspace", str(tmp_path / "ws")]
        async with Client(StdioServerParameters(command=sys.executable, args=arguments)) as client:
            return [tool.annotations.read_only_hint for tool in (await client.list_tools()).tools if tool.annotations]

    found = anyio.run(hints)
    assert found
    assert all(found)


@pytest.mark.parametrize("setting", [("TUNESMITH_ALLOW_ROOTS", "/notes"), ("TUNESMITH_READ_ONLY", "maybe")])
@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_a_malformed_setting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str], command: str
) -> None:
    monkeypatch.setenv(*setting)
    done = run(command)
    assert done.returncode == 1
    assert re.fullmatch(rf"\[invalid_argument\] .*{setting[0]}.* Next: .*\n", done.stderr)


@pytest.fixture
def misleading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which a module lies that has the name of one of the library's."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "json.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_what_install_prints_starts_a_server_in_any_folder(misleading: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-P", "-m", "tunesmith", "install"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    block = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])["mcpServers"]["tunesmith"]
    command = [block["command"], *block["args"]]
    assert shlex.join(command) in printed  # the same for the other client
    workspace = {**os.environ, "TUNESMITH_WORKSPACE": str(misleading / "ws")}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False, env=workspace
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_demos_server_starts_in_any_folder(misleading: Path) -> None:
    async def count() -> int:
        async with connected(misleading, misleading) as client:
            return len((await client.list_tools()).tools)

    assert anyio.run(count) == 23


def test_no_python_is_started_that_looks_into_the_current_folder() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tunesmith").rglob("*.py")]
    commands = [found for text in sources for found in re.findall(r"\[\s*sys\.executable,\s*[^\],]*", text)]
    assert len(commands) > 5
    # llama.cpp's converter for adapters imports what lies beside it.
    assert [command for command in commands if not command.endswith(('"-P"', " converter"))] == []
