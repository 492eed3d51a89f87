"""A chat completion as it is asked for, the chunks of its stream, and what those that arrive together add to a turn.

Of a chunk only the fields that are read are decoded, into what they must be; the client's typed chunks cost a hundred
times as much (tests/bench).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from app.errors import ModelError
from statemachine.checkpoint import JsonObject, Usage
from statemachine.turn import ModelDelta, RawCall


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct, gc=False):
    index: Any = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Token(msgspec.Struct, gc=False):
    logprob: float


class _Logprobs(msgspec.Struct, gc=False):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


def asked(model: str, messages: Sequence[JsonObject], tools: Sequence[JsonObject], *, logprobs: bool) -> bytes:
    """The body of a request for a streamed turn."""
    body: JsonObject = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if tools:
        body["tools"] = tools
    if logprobs:
        body["logprobs"] = True
    return msgspec.json.encode(body)


def added(chunks: Sequence[bytes]) -> ModelDelta:
    """What the chunks add, all in one. Raises `ModelError`: one of them makes no sense, or tells of an error."""
    try:
        return _sum([_read(chunk) for chunk in chunks])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError("interrupted", f"a malformed chunk in its stream ({type(error).__name__})") from error


def told(error: object) -> str:
    """The words of a server's error object, without halves of characters, which a checkpoint cannot hold."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message).encode("utf-8", "replace").decode()


def _read(data: bytes) -> _Chunk:
    try:
        return _decode(data)
    except ValueError:  # halves of characters that were sent apart are no JSON to it, but to most of the world
        return msgspec.convert(json.loads(data), _Chunk)


def _sum(chunks: Sequence[_Chunk]) -> ModelDelta:
    texts: list[str] = []
    reasonings: list[str] = []
    calls: list[RawCall] = []
    logprobs: list[float] = []
    finish_reason = usage = None
    for chunk in chunks:
        if chunk.error:
            raise ModelError("unavailable", told(chunk.error))
        usage = chunk.usage or usage
        if not chunk.choices:
            continue
        choice = chunk.choices[0]
        finish_reason = choice.finish_reason or finish_reason
        if choice.logprobs is not None:
            logprobs += [token.logprob for token in choice.logprobs.content or ()]
        delta = choice.delta
        if delta is None:
            continue
        if delta.content:
            texts.append(delta.content)
        if reasoning := delta.reasoning_content or delta.reasoning:
            reasonings.append(reasoning)
        if delta.tool_calls:
            calls += [_call(position, call) for position, call in enumerate(delta.tool_calls)]
    return ModelDelta(
        text="".join(texts),
        reasoning="".join(reasonings),
        calls=tuple(calls),
        finish_reason=finish_reason,
        usage=_usage(usage) if usage else None,
        logprob_sum=sum(logprobs),
        logprob_count=len(logprobs),
        chunk_count=len(texts),
    )


def _call(position: int, call: _Call) -> RawCall:
    function = call.function or _Function()
    return RawCall(
        index=call.index if isinstance(call.index, int) else position,
        id=call.id or "",
        name=function.name or "",
        arguments=function.arguments or "",
    )


def _usage(usage: dict[str, Any]) -> Usage:
    """As whole numbers, however the server spells them: they are saved with the run."""
    given = {name: usage.get(name) or 0 for name in Usage.__struct_fields__}
    counted = msgspec.convert(given, Usage, strict=False)
    return (
        counted
        if counted.total_tokens
        else replace(counted, total_tokens=counted.prompt_tokens + counted.completion_tokens)
    )
