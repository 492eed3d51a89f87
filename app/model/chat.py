"""The language model by the `openai` client: streamed chat completions (`ports.model.Model`).

Works with every server that has this API: OpenAI, Azure, vLLM, Ollama, llama.cpp. The client builds one request as a
template (address, key, headers, timeouts). Each turn sends the template with another body, because a request that the
client itself builds and sends costs more than all the rest of a turn (tests/bench).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpx2
import openai
import structlog
from openai import AsyncOpenAI

from app.errors import ModelError, without_addresses
from app.http.transport import AiohttpTransport, PreparedRequest, StreamedResponse
from app.model.failures import error_of_connection, error_of_status
from app.model.reader import TurnReader
from app.model.requests import encode_request, refused_feature
from app.ports.model import ModelChoice
from statemachine.messages import ModelSource
from statemachine.stored import JsonObject, digest
from statemachine.turn import ModelDelta

log = structlog.get_logger(__name__)

TAIL_SECONDS = 2.0
"""After a `finish_reason` only usage and `[DONE]` can come. They are waited for this long, and can be missing."""

_CONNECT_SECONDS = 10.0
_DRAIN_SECONDS = 1.0
_MAX_REDIRECTS = 5
_MAX_ERROR_BYTES = 64 * 1024
_MAX_CAUSE_CHARACTERS = 400
_CLIENT_HEADERS = frozenset(
    {"accept", "accept-encoding", "authorization", "connection", "content-type", "host", "user-agent"}
)
_REDIRECTS = frozenset({301, 302, 307, 308})


class _Variant(NamedTuple):
    """A model at the server, and the options of its requests."""

    source: ModelSource
    options: JsonObject


class OpenAIModel:
    """One model on one OpenAI-compatible server. The run retries, so the client does not."""

    def __init__(
        self,
        name: str,
        *,
        api_key: str | None,
        base_url: str | None = None,
        timeout_seconds: float = 120,
        logprobs: bool = False,
        options: JsonObject | None = None,
        done_is_whole: bool = False,
        secrets: Sequence[str] = (),
        is_main: bool = True,
    ) -> None:
        """`timeout_seconds` is the longest time without data. `options` are merged into each request. `secrets` are
        masked in errors. With `done_is_whole`, `[DONE]` without a `finish_reason` ends an answer as `stop` does.
        `is_main`: headers that the client takes from the environment (`OPENAI_CUSTOM_HEADERS`, `OPENAI_ORG_ID`,
        `OPENAI_PROJECT_ID`) are meant for this server.

        Without an `api_key` every turn raises `ModelError`.
        """
        self.name = name
        self._base_url = base_url or ""
        self._logprobs = logprobs
        self._own = self._variant(name, options or {})
        self._done_is_whole = done_is_whole
        self._is_main = is_main
        self._secrets = secrets
        self._unsupported: dict[str, frozenset[str]] = {}  # by the name of the model: another one may refuse others
        self._transport = AiohttpTransport()
        self._client = None if api_key is None else _client(api_key, base_url, timeout_seconds, self._transport)
        self._template: httpx2.Request | None = None
        self._prepared: PreparedRequest | None = None
        self._draining: set[asyncio.Task[None]] = set()

    @property
    def unsupported(self) -> frozenset[str]:
        """The features of a request that the server has refused for this model. They are left out since then."""
        return self._unsupported.get(self.name, frozenset())

    @property
    def origin(self) -> str:
        """What identifies the server and this model without naming an address (`ModelSource`)."""
        return self._own.source.origin

    def _variant(self, name: str, options: JsonObject) -> _Variant:
        source = ModelSource(name, digest([self._base_url, name])[:16])
        return _Variant(source, {**({"logprobs": True} if self._logprobs else {}), **options})

    async def close(self) -> None:
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    @asynccontextmanager
    async def stream(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], *, choice: ModelChoice | None = None
    ) -> AsyncIterator[AsyncIterator[ModelDelta]]:
        if self._client is None:
            raise ModelError("not_configured", "OPENAI_API_KEY is not set")
        variant = self._own if choice is None else self._variant(choice.name or self.name, choice.options)
        async with aclosing(self._turn(self._client, variant, messages, tools)) as deltas:
            yield deltas

    async def _turn(
        self, client: AsyncOpenAI, variant: _Variant, messages: Sequence[JsonObject], tools: Sequence[JsonObject]
    ) -> AsyncGenerator[ModelDelta, None]:
        """Yield the turn. A request whose features the server refuses is sent again without them."""
        source, options = variant
        while True:
            without = self._unsupported.get(source.model, frozenset())
            body, features = encode_request(
                source.model, messages, tools, origin=source.origin, options=options, without=without
            )
            has_content = False
            try:
                async for delta in self._attempt(client, source, body):
                    has_content = has_content or bool(delta.text or delta.reasoning or delta.calls)
                    yield delta
                return
            except ModelError as error:
                refused = None
                if error.kind in ("refused", "unavailable") and not has_content:
                    refused = refused_feature(error.detail, features)
                if refused is None:
                    raise self._masked(error) from error
                self._unsupported[source.model] = self._unsupported.get(source.model, frozenset()) | {refused}
                log.warning("model.feature_refused", model=source.model, feature=refused, cause=error.cause)

    async def _attempt(self, client: AsyncOpenAI, source: ModelSource, body: bytes) -> AsyncGenerator[ModelDelta, None]:
        """Send one request and yield the deltas of its response. Raises `ModelError`."""
        response = await self._send(client, body)
        reader = TurnReader(source=source, done_is_whole=self._done_is_whole)
        pieces = _decompressed(response)
        try:
            async for piece in pieces:
                if (delta := reader.feed(piece)) is not None:
                    yield delta
                if reader.failure is not None:
                    raise reader.failure
                if reader.has_ended or reader.is_done:
                    break
            async for delta in _tail(pieces, reader):
                yield delta
            if (delta := reader.finish()) is not None:
                yield delta
            if reader.failure is not None:
                raise reader.failure
        except httpx2.HTTPError as error:
            raise error_of_connection(error, str(client.base_url), has_response=True) from error
        finally:
            await self._release(response, pieces, is_done=reader.is_done)

    async def _send(self, client: AsyncOpenAI, body: bytes) -> StreamedResponse:
        """Send a request and return the response once its head has arrived. Raises `ModelError`."""
        try:
            if self._prepared is None:
                template = await _request_template(client)
                self._template = template if self._is_main else _without_foreign_headers(template)
                self._prepared = self._transport.prepare(self._template, may_repeat=True)
            response = await self._prepared.send(body)
            for _ in range(_MAX_REDIRECTS):
                target = self._redirect_target(response)
                if target is None:
                    break
                await response.aclose()
                redirected = self._transport.prepare(target, may_repeat=True)
                if response.status in (301, 308):
                    self._prepared, self._template = redirected, target
                response = await redirected.send(body)
            if response.is_success:
                return response
            raise error_of_status(response.status, await _read_error(response), response.headers)
        except httpx2.HTTPError as error:
            raise error_of_connection(error, str(client.base_url), has_response=False) from error
        except openai.OpenAIError as error:
            cause = without_addresses(f"{type(error).__name__}: {error}")
            raise ModelError("refused", cause, detail=str(error)) from error

    def _redirect_target(self, response: StreamedResponse) -> httpx2.Request | None:
        """Return the request for the address that the response names, None if it does not redirect.

        Another origin must not get the key and the conversation: raises `ModelError`.
        """
        template = self._template
        if response.status not in _REDIRECTS or template is None or not (place := response.headers.get("location")):
            return None
        url = template.url.join(place)
        if (url.scheme, url.host, url.port) != (template.url.scheme, template.url.host, template.url.port):
            cause = "the model's server redirects to another server, which is not followed"
            raise ModelError("refused", cause, detail=f"HTTP {response.status} from {template.url} to {url}")
        return httpx2.Request("POST", url, headers=template.headers, extensions=template.extensions)

    async def _release(self, response: StreamedResponse, pieces: AsyncIterator[bytes], *, is_done: bool) -> None:
        """Release the connection. It can be reused once the bytes that follow the last event are read."""
        if is_done and not response.is_complete:
            task = asyncio.create_task(_drain(response, pieces))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        else:
            await response.aclose()

    def _masked(self, error: ModelError) -> ModelError:
        """Return the error with secrets masked: providers quote the key in messages that the user can read."""
        cause, detail = error.cause, error.detail
        for secret in self._secrets:
            cause, detail = cause.replace(secret, "***"), detail.replace(secret, "***")
        return ModelError(
            error.kind,
            cause[:_MAX_CAUSE_CHARACTERS],
            error.model_retry_after_seconds,
            detail=detail,
            server_status=error.server_status,
        )


async def _tail(pieces: AsyncIterator[bytes], reader: TurnReader) -> AsyncGenerator[ModelDelta, None]:
    """Yield what follows a `finish_reason`, for a short time. The turn has its end, whatever the connection does."""
    deadline = asyncio.get_running_loop().time() + TAIL_SECONDS
    with suppress(StopAsyncIteration, TimeoutError, httpx2.HTTPError):
        while reader.has_ended and not reader.is_done:
            async with asyncio.timeout_at(deadline):
                piece = await anext(pieces)
            delta = reader.feed(piece)
            if delta is None:
                continue
            if delta.text or delta.reasoning or delta.calls:  # some servers name a reason in every chunk
                deadline = asyncio.get_running_loop().time() + TAIL_SECONDS
            yield delta


async def _drain(response: StreamedResponse, pieces: AsyncIterator[bytes]) -> None:
    """Read the rest of the response, so that its connection can be reused, and release it."""
    try:
        with suppress(httpx2.HTTPError, TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                async for _ in pieces:
                    pass
    finally:
        await response.aclose()


def _decompressed(response: StreamedResponse) -> AsyncIterator[bytes]:
    """Return the pieces of the body, decompressed where a server compresses it in spite of the request."""
    if response.headers.get("content-encoding", "identity") == "identity":
        return aiter(response)
    return response.as_response().aiter_bytes()


async def _read_error(response: StreamedResponse) -> bytes:
    """Return the body of an error, at most `_MAX_ERROR_BYTES` of it, and release the connection."""
    body = b""
    try:
        async for piece in _decompressed(response):
            body += piece
            if len(body) >= _MAX_ERROR_BYTES:
                break
    finally:
        await response.aclose()
    return body[:_MAX_ERROR_BYTES]


def _client(api_key: str, base_url: str | None, timeout_seconds: float, transport: AiohttpTransport) -> AsyncOpenAI:
    address, query = _split_query(base_url)
    return AsyncOpenAI(
        api_key=api_key,
        base_url=address,
        default_query=query,
        max_retries=0,
        timeout=openai.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
        default_headers={"Accept-Encoding": "identity"},
        http_client=httpx2.AsyncClient(transport=transport),
    )


def _split_query(base_url: str | None) -> tuple[str | None, dict[str, object]]:
    """Split the query from a base URL (`?api-version=…`): it follows the path of each request."""
    if base_url is None:
        return None, {}
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(query="")), dict(parse_qsl(parts.query, keep_blank_values=True))


def _without_foreign_headers(request: httpx2.Request) -> httpx2.Request:
    """Return the request without headers that the environment adds, such as the secret of the main server's gateway."""
    headers = [
        (name, value)
        for name, value in request.headers.multi_items()
        if name in _CLIENT_HEADERS or name.startswith("x-stainless-")
    ]
    return httpx2.Request(request.method, request.url, headers=headers, extensions=request.extensions)


async def _request_template(client: AsyncOpenAI) -> httpx2.Request:
    """Return a request as the client builds it, without sending it to the server."""
    mock = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(200)))
    client = client.with_options(http_client=mock)
    return (await client.post("/chat/completions", cast_to=httpx2.Response, body={})).request
