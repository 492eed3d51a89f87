"""The language model, through the `openai` client: chat completions, streamed (`ports.Model`).

Works with whatever speaks that API: vLLM, Ollama, llama.cpp, Azure. Lines are parsed once, all that arrived together
at once: the client's typed chunks, and its own HTTP, cost many times as much (tests/bench).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream
from pydantic_core import from_json

from app.errors import ModelError
from app.transport import AiohttpTransport
from statemachine.checkpoint import JsonObject, Usage
from statemachine.turn import CallDelta, ModelDelta

_CONNECT_SECONDS = 10.0
_LINE_BYTES = 4 * 1024 * 1024
_CAUSE_CHARACTERS = 400
_REST_SECONDS = 1.0


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
        self._client: AsyncOpenAI | None = None
        if api_key is not None:
            timeout = openai.Timeout(timeout_seconds, connect=_CONNECT_SECONDS)
            http = httpx2.AsyncClient(transport=AiohttpTransport(), headers={"Accept-Encoding": "identity"})
            self._client = AsyncOpenAI(
                api_key=api_key, base_url=base_url, max_retries=0, timeout=timeout, http_client=http
            )
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
    ) -> AsyncIterator[AsyncIterator[list[ModelDelta]]]:
        if self._client is None:
            raise ModelError("not_configured", "OPENAI_API_KEY is not set")
        request: dict[str, Any] = {
            "model": self.name,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if tools:
            request["tools"] = list(tools)
        if self._logprobs:
            request["logprobs"] = True
        try:
            # Not `chat.completions.create`: it would walk every message and tool to transform nothing.
            response: Any = await self._client.post(
                "/chat/completions", cast_to=httpx2.Response, body=request, stream=True, stream_cls=AsyncStream[Any]
            )
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise self._harmless(_translated(error)) from error
        answer = _Answer(response)
        try:
            yield answer.deltas()
        except ModelError as error:
            raise self._harmless(error) from error
        finally:
            await self._leave(answer)

    async def _leave(self, answer: _Answer) -> None:
        """A connection can be used again when its answer was read to the last byte, which comes after the last line."""
        if answer.is_done:
            task = asyncio.create_task(answer.read_rest())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        else:
            await answer.response.aclose()

    def _harmless(self, error: ModelError) -> ModelError:
        """Providers quote the key in their errors, and what they say goes to the user."""
        cause = error.cause
        for secret in self._secrets:
            cause = cause.replace(secret, "***")
        return ModelError(error.kind, cause[:_CAUSE_CHARACTERS], error.model_retry_after_seconds)


class _Answer:
    """A streamed answer. `is_done`: its last line, `[DONE]`, has been read."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.is_done = False
        encoded = response.headers.get("content-encoding", "identity") != "identity"  # though it was not asked for
        self._chunks = response.aiter_bytes() if encoded else response.aiter_raw()

    async def deltas(self) -> AsyncIterator[list[ModelDelta]]:
        """What arrived together comes together. Lines end at `\\n` alone: JSON may hold what others end a line at."""
        rest = b""
        try:
            async for chunk in self._chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _LINE_BYTES:
                    raise ModelError("interrupted", f"a line of over {_LINE_BYTES} bytes in its stream")
                if arrived := list(self._told(lines)):
                    yield arrived
                if self.is_done:
                    return
        except httpx2.HTTPError as error:
            raise _translated(error) from error
        if last := list(self._told([rest])):
            yield last

    def _told(self, lines: Sequence[bytes]) -> Iterator[ModelDelta]:
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                self.is_done = True
                return
            yield _delta(data)

    async def read_rest(self) -> None:
        with suppress(httpx2.HTTPError, TimeoutError):
            async with asyncio.timeout(_REST_SECONDS):
                async for _ in self._chunks:
                    pass
        await self.response.aclose()


def _delta(data: bytes) -> ModelDelta:
    try:
        chunk = _parsed(data)
        if chunk.get("error"):
            raise ModelError("unavailable", _told(chunk["error"]))
        usage = _usage(chunk.get("usage"))
        choices = chunk.get("choices")
        if not choices:
            return ModelDelta(usage=usage)
        choice = choices[0]
        delta = choice.get("delta") or {}
        calls, logprobs = delta.get("tool_calls"), choice.get("logprobs")
        found = [token["logprob"] for token in logprobs.get("content") or ()] if logprobs else ()
        return ModelDelta(
            text=_text(delta.get("content")),
            reasoning=_text(delta.get("reasoning_content") or delta.get("reasoning")),
            calls=tuple(_call(index, call) for index, call in enumerate(calls)) if calls else (),
            finish_reason=choice.get("finish_reason"),
            usage=usage,
            logprob_sum=sum(found),
            logprob_count=len(found),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, IndexError) as error:
        raise ModelError("interrupted", f"a malformed chunk in its stream ({type(error).__name__})") from error


def _parsed(data: bytes) -> Any:
    try:
        return from_json(data)
    except ValueError:  # halves of characters that were sent apart are no JSON to it, but to most of the world
        return json.loads(data)


def _call(position: int, call: dict[str, Any]) -> CallDelta:
    function = call.get("function") or {}
    index = call.get("index")
    return CallDelta(
        index=index if isinstance(index, int) else position,
        id=_text(call.get("id")),
        name=_text(function.get("name")),
        arguments=_text(function.get("arguments")),
    )


def _text(value: object) -> str:
    """Raises `TypeError` for what is there and no text."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of text")
    return value or ""


def _usage(usage: dict[str, Any] | None) -> Usage | None:
    if not usage:
        return None
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    total = usage.get("total_tokens") or prompt + completion
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def _told(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)


def _translated(error: Exception) -> ModelError:
    match error:
        case openai.APITimeoutError() | httpx2.TimeoutException():
            return ModelError("timeout", "the model did not answer in time")
        case openai.APIStatusError(status_code=status):
            passing = status in (408, 409, 429) or status >= 500
            cause = f"the model's server answered {status}: {_told(error.message)}"
            return ModelError("unavailable" if passing else "refused", cause, _retry_after(error.response))
        case openai.APIConnectionError() | httpx2.ConnectError():
            return ModelError("unavailable", "the model's server cannot be reached")
        case httpx2.HTTPError():
            return ModelError("interrupted", f"the model's stream broke ({type(error).__name__})")
        case _:
            return ModelError("refused", f"{type(error).__name__}: {error}")


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, where the server names some."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return None
