"""The front for llama.cpp: which token ids it sends, and how requests and failures look to a client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from tokenizers import Tokenizer

from tests.llama_double import CONTEXT, Failure, Hangup, LlamaDouble, Refusal
from tunesmith.data.records import Message, Row
from tunesmith.models.bases import prompt_format_for, tokenizer_for
from tunesmith.models.openai_api.app import LOOPBACK, Serving, build_app
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.servable import Servable
from tunesmith.training.examples import IGNORED, tokenise
from tunesmith.workspace import Workspace

CHAT = "/v1/chat/completions"
# As Gemma 2's: no place for a system message, and answers must alternate with questions.
WITHOUT_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' "
    "+ message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

Talk = Callable[[httpx2.AsyncClient], Coroutine[Any, Any, Any]]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    prompt_format, tokenizer = prompt_format_for(workspace, "embedded"), tokenizer_for(workspace, "embedded")
    return with_tokenizer(
        Servable(workspace, Path("tiny.gguf"), "mdl_a:0123456789abcdef", prompt_format, None, "q8_0"), tokenizer
    )


def with_tokenizer(one: Servable, tokenizer: Tokenizer) -> Servable:
    """Read once: reading it takes half a second."""
    vars(one)["tokenizer"] = tokenizer
    return one


def speaking(one: Servable, prompt_format: PromptFormat) -> Servable:
    return with_tokenizer(replace(one, prompt_format=prompt_format), one.tokenizer)


def talk(one: Servable, llama: LlamaDouble, say: Talk, **changes: Any) -> Any:
    serving = {
        "one": one,
        "name": "my-notes",
        "others": ["mdl_aaaaaaaaaaaa"],
        "url": llama.url,
        "context": 4096,
        "slots": 2,
        "defaults": {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.0},
        **changes,
    }

    async def main() -> Any:
        async with connected(Serving(**serving)) as client:
            return await say(client)

    return anyio.run(main)


@asynccontextmanager
async def connected(serving: Serving) -> AsyncIterator[httpx2.AsyncClient]:
    app = build_app(serving)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:8080") as client,
    ):
        yield client


def asks(path: str = CHAT, **body: Any) -> Talk:
    async def say(client: httpx2.AsyncClient) -> httpx2.Response:
        given = {"messages": [{"role": "user", "content": "Hello"}]} if path == CHAT and "messages" not in body else {}
        return await client.post(path, json={**given, **body})

    return say


def trained_prompt(turns: list[dict[str, str]], prompt_format: PromptFormat, tokenizer: Tokenizer) -> list[int]:
    """The token ids that training puts before the last answer of a row."""
    row = Row(row_id="r", messages=[Message(role=turn["role"], content=turn["content"]) for turn in turns])  # type: ignore[arg-type]
    (example,) = tokenise([row], prompt_format, tokenizer)
    end = len(example.labels)
    while example.labels[end - 1] == IGNORED:
        end -= 1
    while example.labels[end - 1] != IGNORED:
        end -= 1
    return example.input_ids[:end]


TURNS = [
    {"role": "system", "content": "  Be brief.\n"},
    {"role": "user", "content": "校准 🙂 <|im_end|> twice?"},
    {"role": "assistant", "content": "\n\n  Yes.\n"},
    {"role": "user", "content": "And then?\t"},
    {"role": "assistant", "content": "Nothing."},
]


@pytest.mark.parametrize("name", ["chat", "alpaca"])
@pytest.mark.parametrize("turns", [TURNS[1:3], TURNS[:3], TURNS], ids=["one turn", "with system", "several turns"])
def test_llama_cpp_is_sent_the_token_ids_of_the_trained_prompt(
    one: Servable, name: str, turns: list[dict[str, str]]
) -> None:
    prompt_format = prompt_format_for(one.workspace, "embedded", name)
    with LlamaDouble(["Hel", "lo"]) as llama:
        answered = talk(speaking(one, prompt_format), llama, asks(messages=turns[:-1], max_tokens=9))
    assert answered.status_code == 200, answered.text
    expected = trained_prompt(turns, prompt_format, one.tokenizer)
    (request,) = llama.requests
    assert request["prompt"] == expected
    assert answered.json()["usage"] == {
        "prompt_tokens": len(expected),
        "completion_tokens": 2,
        "total_tokens": len(expected) + 2,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert answered.json()["choices"][0]["message"]["content"] == "Hello"
    assert set(prompt_format.stops) <= set(request["stop"])


def test_sampling_is_as_asked_and_else_as_in_the_modelfile(one: Servable) -> None:
    wanted = {"top_p": 0.5, "seed": -1, "stop": "END", "max_completion_tokens": 7, "logit_bias": {"5": -100}}
    with LlamaDouble(["x"], stop_type="limit") as llama:
        plain = talk(one, llama, asks())
        talk(one, llama, asks(**wanted, user="me", response_format={"type": "text"}, temperature=0))
        talk(one, llama, asks(max_tokens=100_000))
    first, second, third = llama.requests
    assert {name: first[name] for name in ("temperature", "top_p", "top_k", "min_p")} == {
        "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.0
    }  # fmt: skip
    assert (second["temperature"], second["top_p"], second["top_k"]) == (0, 0.5, 0)
    assert 0 <= second["seed"] < 2**32 - 1
    assert second["stop"][-1] == "END"
    assert second["n_predict"] == 7
    assert second["logit_bias"] == [[5, -100.0]]
    # Never more than there is room for, whatever is asked.
    assert first["n_predict"] == third["n_predict"] == CONTEXT - len(first["prompt"])
    assert plain.json()["choices"][0]["finish_reason"] == "length"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"logprobs": True}, "logprobs"),
    ({"n": 2}, "n"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stop": ["a", ""]}, "stop"),
    ({"temprature": 1}, "temprature"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"logit_bias": {"hello": 1}}, "logit_bias"),
    ({"messages": []}, "messages"),
    ({"messages": ["Hello"]}, "messages[0]"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
    ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"model": "gpt-4"}, "model"),
]


def test_what_cannot_be_done_is_refused_by_name_in_openais_shape(one: Servable) -> None:
    async def say(client: httpx2.AsyncClient) -> list[httpx2.Response]:
        return [await asks(**body)(client) for body, _ in REFUSED]

    with LlamaDouble(["x"]) as llama:
        answers = talk(one, llama, say)
    assert llama.requests == []
    for (body, param), answer in zip(REFUSED, answers, strict=True):
        error = answer.json()["error"]
        assert answer.status_code == (404 if "model" in body else 400), body
        assert error["param"] == param
        assert error["type"] == "invalid_request_error"
        assert error["message"]
        assert error["code"]
    assert "Did you mean temperature?" in answers[11].json()["error"]["message"]


def test_text_parts_and_the_models_other_names_are_understood(one: Servable) -> None:
    parts = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    body = {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]}
    with LlamaDouble(["x"]) as llama:
        assert talk(one, llama, asks(**body, model="mdl_aaaaaaaaaaaa", tools=[], n=1)).status_code == 200
    text = one.tokenizer.decode(llama.requests[0]["prompt"], skip_special_tokens=False)
    assert "One.\nTwo." in text
    assert "system\nBe brief." in text


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(one: Servable) -> None:
    with LlamaDouble(["x"]) as llama:
        answer = talk(one, llama, asks(messages=[{"role": "user", "content": "word " * 600}]))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "631 tokens" in error["message"]
    assert f"can have {CONTEXT}" in error["message"]
    assert llama.requests == []


def test_a_system_message_is_refused_where_the_format_has_no_place_for_it(one: Servable) -> None:
    prompt_format = PromptFormat.from_chat_template(WITHOUT_SYSTEM, bos="<bos>", eos="<end_of_turn>")
    silent = speaking(one, prompt_format)
    with LlamaDouble(["x"]) as llama:
        answer = talk(silent, llama, asks(messages=TURNS[:2]))
        plain = talk(silent, llama, asks(messages=TURNS[1:2]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "system_not_supported")
    assert "gemma" in answer.json()["error"]["message"]
    assert plain.status_code == 200


def test_a_text_is_gone_on_with_as_it_is(one: Servable) -> None:
    tokenizer = one.tokenizer
    with LlamaDouble([" blue"]) as llama:
        answer = talk(one, llama, asks("/v1/completions", prompt="The sky is"))
        talk(one, llama, asks("/v1/completions", prompt=[[5, 6, 7]], max_tokens=2))
        many = talk(one, llama, asks("/v1/completions", prompt=["a", "b"]))
    assert answer.json()["choices"][0]["text"] == " blue"
    assert answer.json()["object"] == "text_completion"
    assert llama.requests[0]["prompt"] == tokenizer.encode("The sky is", add_special_tokens=False).ids
    assert llama.requests[0]["n_predict"] == 16
    assert (llama.requests[1]["prompt"], llama.requests[1]["n_predict"]) == ([5, 6, 7], 2)
    assert (many.status_code, many.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    ("script", "status", "says"),
    [
        (Refusal(400, "no such token"), 400, "no such token"),
        (Refusal(500, "out of memory"), 502, "out of memory"),
        ([Failure("decode failed")], 502, "decode failed"),
        ([Hangup()], 502, "in the middle"),
    ],
    ids=["refused", "failed", "failed in the stream", "hung up"],
)
def test_what_llama_cpp_says_of_its_failure_reaches_the_client(
    one: Servable, script: Any, status: int, says: str
) -> None:
    for stream in (False, True):
        with LlamaDouble(script) as llama:
            answer = talk(one, llama, asks(stream=stream))
        assert answer.status_code == status
        assert says in answer.json()["error"]["message"]


def test_a_failure_after_the_first_piece_is_told_in_the_stream(one: Servable) -> None:
    with LlamaDouble(["Hel", Failure("decode failed")]) as llama:
        answer = talk(one, llama, asks(stream=True))
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert answer.status_code == 200
    assert events[1]["choices"][0]["delta"]["content"] == "Hel"
    assert "decode failed" in events[-1]["error"]["message"]
    assert "[DONE]" not in answer.text


def test_nobody_else_is_let_in(one: Servable) -> None:
    async def say(client: httpx2.AsyncClient) -> list[tuple[int, str]]:
        key, hello = {"authorization": "Bearer secret"}, {"messages": [{"role": "user", "content": "Hello"}]}
        answers = [
            await client.get("/v1/models"),
            await client.get("/v1/models", headers={"authorization": "Bearer wrong"}),
            await client.post(CHAT, json=hello),
            await client.get("/v1/models", headers=key),
            await client.get("/health"),
            # A name that somebody made to lead here, and what a web page may send without asking.
            await client.get("/v1/models", headers={**key, "host": "evil.example:8080"}),
            await client.post(CHAT, content=json.dumps(hello), headers={**key, "content-type": "text/plain"}),
            await client.post(CHAT, content="{", headers={**key, "content-type": "application/json"}),
            await client.get("/v1/embeddings", headers=key),
            await client.get(CHAT, headers=key),
        ]
        return [(answer.status_code, answer.json().get("error", {}).get("code")) for answer in answers]

    with LlamaDouble(["x"]) as llama:
        found = talk(one, llama, say, key="secret", hosts=LOOPBACK)
    assert found == [
        (401, "invalid_api_key"),
        (401, "invalid_api_key"),
        (401, "invalid_api_key"),
        (200, None),
        (200, None),
        (403, "host_not_allowed"),
        (415, "invalid_content_type"),
        (400, "invalid_json"),
        (404, "not_found"),
        (405, "not_found"),
    ]
    assert llama.requests == []
