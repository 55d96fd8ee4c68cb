"""Asking llama.cpp for an answer, token ids in and text out, as it is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from tunesmith.models.openai_api.errors import ApiError

if TYPE_CHECKING:
    import httpx2

CONNECT_TIMEOUT_S = 10.0
_REPLACED = "\ufffd"  # what a character becomes of which only the beginning was written


@dataclass(frozen=True)
class Ended:
    """How an answer ended.

    Attributes:
        finish_reason: stop or length.
        prompt_tokens, cached_tokens, tokens: of the prompt, of it not read again, and of the answer.
    """

    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    tokens: int


class Runtime:
    """A llama.cpp server that is asked in token ids.

    Args:
        url: of the server, without /v1.
        slots: requests that it answers at once; others wait here, first come, first served.
    """

    def __init__(self, url: str, slots: int) -> None:
        import httpx2

        self._url = url
        self._slots = asyncio.Semaphore(slots)
        self._client: httpx2.AsyncClient = httpx2.AsyncClient(
            trust_env=False,
            verify=False,  # plain HTTP on loopback; reading the certificates takes 0.1 s
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
        )

    async def context(self) -> int | None:
        """Tokens of one request, prompt and answer together, as the server has set them."""
        settings = (await self._client.get(f"{self._url}/props")).json()
        context = settings.get("default_generation_settings", {}).get("n_ctx")
        return context if isinstance(context, int) and context > 0 else None

    async def answer(self, ids: Sequence[int], options: Mapping[str, Any]) -> AsyncGenerator[str | Ended, None]:
        """Texts as they come, then an `Ended`. Closing the iterator stops the computation.

        Raises:
            ApiError: 400 where llama.cpp refuses the request, 502 where it fails.
        """
        import httpx2

        request = orjson.dumps({**options, "prompt": list(ids), "stream": True})
        async with self._slots:
            try:
                async with self._client.stream(
                    "POST",
                    f"{self._url}/completion",
                    content=request,
                    headers={"content-type": "application/json"},
                ) as response:
                    if response.status_code != 200:
                        raise _refused(response.status_code, await response.aread())
                    async for event in _events(response.aiter_bytes()):
                        if "error" in event:
                            raise _refused(500, orjson.dumps(event))
                        text = event.get("content", "")
                        if not event.get("stop"):
                            if text:
                                yield text
                            continue
                        ended = _ended(event)
                        # A last character that the limit cut in half is no text.
                        text = text.rstrip(_REPLACED) if ended.finish_reason == "length" else text
                        if text:
                            yield text
                        yield ended
                        return
            except httpx2.HTTPError as error:
                raise ApiError(502, f"llama.cpp does not answer: {error!r}.", code="runtime_failed") from error
        raise ApiError(502, "llama.cpp ended its answer in the middle.", code="runtime_failed")

    async def close(self) -> None:
        await self._client.aclose()


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"data" and value.strip() != b"[DONE]":
                yield orjson.loads(value)
            elif name == b"error":  # how older versions say that they failed
                yield {"error": orjson.loads(value)}


def _ended(event: Mapping[str, Any]) -> Ended:
    # Versions before 2025 have three flags in place of stop_type.
    limited = event.get("stop_type") == "limit" or bool(event.get("stopped_limit"))
    timings = event.get("timings", {})
    return Ended(
        "length" if limited else "stop",
        int(event.get("tokens_evaluated", 0)),
        int(timings.get("cache_n", 0)),
        int(event.get("tokens_predicted", 0)),
    )


def _refused(status: int, body: bytes) -> ApiError:
    try:
        error = orjson.loads(body)["error"]
        said = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        said = body.decode("utf-8", "replace")
    if status in (400, 413, 422):
        return ApiError(400, f"llama.cpp refuses this request: {str(said)[:500]}", code="invalid_value")
    return ApiError(502, f"llama.cpp failed: {str(said)[:500]}", code="runtime_failed")
