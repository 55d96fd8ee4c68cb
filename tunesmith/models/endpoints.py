"""Models behind OpenAI-compatible endpoints: a service, Ollama, or a GGUF served here.

A key from the settings goes to the address from the settings and nowhere else: a
model reference may come out of a text that somebody planted, and must not be able
to carry the key to an address of its choice.
"""

from __future__ import annotations

import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from tunesmith.errors import InvalidArgument
from tunesmith.models.references import Reference, check_base_url
from tunesmith.models.terms import Terms

if TYPE_CHECKING:
    import openai

KEY_VARIABLES = ("TUNESMITH_OPENAI_API_KEY", "OPENAI_API_KEY")
URL_VARIABLES = ("TUNESMITH_OPENAI_BASE_URL", "OPENAI_BASE_URL")
DEFAULT_URL = "https://api.openai.com/v1"
OLLAMA_PORT = 11434
MAX_ERROR_CHARS = 300
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_KEY_LIKE = re.compile(r"\b(sk|gsk|key|hf|xai)[-_][A-Za-z0-9_-]{8,}|(?i:bearer\s+)\S{8,}")


class Turn(Protocol):
    """One turn of a conversation."""

    @property
    def role(self) -> str: ...

    @property
    def content(self) -> str: ...


@dataclass(frozen=True)
class Draw:
    """How one answer is drawn."""

    temperature: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: of the answer.
        finish_reason: stop or length.
        tokens: of the answer, None where nobody counts.
        seconds: from the request to the whole reply.
        prompt_tokens: of the question, None where nobody counts.
    """

    text: str
    finish_reason: str
    tokens: int | None
    seconds: float
    prompt_tokens: int | None = None


class AskFailed(Exception):
    """A request that brought no answer.

    Attributes:
        passing: it may work if tried again.
        retry_after_s: how long the endpoint asks to wait, None where it does not say.
        status: of the HTTP response, None where there was none.
        timed_out: it took all the time it had.
    """

    def __init__(
        self,
        message: str,
        *,
        passing: bool,
        retry_after_s: float | None = None,
        status: int | None = None,
        timed_out: bool = False,
    ) -> None:
        super().__init__(message)
        self.passing = passing
        self.retry_after_s = retry_after_s
        self.status = status
        self.timed_out = timed_out


class Asker(Protocol):
    """Whatever can answer a conversation. Safe to call from several threads."""

    def ask(self, messages: Sequence[Turn], draw: Draw) -> Reply:
        """One answer. Raises AskFailed."""
        ...


class ChatEndpoint:
    """A model behind `/v1/chat/completions`.

    Args:
        model: its name there.
        base_url: ending in /v1.
        key: sent as bearer token; None: none is needed.
        timeout_s: seconds for a whole reply.
    """

    def __init__(self, model: str, base_url: str, key: str | None, *, timeout_s: float) -> None:
        self.model = model
        self.base_url = base_url
        self._key = key
        self._timeout_s = timeout_s
        self._client = open_client(base_url, key, timeout_s)
        self._terms = Terms()

    def ask(self, messages: Sequence[Turn], draw: Draw, schema: Mapping[str, Any] | None = None) -> Reply:
        """One answer; see `Asker`.

        Args:
            schema: a JSON schema that the answer is to follow. An endpoint that knows no schemas is asked for JSON, and
                one that knows no JSON for text: whoever reads the answer must be ready for anything.
        """
        # Restrictions on the choice of tokens are off, so that every model draws alike at temperatures above 0.
        free: dict[str, Any] = {"top_p": 1.0} if draw.temperature > 0 else {}
        terms = self._terms

        def request() -> Any:
            return self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": message.role, "content": message.content} for message in messages],  # type: ignore[misc]
                seed=draw.seed,
                **terms.wording(draw, schema),
                **free,
            )

        while True:
            try:
                response, seconds = _timed(request, self._key, self._timeout_s)
                break
            except AskFailed as error:
                milder = terms.after(error, with_schema=schema is not None)
                if milder is None:
                    raise
                terms = milder
        if schema is not None or terms.renamed:
            self._terms = replace(terms, proven=terms.proven or schema is not None)
        choice = _only_choice(response)
        text = getattr(getattr(choice, "message", None), "content", None)
        return _reply(response, choice, text, seconds)

    def close(self) -> None:
        self._client.close()


class CompletionEndpoint:
    """A GGUF served by llama.cpp, asked with token ids through `/v1/completions`.

    Args:
        base_url: ending in /v1.
        encode: from messages to the token ids of the prompt.
        stops: texts that end an answer.
        timeout_s: seconds for a whole reply.
        reuse: of a prompt, compute only what differs from an earlier one. The last bits of the figures then depend on
            what was asked before.
    """

    def __init__(
        self, base_url: str, encode: Any, stops: Sequence[str], *, timeout_s: float, reuse: bool = True
    ) -> None:
        self.encode = encode
        self.stops = list(stops)
        self.reuse = reuse
        self._timeout_s = timeout_s
        self._client = open_client(base_url, None, timeout_s)

    def ask(self, messages: Sequence[Turn], draw: Draw, schema: Mapping[str, Any] | None = None) -> Reply:
        """One answer; see `Asker`. With a JSON schema only tokens that follow it are drawn."""
        constraint = {} if schema is None else {"json_schema": dict(schema)}

        def request() -> Any:
            return self._client.completions.create(
                model="served",
                prompt=self.encode(messages),
                temperature=draw.temperature,
                max_tokens=draw.max_tokens,
                seed=draw.seed,
                stop=self.stops,
                top_p=1.0,
                extra_body={"top_k": 0, "min_p": 0.0, "cache_prompt": self.reuse, **constraint},
            )

        response, seconds = _timed(request, None, self._timeout_s)
        choice = _only_choice(response)
        return _reply(response, choice, getattr(choice, "text", None), seconds)

    def close(self) -> None:
        self._client.close()


def open_client(base_url: str, key: str | None, timeout_s: float) -> openai.OpenAI:
    """An OpenAI client that retries nothing by itself and takes nothing from the environment but proxies."""
    import httpx2
    import openai

    # A proxy of the environment must not come between this machine and itself.
    local = (urlsplit(base_url).hostname or "") in _LOOPBACK
    http = httpx2.Client(trust_env=not local, timeout=httpx2.Timeout(timeout_s, connect=min(10.0, timeout_s)))
    return openai.OpenAI(
        api_key=key or "none",
        base_url=base_url,
        max_retries=0,
        http_client=http,
        organization="",
        project="",
    )


def endpoint_for(reference: Reference, *, timeout_s: float, ollama_host: str | None = None) -> ChatEndpoint:
    """The endpoint of an `openai:` or `ollama:` reference. Contacts nothing. Arguments and errors as `address_of`."""
    base_url, key = address_of(reference, ollama_host=ollama_host)
    return ChatEndpoint(reference.name, base_url, key, timeout_s=timeout_s)


def address_of(reference: Reference, *, ollama_host: str | None = None) -> tuple[str, str | None]:
    """The base URL of an `openai:` or `ollama:` reference, and the key that may be sent there. Contacts nothing.

    Args:
        ollama_host: as in OLLAMA_HOST; default: that variable.

    Raises:
        InvalidArgument: no key and no base URL are set for `openai:NAME`, or an address that is never called.
    """
    if reference.kind == "ollama":
        return f"{ollama_url(ollama_host)}/v1", None
    key, settings_url = _first_set(KEY_VARIABLES), _first_set(URL_VARIABLES)
    settings_url = check_base_url(settings_url) if settings_url else None
    if reference.base_url is None:
        if key is None and settings_url is None:
            raise InvalidArgument(
                f"openai:{reference.name} has no key and no base URL.",
                next=f"Set {KEY_VARIABLES[0]} (and {URL_VARIABLES[0]}) for the server, "
                f"or use openai:{reference.name}@http://host:port/v1.",
            )
        return settings_url or DEFAULT_URL, key
    same_place = _origin(reference.base_url) == _origin(settings_url or DEFAULT_URL)
    return reference.base_url, key if same_place else None


def ollama_url(host: str | None = None) -> str:
    """The base URL of Ollama from `host` or OLLAMA_HOST, read as Ollama reads it: scheme and port may be left out.

    Raises:
        InvalidArgument: not an address.
    """
    text = (host or os.environ.get("OLLAMA_HOST", "")).strip() or "127.0.0.1"
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port or {"https": 443}.get(parts.scheme, 80 if "://" in text else OLLAMA_PORT)
    except ValueError as error:
        raise InvalidArgument(
            f"OLLAMA_HOST holds no address ({error}).", next="Set it to an address such as http://127.0.0.1:11434."
        ) from error
    name = parts.hostname or "127.0.0.1"
    if name in ("0.0.0.0", "::"):  # where a server listens, not where it is called
        name = "127.0.0.1"
    shown = f"[{name}]" if ":" in name else name
    return check_base_url(f"{parts.scheme}://{shown}:{port}{parts.path.rstrip('/')}")


def redact(text: str, *secrets: str | None) -> str:
    """`text` on one line without secrets, known or recognised by their look, at most 300 characters."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[redacted]")
    return " ".join(_KEY_LIKE.sub("[redacted]", text).split())[:MAX_ERROR_CHARS]


def _timed(request: Callable[[], Any], key: str | None, timeout_s: float) -> tuple[Any, float]:
    """Make a request; every way in which it can fail becomes an AskFailed."""
    import openai

    began = time.monotonic()
    try:
        response = _within(timeout_s, request)
    except (openai.APITimeoutError, TimeoutError) as error:
        waited = time.monotonic() - began
        raise AskFailed(f"no answer after {waited:.0f} s", passing=True, timed_out=True) from error
    except openai.APIConnectionError as error:
        cause = error.__cause__ or error
        raise AskFailed(f"no connection: {redact(str(cause), key)}", passing=True) from error
    except openai.APIStatusError as error:
        passing = error.status_code in (408, 409, 425, 429) or error.status_code >= 500
        said = redact(error.response.text or error.message, key)
        raise AskFailed(
            f"HTTP {error.status_code}: {said}",
            passing=passing,
            retry_after_s=_retry_after(error.response.headers),
            status=error.status_code,
        ) from error
    except (openai.OpenAIError, ValueError) as error:
        # A body that is no JSON, or JSON of another shape.
        raise AskFailed(f"malformed reply: {redact(str(error), key)}", passing=True) from error
    return response, time.monotonic() - began


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns, or TimeoutError.

    The client's own timeout is for each read: an endpoint that sends a byte now and then would never meet it.
    """
    arrived: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            arrived.put((call(), None))
        except BaseException as error:  # noqa: BLE001  # carried to the thread that waits, and raised there
            arrived.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, failure = arrived.get(timeout=seconds + 0.5)  # the client's own error is the better one
    except queue.Empty:
        raise TimeoutError from None
    if failure is not None:
        raise failure
    return result


def _only_choice(response: Any) -> Any:
    choices = getattr(response, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise AskFailed("malformed reply: it holds no choices", passing=True)
    return choices[0]


def _reply(response: Any, choice: Any, text: Any, seconds: float) -> Reply:
    if not isinstance(text, str):
        raise AskFailed("malformed reply: the choice holds no text", passing=True)
    finish = getattr(choice, "finish_reason", None)
    if finish not in ("stop", "length"):
        raise AskFailed(f"the answer ended as {redact(str(finish))!r}, not by itself or at max_tokens", passing=False)
    usage = getattr(response, "usage", None)
    asked, answered = (_counted(getattr(usage, name, None)) for name in ("prompt_tokens", "completion_tokens"))
    return Reply(text.strip(), finish, answered, seconds, asked)


def _counted(tokens: Any) -> int | None:
    return tokens if isinstance(tokens, int) and tokens > 0 else None


def _retry_after(headers: Any) -> float | None:
    """Seconds to wait, given as a number or as a date."""
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _first_set(names: Sequence[str]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)
