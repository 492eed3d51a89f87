"""The language model, through the `openai` client: chat completions, streamed (`ports.Model`).

Works with whatever speaks that API: vLLM, Ollama, llama.cpp, Azure. The client says once how it asks (address, key,
headers, patience); each turn is that request with a body of its own, because the client's way through a single
request costs more than all the rest of a turn (tests/bench).
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
from app.http.transport import AiohttpTransport, PreparedRequest, StreamedResponse
from app.model.chunks import added, asked, told
from statemachine.checkpoint import JsonObject
from statemachine.turn import ModelDelta

_CONNECT_SECONDS = 10.0
_LINE_BYTES = 4 * 1024 * 1024
_CAUSE_CHARACTERS = 400
_REST_SECONDS = 1.0
_DONE = b"[DONE]"


class OpenAIModel:
    """One model on one OpenAI-compatible server. Retries are the run's business, so the client makes none."""

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
        """Without an `api_key` every turn is refused. `timeout_seconds` is the longest silence."""
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
        self._asking: PreparedRequest | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    @asynccontextmanager
    async def stream(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject]
    ) -> AsyncIterator[AsyncIterator[ModelDelta]]:
        if self._client is None:
            raise ModelError("not_configured", "OPENAI_API_KEY is not set")
        body = asked(self.name, messages, tools, logprobs=self._logprobs)
        try:
            answer = _Reading(await self._ask(self._client, body))
        except ModelError as error:
            raise self._harmless(error) from error
        try:
            yield answer.deltas()
        except ModelError as error:
            raise self._harmless(error) from error
        finally:
            await self._leave(answer)

    async def _ask(self, client: AsyncOpenAI, body: bytes) -> StreamedResponse:
        """The answer, when its head has come. Raises `ModelError`."""
        try:
            if self._asking is None:
                self._asking = self._transport.prepare(await _spelled(client))
            answer = await self._asking.send(body)
            if answer.is_success:
                return answer
            refused = answer.as_response()
            await refused.aread()
        except httpx2.TimeoutException as error:
            raise ModelError("timeout", "the model did not answer in time") from error
        except httpx2.HTTPError as error:
            raise ModelError("unavailable", "the model's server cannot be reached") from error
        except openai.OpenAIError as error:
            raise ModelError("refused", f"{type(error).__name__}: {error}") from error
        raise _refusal(refused)

    async def _leave(self, answer: _Reading) -> None:
        """A connection can be used again when its answer was read to the last byte, which comes after the last line."""
        if answer.is_done and not answer.is_whole:
            task = asyncio.create_task(answer.read_rest())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        else:
            await answer.close()

    def _harmless(self, error: ModelError) -> ModelError:
        """Providers quote the key in their errors, and what they say goes to the user."""
        cause = error.cause
        for secret in self._secrets:
            cause = cause.replace(secret, "***")
        return ModelError(error.kind, cause[:_CAUSE_CHARACTERS], error.model_retry_after_seconds)


class _Reading:
    """A streamed answer as it is read. `is_done`: its last line, `[DONE]`, has been."""

    def __init__(self, answer: StreamedResponse) -> None:
        self._answer = answer
        self.is_done = False
        encoded = answer.headers.get("content-encoding", "identity") != "identity"  # though it was not asked for
        self._pieces = answer.as_response().aiter_bytes() if encoded else aiter(answer)

    @property
    def is_whole(self) -> bool:
        return self._answer.is_complete

    async def close(self) -> None:
        await self._answer.aclose()

    async def deltas(self) -> AsyncIterator[ModelDelta]:
        """What arrived together comes together. Lines end at `\\n` alone: JSON may hold what others end a line at."""
        rest = b""
        try:
            async for piece in self._pieces:
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LINE_BYTES:
                    raise ModelError("interrupted", f"a line of over {_LINE_BYTES} bytes in its stream")
                if chunks := self._chunks(lines):
                    yield added(chunks)
                if self.is_done:
                    return
        except httpx2.TimeoutException as error:
            raise ModelError("timeout", "the model did not answer in time") from error
        except httpx2.HTTPError as error:
            raise ModelError("interrupted", f"the model's stream broke ({type(error).__name__})") from error
        if chunks := self._chunks([rest]):
            yield added(chunks)

    def _chunks(self, lines: Sequence[bytes]) -> list[bytes]:
        chunks = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if _DONE in chunks:
            self.is_done = True
            del chunks[chunks.index(_DONE) :]
        return chunks

    async def read_rest(self) -> None:
        try:
            with suppress(httpx2.HTTPError, TimeoutError):
                async with asyncio.timeout(_REST_SECONDS):
                    async for _ in self._pieces:
                        pass
        finally:
            await self.close()


async def _spelled(client: AsyncOpenAI) -> httpx2.Request:
    """A request as the client spells it, which goes nowhere."""
    nowhere = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(200)))
    client = client.with_options(http_client=nowhere)
    return (await client.post("/chat/completions", cast_to=httpx2.Response, body={})).request


def _refusal(response: httpx2.Response) -> ModelError:
    status = response.status_code
    passing = status in (408, 409, 429) or status >= 500
    words = f"the model's server answered {status}"
    with suppress(ValueError, RecursionError):
        body = from_json(response.content)
        words += f": {told(body.get('error', body) if isinstance(body, dict) else body)}"
    return ModelError("unavailable" if passing else "refused", words, _retry_after(response))


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, where the server names some."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return None
