"""The language model by the `openai` client: streamed chat completions (`ports.model.Model`).

Works with every server that has this API: vLLM, Ollama, llama.cpp, Azure. The client builds one request as a template
(address, key, headers, timeouts). Each turn sends the template with another body, because a request that the client
itself builds and sends costs more than all the rest of a turn (tests/bench).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import httpx2
import openai
from openai import AsyncOpenAI
from pydantic_core import from_json

from app.errors import ModelError
from app.http.retry_after import retry_after_seconds
from app.http.transport import AiohttpTransport, PreparedRequest, StreamedResponse
from app.model.chunks import encode_request, error_message, merge_chunks
from statemachine.checkpoint import JsonObject
from statemachine.turn import ModelDelta

_CONNECT_SECONDS = 10.0
_MAX_LINE_BYTES = 4 * 1024 * 1024
_MAX_CAUSE_CHARACTERS = 400
_DRAIN_SECONDS = 1.0
_DONE = b"[DONE]"


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
        secrets: Sequence[str] = (),
    ) -> None:
        """`timeout_seconds` is the longest time without data. `secrets` are masked in errors.

        Without an `api_key` every turn raises `ModelError`.
        """
        self.name = name
        self._logprobs = logprobs
        self._secrets = secrets
        self._transport = AiohttpTransport()
        self._client: AsyncOpenAI | None = None
        if api_key is not None:
            self._client = AsyncOpenAI(
                api_key=api_key,
                base_url=base_url,
                max_retries=0,
                timeout=openai.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
                default_headers={"Accept-Encoding": "identity"},
                http_client=httpx2.AsyncClient(transport=self._transport),
            )
        self._prepared: PreparedRequest | None = None
        self._draining: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    @asynccontextmanager
    async def stream(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject]
    ) -> AsyncIterator[AsyncIterator[ModelDelta]]:
        if self._client is None:
            raise ModelError("not_configured", "OPENAI_API_KEY is not set")
        body = encode_request(self.name, messages, tools, logprobs=self._logprobs)
        try:
            stream = _ChunkStream(await self._send(self._client, body))
        except ModelError as error:
            raise self._masked(error) from error
        try:
            yield stream.deltas()
        except ModelError as error:
            raise self._masked(error) from error
        finally:
            await self._release(stream)

    async def _send(self, client: AsyncOpenAI, body: bytes) -> StreamedResponse:
        """Sends a request and returns the response once its head has arrived. Raises `ModelError`."""
        try:
            if self._prepared is None:
                self._prepared = self._transport.prepare(await _request_template(client))
            response = await self._prepared.send(body)
            if response.is_success:
                return response
            error_response = response.as_response()
            await error_response.aread()
        except httpx2.TimeoutException as error:
            raise ModelError("timeout", "the model did not respond in time") from error
        except httpx2.HTTPError as error:
            raise ModelError("unavailable", "the model's server cannot be reached") from error
        except openai.OpenAIError as error:
            raise ModelError("refused", f"{type(error).__name__}: {error}") from error
        raise _error(error_response)

    async def _release(self, stream: _ChunkStream) -> None:
        """Releases the connection. It can be reused once the bytes that follow the last event are read."""
        if stream.is_done and not stream.is_complete:
            task = asyncio.create_task(stream.drain())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        else:
            await stream.close()

    def _masked(self, error: ModelError) -> ModelError:
        """Returns the error with secrets masked: providers quote the key in messages that the user can read."""
        cause = error.cause
        for secret in self._secrets:
            cause = cause.replace(secret, "***")
        return ModelError(error.kind, cause[:_MAX_CAUSE_CHARACTERS], error.model_retry_after_seconds)


class _ChunkStream:
    """Reads the chunks of a streamed response. `is_done`: its last event, `[DONE]`, was read."""

    def __init__(self, response: StreamedResponse) -> None:
        self._response = response
        self.is_done = False
        is_compressed = response.headers.get("content-encoding", "identity") != "identity"  # in spite of our request
        self._pieces = response.as_response().aiter_bytes() if is_compressed else aiter(response)

    @property
    def is_complete(self) -> bool:
        """Whether the last byte of the response was read."""
        return self._response.is_complete

    async def close(self) -> None:
        await self._response.aclose()

    async def deltas(self) -> AsyncIterator[ModelDelta]:
        """Yields the chunks, merged where they arrive together. Raises `ModelError`.

        Only `\\n` ends a line: JSON may contain other line separators.
        """
        rest = b""
        try:
            async for piece in self._pieces:
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _MAX_LINE_BYTES:
                    raise ModelError("interrupted", f"a line of more than {_MAX_LINE_BYTES} bytes in its stream")
                if chunks := self._chunks(lines):
                    yield merge_chunks(chunks)
                if self.is_done:
                    return
        except httpx2.TimeoutException as error:
            raise ModelError("timeout", "the model did not respond in time") from error
        except httpx2.HTTPError as error:
            raise ModelError("interrupted", f"the model's stream broke ({type(error).__name__})") from error
        if chunks := self._chunks([rest]):
            yield merge_chunks(chunks)

    def _chunks(self, lines: Sequence[bytes]) -> list[bytes]:
        chunks = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if _DONE in chunks:
            self.is_done = True
            del chunks[chunks.index(_DONE) :]
        return chunks

    async def drain(self) -> None:
        """Reads the rest of the response, so that its connection can be reused, and closes it."""
        try:
            with suppress(httpx2.HTTPError, TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    async for _ in self._pieces:
                        pass
        finally:
            await self.close()


async def _request_template(client: AsyncOpenAI) -> httpx2.Request:
    """Returns a request as the client builds it, without sending it to the server."""
    mock = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(200)))
    client = client.with_options(http_client=mock)
    return (await client.post("/chat/completions", cast_to=httpx2.Response, body={})).request


def _error(response: httpx2.Response) -> ModelError:
    status = response.status_code
    is_transient = status in (408, 409, 429) or status >= 500
    message = f"the model's server responded with HTTP {status}"
    with suppress(ValueError, RecursionError):
        body = from_json(response.content)
        message += f": {error_message(body.get('error', body) if isinstance(body, dict) else body)}"
    return ModelError("unavailable" if is_transient else "refused", message, retry_after_seconds(response.headers))
