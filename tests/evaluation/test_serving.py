from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import own_llama_server
from tests.endpoint_double import EndpointDouble, Said, Stall, Status
from tunesmith.data.records import Message
from tunesmith.errors import EmptyInput, InvalidArgument, NotFound, ServiceFailed, Unreachable
from tunesmith.evaluation.ask import ask_model
from tunesmith.evaluation.contestants import contestant
from tunesmith.models.embedded import gguf_path
from tunesmith.models.endpoints import CompletionEndpoint, Draw
from tunesmith.models.serving import Served, child_environment
from tunesmith.workspace import Workspace

FRUIT = [Message(role="user", content="Name one fruit.")]
OWNER = """
import sys, time
from pathlib import Path
from tunesmith.models.serving import Served
with Served(Path(sys.argv[1]), context=512) as served:
    print(served.pid, flush=True)
    time.sleep(120)
"""


def gone(pid: int, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_a_gguf_is_served_and_asked_in_the_tokens_it_was_trained_on(workspace: Workspace, tmp_path: Path) -> None:
    one = contestant(workspace, "base", "embedded")
    assert one.prompt_format is not None
    messages = [Message(role="user", content="Name one fruit.")]
    assert one.tokenizer.decode(one.encode(messages), skip_special_tokens=False) == one.prompt_format.render(
        messages, add_generation_prompt=True
    )
    with Served(gguf_path(), context=300, slots=2, log=tmp_path / "served.log") as served:
        asker = CompletionEndpoint(served.base_url, one.encode, one.prompt_format.stops, timeout_s=100)
        first = asker.ask(messages, Draw(0.0, 12, 1))
        again = asker.ask(messages, Draw(0.0, 12, 1))
        asker.close()
        pid = served.pid
        assert pid is not None
        assert served.base_url.startswith("http://127.0.0.1:")
    assert first.text == again.text != ""
    assert "<|im" not in first.text
    assert first.tokens is not None
    assert first.tokens <= 12
    assert gone(pid, 5)
    assert (tmp_path / "served.log").stat().st_size > 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_the_server_ends_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(gguf_path())], stdout=subprocess.PIPE, env=child_environment(), text=True
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert psutil.pid_exists(pid)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait(10)
    owner.stdout.close()
    assert gone(pid, 10)


def test_a_damaged_gguf_is_an_error_with_the_runtimes_words(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_path().read_bytes()[:100_000])
    with pytest.raises(ServiceFailed, match=r"could not load cut\.gguf"), Served(path, context=512):
        pass


def test_a_model_that_does_not_load_in_time_is_an_error_and_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(ServiceFailed, match="not loaded after 0 s"), Served(gguf_path(), context=512, deadline_s=0.05):
        pass
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if "server_process" in " ".join(child.cmdline())]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_users_own_llama_server_comes_before_the_packaged_one(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = own_llama_server.install(tmp_path / "llama.cpp" / "build" / "bin")
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path / "llama.cpp"))
    # What would change where it listens, or whom it answers.
    monkeypatch.setenv("LLAMA_ARG_API_PREFIX", "/elsewhere")
    monkeypatch.setenv("LLAMA_API_KEY", "secret")
    one = contestant(workspace, "base", "embedded")
    with Served(gguf_path(), context=300, slots=2, log=tmp_path / "served.log") as served:
        assert one.prompt_format is not None
        asker = CompletionEndpoint(served.base_url, one.encode, one.prompt_format.stops, timeout_s=100)
        own = asker.ask(FRUIT, Draw(0.0, 8, 1))
        asker.close()
        assert served.program == program
        assert served.pid is not None
        (child,) = psutil.Process(served.pid).children(recursive=True)
        assert not {"LLAMA_ARG_API_PREFIX", "LLAMA_API_KEY"} & child.environ().keys()
    assert gone(child.pid, 5)
    options = json.loads((program.parent / own_llama_server.LOG).read_text())
    assert (options["model"], options["ctx_size"], options["parallel"]) == (str(gguf_path()), 1024, 2)
    assert options["host"] == "127.0.0.1"
    assert "the user's own" in (tmp_path / "served.log").read_text()
    monkeypatch.setenv("TUNESMITH_LLAMA_CPP", "packaged")
    assert ask_model(workspace, "embedded", FRUIT[0].content, max_tokens=8).reply == own.text


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_a_llama_server_that_does_not_start_is_named_with_the_way_to_the_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = own_llama_server.install(tmp_path, broken="libcuda.so.1 is not there")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ServiceFailed, match=r"libcuda\.so\.1") as caught, Served(gguf_path(), context=512):
        pass
    assert str(program) in caught.value.message
    assert "TUNESMITH_LLAMA_CPP=packaged" in caught.value.next


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked to kill it")
def test_the_users_llama_server_ends_when_its_owner_or_its_keeper_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_llama_server.install(tmp_path)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    with Served(gguf_path(), context=512) as served:
        assert served.pid is not None
        (child,) = psutil.Process(served.pid).children()
        os.kill(served.pid, signal.SIGKILL)
        assert gone(child.pid, 5)


def test_a_child_is_given_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert "secret" not in child_environment().values()


def test_asking_the_embedded_model_loads_nothing_heavy_here(workspace: Workspace) -> None:
    result = ask_model(workspace, "embedded", "Name one fruit.", system="Answer in one word.", max_tokens=8)
    assert result.reply
    assert result.finish_reason in ("stop", "length")
    assert result.seconds > 0
    code = (
        "import sys; from pathlib import Path; from tunesmith.workspace import Workspace; "
        "from tunesmith.evaluation.ask import ask_model; "
        f"ask_model(Workspace(Path({str(workspace.root)!r})), 'embedded', 'Hi', max_tokens=1); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'xllamacpp')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env=child_environment(), check=False, timeout=60).returncode == 0
    )


def test_asking_an_endpoint_tries_once_more_and_keeps_to_its_deadline(workspace: Workspace) -> None:
    steps = iter([Status(503), Said("Hello.", tokens=2)])
    with EndpointDouble(lambda _: next(steps)) as endpoint:
        result = ask_model(workspace, f"openai:m@{endpoint.url}", "Hi", max_tokens=9)
    assert (result.reply, result.tokens, result.finish_reason) == ("Hello.", 2, "stop")
    began = time.monotonic()
    with EndpointDouble(lambda _: Stall(60)) as endpoint, pytest.raises(Unreachable, match="no answer after"):
        ask_model(workspace, f"openai:m@{endpoint.url}", "Hi", deadline_s=0.5)
    assert time.monotonic() - began < 5


def test_asking_nobody_says_what_to_start(workspace: Workspace) -> None:
    with EndpointDouble(lambda _: Said("")) as endpoint:
        host = endpoint.url.removesuffix("/v1")
    with pytest.raises(Unreachable, match="ollama:qwen") as caught:
        ask_model(workspace, "ollama:qwen", "Hi", ollama_host=host)
    assert "ollama serve" in caught.value.next


def test_what_cannot_be_asked_is_refused_at_once(workspace: Workspace) -> None:
    with pytest.raises(EmptyInput):
        ask_model(workspace, "embedded", "  ")
    with pytest.raises(InvalidArgument, match="max_tokens is 0"):
        ask_model(workspace, "embedded", "Hi", max_tokens=0)
    with pytest.raises(InvalidArgument, match="temperature"):
        ask_model(workspace, "embedded", "Hi", temperature=3)
    with pytest.raises(NotFound):
        ask_model(workspace, "mdl_aaaaaaaaaaaa", "Hi")
    with pytest.raises(InvalidArgument, match="this model takes 8,192"):
        ask_model(workspace, "embedded", "word " * 9000)
