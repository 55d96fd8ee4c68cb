"""Models of the Hub: from the cache, or fetched over a real socket, or a plain word why not."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.models.conftest import CHATML, write_base

pytestmark = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="needs huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# The library reads its settings when it is imported, so each case is a process with its own environment.
SCRIPT = """
import json, sys
from pathlib import Path
from tunesmith.errors import UserError
from tunesmith.models import bases
from tunesmith.workspace import Workspace
workspace = Workspace(Path(sys.argv[1]))
for line in sys.argv[2:]:
    name, _, model = line.partition(" ")
    try:
        if name == "download":
            result = bases.base_folder(workspace, model, download=True)
        else:
            result = getattr(bases, name)(workspace, model)
        print(json.dumps(["ok", result if isinstance(result, dict) else str(result)]))
    except UserError as error:
        print(json.dumps([error.error_code, error.message, error.next]))
"""


def ask(tmp_path: Path, *calls: str, endpoint: str, offline: bool = False) -> list[list[Any]]:
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "*",
    }
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "workspace"), *calls],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def put_in_cache(tmp_path: Path, repository: str, source: Path, *names: str) -> Path:
    """What the Hub's library leaves behind for these files."""
    place = tmp_path / "hf" / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    for name in names or [path.name for path in source.iterdir()]:
        (snapshot / name).write_bytes((source / name).read_bytes())
    return snapshot


class Hub:
    """A stand-in for the Hub on a loopback socket: `files` by repository, or a status with its error code."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.errors: dict[str, tuple[int, str]] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def answer(self, request: http.server.BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(path)
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        repository = "/".join(parts[:2])
        status, headers, content = 200, {}, b""
        if repository in self.errors:
            status, code = self.errors[repository]
            headers = {"X-Error-Code": code}
        elif repository not in self.files:
            status, headers = 404, {"X-Error-Code": "RepoNotFound"}
        elif path.startswith("/api/models/"):
            if "tree" in parts:
                listing = [{"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                           for name, data in self.files[repository].items()]  # fmt: skip
                content = json.dumps(listing).encode()
            else:
                siblings = [{"rfilename": name} for name in self.files[repository]]
                content = json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()
            headers = {"Content-Type": "application/json"}
        else:
            found = self.files[repository].get("/".join(parts[4:]))
            if found is None:
                status, headers = 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            else:
                content = found
                headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body:
            request.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join(timeout=10)


def test_a_cached_model_needs_no_network(tmp_path: Path) -> None:
    source = write_base(tmp_path / "source", chat_template=CHATML)
    snapshot = put_in_cache(tmp_path, "Someone/Model", source)
    answers = ask(
        tmp_path, "base_folder Someone/Model", "base_config Someone/Model", "tokenizer_for Someone/Model",
        "prompt_format_for Someone/Model", endpoint="http://127.0.0.1:9", offline=True,
    )  # fmt: skip
    assert answers[0] == ["ok", str(snapshot)]
    assert answers[1][1]["hidden_size"] == 8
    assert [answer[0] for answer in answers] == ["ok"] * 4


def test_without_network_a_known_model_has_its_config_and_the_rest_is_explained(tmp_path: Path) -> None:
    calls = ["base_config Qwen/Qwen2.5-7B-Instruct", "base_config Someone/Else",
             "tokenizer_for Qwen/Qwen2.5-7B-Instruct", "base_folder Qwen/Qwen2.5-7B-Instruct",
             "download Someone/Else"]  # fmt: skip
    for offline in (True, False):
        known, unknown, tokenizer, folder, fetched = ask(
            tmp_path, *calls, endpoint="http://127.0.0.1:9", offline=offline
        )
        assert known[1]["hidden_size"] == 3584
        assert unknown[0] == tokenizer[0] == fetched[0] == "unreachable"
        assert ("HF_HUB_OFFLINE" in unknown[1]) is offline
        assert folder[0] == "not_found"
        assert "hf download Qwen/Qwen2.5-7B-Instruct" in folder[2]


def test_small_files_are_fetched_and_weights_only_when_asked(tmp_path: Path, hub: Hub) -> None:
    source = write_base(tmp_path / "source", chat_template=CHATML)
    hub.files["Someone/Model"] = {path.name: path.read_bytes() for path in source.iterdir()}
    hub.files["Someone/Model"]["pytorch_model.bin"] = b"pickle"
    hub.files["Someone/Model"]["evil.py"] = b"code"
    answers = ask(
        tmp_path, "base_config Someone/Model", "prompt_format_for Someone/Model", "tokenizer_for Someone/Model",
        "base_folder Someone/Model", "download Someone/Model", "base_folder Someone/Model", endpoint=hub.url,
    )  # fmt: skip
    assert [answer[0] for answer in answers] == ["ok", "ok", "ok", "bad_input", "ok", "ok"]
    assert "no weights" in answers[3][1]
    kept = {path.name for path in Path(answers[4][1]).iterdir()}
    assert kept == {"config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"}


def test_what_the_hub_refuses_is_said_plainly(tmp_path: Path, hub: Hub) -> None:
    hub.errors = {"Someone/Gated": (403, "GatedRepo"), "Someone/Broken": (500, "")}
    missing, gated, broken = ask(
        tmp_path,
        "base_config Someone/Missing",
        "base_config Someone/Gated",
        "base_config Someone/Broken",
        endpoint=hub.url,
    )
    assert missing[0] == "not_found"
    assert gated[0] == "not_supported"
    assert "licence" in gated[1]
    assert "HF_TOKEN" in gated[2]
    assert broken[0] in ("service_failed", "unreachable")
