"""The command line, and what the README tells people to type."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters

import tunesmith

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
        assert anyio.run(ask, [*arguments, "--workspace", str(tmp_path / "ws")]) == 22


def test_read_only_offers_only_tools_that_change_nothing(tmp_path: Path) -> None:
    async def hints() -> list[bool]:
        arguments = ["-m", "tunesmith", "serve", "--read-only", "--workspace", str(tmp_path / "ws")]
        async with Client(StdioServerParameters(command=sys.executable, args=arguments)) as client:
            return [tool.annotations.read_only_hint for tool in (await client.list_tools()).tools if tool.annotations]

    found = anyio.run(hints)
    assert found
    assert all(found)
