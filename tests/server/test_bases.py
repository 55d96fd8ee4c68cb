"""The catalogue of bases, as a client reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import TextResourceContents

Drive = Callable[..., Any]
SEVEN = "Qwen/Qwen2.5-7B-Instruct"


def read(drive: Drive, uri: str) -> dict[str, Any]:
    async def talk(client: Client) -> str:
        (content,) = (await client.read_resource(uri)).contents
        assert isinstance(content, TextResourceContents)
        return content.text

    text = drive(talk)
    assert len(text) < 20_000
    return json.loads(text)


def test_the_bases_that_a_card_can_train_come_first_with_licence_and_languages(drive: Drive) -> None:
    page = read(drive, "machine://bases?gib=8")
    by_name = {base["base_model"]: base for base in page["bases"]}
    assert by_name[SEVEN]["methods"]["qlora"]["fits"] == "tight"
    assert by_name[SEVEN]["licence"] == "Apache-2.0"
    assert "zh" in by_name[SEVEN]["languages"]
    best = [
        min((("yes", "tight", "no").index(way["fits"]) for way in base["methods"].values()), default=3)
        for base in page["bases"]
    ]
    assert best == sorted(best)


def test_the_bases_are_listed_for_this_machine_too(drive: Drive) -> None:
    page = read(drive, "machine://bases")
    assert page["usable_gib"] > 0

    async def talk(client: Client) -> Any:
        listed = [str(resource.uri) for resource in (await client.list_resources()).resources]
        models = (await client.call_tool("list_models", {"limit": 100})).structured_content
        return listed, models

    listed, models = drive(talk)
    assert "machine://bases" in listed
    embedded = next(model for model in models["models"] if model["model"] == "embedded")
    assert embedded["here"]
    assert "lora" in embedded["fits"]
    assert embedded["needs_gib"]["lora"] > 0.5


def test_an_amount_that_is_none_is_refused(drive: Drive) -> None:
    async def talk(client: Client) -> None:
        with pytest.raises(MCPError, match="gib=8"):
            await client.read_resource("machine://bases?gib=lots")

    drive(talk)
