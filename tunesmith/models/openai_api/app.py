"""The routes: `/v1/chat/completions`, `/v1/completions`, `/v1/models` and `/health`."""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tunesmith.errors import UserError
from tunesmith.models.openai_api.errors import ApiError
from tunesmith.models.openai_api.replies import Shape
from tunesmith.models.openai_api.requests import Asked, read_chat, read_completion
from tunesmith.models.openai_api.runtime import Ended, Runtime
from tunesmith.models.servable import Servable

MAX_BODY_BYTES = 16 * 2**20
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLIENT_GONE = 499


@dataclass(frozen=True)
class Serving:
    """What is served, and how.

    Attributes:
        one: the model.
        name: by which clients ask for it.
        others: names that mean it too: its ids.
        url: of the llama.cpp server, without /v1.
        context: tokens a request may take, prompt and answer together.
        slots: requests answered at once.
        defaults: sampling where a request says nothing, under llama.cpp's names.
        key: that clients must send; None: none.
        hosts: names by which this server may be called, None: any. A web page whose name was made to lead here
            (DNS rebinding) calls it by another.
    """

    one: Servable
    name: str
    others: Sequence[str]
    url: str
    context: int
    slots: int
    defaults: Mapping[str, Any]
    key: str | None = None
    hosts: Sequence[str] | None = LOOPBACK


def build_app(serving: Serving) -> Starlette:
    """The ASGI application; it ends with its lifespan."""
    front = _Front(serving)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await front.begin()
        try:
            yield
        finally:
            await front.end()

    return Starlette(
        routes=[
            Route("/v1/chat/completions", front.chat, methods=["POST"]),
            Route("/v1/completions", front.completion, methods=["POST"]),
            Route("/v1/models", front.models, methods=["GET"]),
            Route("/v1/models/{name:path}", front.model, methods=["GET"]),
            Route("/health", front.health, methods=["GET"]),
        ],
        exception_handlers={ApiError: _answer_error, UserError: _answer_user_error, HTTPException: _answer_route_error},
        lifespan=lifespan,
    )


class _Front:
    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.context = serving.context
        self.began = int(time.time())
        self.fingerprint = f"fp_{serving.one.identity.rpartition(':')[2][:12]}"
        self.runtime: Runtime

    async def begin(self) -> None:
        self.runtime = Runtime(self.serving.url, self.serving.slots)
        self.context = min(self.context, await self.runtime.context() or self.context)

    async def end(self) -> None:
        await self.runtime.close()

    async def health(self, request: Request) -> Response:
        self._check_host(request)
        return _json({"status": "ok"})

    async def models(self, request: Request) -> Response:
        self._check(request)
        return _json({"object": "list", "data": [self._entry()]})

    async def model(self, request: Request) -> Response:
        self._check(request)
        self._check_model(request.path_params["name"])
        return _json(self._entry())

    async def chat(self, request: Request) -> Response:
        self._check(request)
        return await self._reply(request, read_chat(await _body(request)))

    async def completion(self, request: Request) -> Response:
        self._check(request)
        return await self._reply(request, read_completion(await _body(request)))

    async def _reply(self, request: Request, asked: Asked) -> Response:
        self._check_model(asked.model)
        ids = await anyio.to_thread.run_sync(self._prompt, asked)
        shape = Shape(self.serving.name, asked.messages is not None, self.fingerprint)
        answer = self.runtime.answer(ids, self._options(asked, len(ids)))
        if not asked.stream:
            async with aclosing(answer):
                return await _while_client_waits(request, lambda: _whole(answer, shape))
        # An error before the first piece is still a status of its own.
        first = await _while_client_waits(request, lambda: anext(answer))
        if isinstance(first, Response):
            await answer.aclose()
            return first
        return _Events(answer, first, shape, with_usage=asked.with_usage)

    def _prompt(self, asked: Asked) -> list[int]:
        one = self.serving.one
        if asked.messages is None:
            ids = one.encode_text(asked.prompt) if isinstance(asked.prompt, str) else list(asked.prompt or [])
        else:
            _check_system(one, asked.messages)
            _check_whole(one.prompt_format.render(asked.messages, add_generation_prompt=True), asked.messages)
            ids = one.encode(asked.messages)
        if len(ids) >= self.context:
            raise ApiError(
                400,
                f"The prompt has {len(ids):,} tokens, and prompt and answer together can have {self.context:,}. "
                "Shorten it, or start the server with a larger --context.",
                param="messages" if asked.messages is not None else "prompt",
                code="context_length_exceeded",
            )
        return ids

    def _options(self, asked: Asked, prompt_tokens: int) -> dict[str, Any]:
        room = self.context - prompt_tokens
        return {
            **self.serving.defaults,
            **asked.options,
            "n_predict": min(asked.max_tokens or room, room),
            "stop": list(dict.fromkeys([*self.serving.one.prompt_format.stops, *asked.stops])),
        }

    def _entry(self) -> dict[str, Any]:
        return {
            "id": self.serving.name,
            "object": "model",
            "created": self.began,
            "owned_by": "tunesmith",
            "context_length": self.context,
        }

    def _check_model(self, name: str | None) -> None:
        if name is None or name == self.serving.name or name in self.serving.others:
            return
        raise ApiError(
            404,
            f"The model {name[:80]!r} is not served here; {self.serving.name!r} is.",
            param="model",
            code="model_not_found",
        )

    def _check(self, request: Request) -> None:
        self._check_host(request)
        key = self.serving.key
        if key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise ApiError(401, "The API key is missing or not the one of this server.", code="invalid_api_key")

    def _check_host(self, request: Request) -> None:
        hosts = self.serving.hosts
        if hosts is not None and (request.url.hostname or "") not in hosts:
            raise ApiError(
                403, f"This server is not called {str(request.url.hostname)[:80]!r}.", code="host_not_allowed"
            )


class _Events(StreamingResponse):
    """Server-sent events; whatever happens, the answer's computation ends with them."""

    def __init__(self, answer: Any, first: str | Ended, shape: Shape, *, with_usage: bool) -> None:
        self.answer = answer
        super().__init__(
            _events(answer, first, shape, with_usage=with_usage),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.answer):
            await super().__call__(scope, receive, send)


async def _events(
    answer: AsyncIterator[str | Ended], first: str | Ended, shape: Shape, *, with_usage: bool
) -> AsyncIterator[bytes]:
    if (opening := shape.opening()) is not None:
        yield _event(opening)
    try:
        piece: str | Ended = first
        while isinstance(piece, str):
            yield _event(shape.piece(piece))
            piece = await anext(answer)
    except ApiError as error:
        # The status is sent already: the client learns of it in the stream.
        yield _event(error.body())
        return
    yield _event(shape.closing(piece))
    if with_usage:
        yield _event(shape.counted(piece))
    yield b"data: [DONE]\n\n"


async def _whole(answer: AsyncIterator[str | Ended], shape: Shape) -> Response:
    texts: list[str] = []
    async for piece in answer:
        if isinstance(piece, Ended):
            return _json(shape.whole("".join(texts), piece))
        texts.append(piece)
    raise AssertionError("an answer ends with Ended or with ApiError")


async def _while_client_waits(request: Request, work: Callable[[], Awaitable[Any]]) -> Any:
    """What `work` gives; when the client hangs up, the work is cancelled."""
    result: Any = Response(status_code=CLIENT_GONE)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            result = await work()
        except Exception as error:  # noqa: BLE001  # carried out of the group, which would wrap it, and raised there
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _body(request: Request) -> Any:
    # What a web page may send to any address without asking has another type.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "The body must be JSON, with Content-Type: application/json.", code="invalid_content_type")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"The body is larger than {MAX_BODY_BYTES // 2**20} MiB.", code="body_too_large")
        parts.append(part)
    try:
        return orjson.loads(b"".join(parts))
    except ValueError as error:
        raise ApiError(400, f"The body is not JSON: {error}.", code="invalid_json") from error


def _check_system(one: Servable, messages: Sequence[Mapping[str, str]]) -> None:
    if any(message["role"] == "system" for message in messages) and not one.prompt_format.supports_system:
        raise ApiError(
            400,
            f"This model's prompt format ({one.prompt_format.family}) has no place for a system message. "
            "Put what it says into the first user message.",
            param="messages",
            code="system_not_supported",
        )


def _check_whole(text: str, messages: Sequence[Mapping[str, str]]) -> None:
    """Some templates leave out a message in a place they do not expect: that must not pass for an answer to it."""
    for number, message in enumerate(messages):
        if message["content"].strip() not in text:
            raise ApiError(
                400,
                f"This model's prompt format leaves messages[{number}] (role {message['role']}) out of the prompt.",
                param=f"messages[{number}]",
                code="message_left_out",
            )


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
    return _json(error.body(), error.status, headers)


def _answer_user_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return _json(ApiError(400, f"{error.message} {error.next}", param="messages", code=error.error_code).body(), 400)


def _answer_route_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = f"{request.method} {request.url.path} is not served here: {error.detail}."
    return _json(ApiError(error.status_code, said, code="not_found").body(), error.status_code, error.headers)
