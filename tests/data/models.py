"""Language models for the tests of the data room: a scripted endpoint on a real socket, asked as the worker does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.endpoint_double import EndpointDouble, Said
from tunesmith.data.llm_asking import Model
from tunesmith.data.worker import ask_of
from tunesmith.models.endpoints import ChatEndpoint

SHOWN = re.compile(r"<<<(?:TEXT|ROW) (\w+)\n(.*)\n(?:TEXT|ROW) \1>>>", re.DOTALL)


@contextmanager
def model_at(
    endpoint: EndpointDouble,
    *,
    timeout_s: float = 20.0,
    concurrency: int = 4,
    window_chars: int = 3000,
    check: Callable[[], None] = lambda: None,
    key: str | None = None,
    identity: str = "fake",
) -> Iterator[Model]:
    """The endpoint as a model."""
    client = ChatEndpoint("fake", endpoint.url, key, timeout_s=timeout_s)
    try:
        yield Model(
            ask=ask_of(client),
            identity=identity,
            name="the fake model",
            concurrency=concurrency,
            window_chars=window_chars,
            check=check,
        )
    finally:
        client.close()


def shown(request: dict[str, Any]) -> tuple[str, str]:
    """What a request shows between its markers: the first line (headings, or a role) and the rest."""
    match = SHOWN.search(request["messages"][-1]["content"])
    assert match is not None
    first, _newlines, rest = match.group(2).partition("\n")
    return first, rest.strip()


def pairs(*triples: tuple[str, str, str]) -> str:
    """A reply of pairs as it is asked for."""
    return json.dumps(
        {"pairs": [{"question": q, "answer": a, "evidence": e} for q, a, e in triples]}, ensure_ascii=False
    )


def one_good_pair(request: dict[str, Any]) -> Said:
    """One pair about the section, proven by its first sentence."""
    where, body = shown(request)
    sentence = re.split(r"(?<=[.。])", body)[0]
    heading = where.rsplit(" > ", 1)[-1]
    question = f"{heading}是怎么回事?" if re.search("[\u4e00-\u9fff]", sentence) else f"What is told about {heading}?"
    return Said(pairs((question, f"{sentence}", sentence)), tokens=30)
