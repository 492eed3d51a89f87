"""Encodes chat completion requests, decodes the chunks of their streams, and merges those that arrive together.

Only the fields that a turn needs are decoded. The typed chunks of the `openai` client cost a hundred times as much
(tests/bench).
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


_decode_strictly = msgspec.json.Decoder(_Chunk).decode


def encode_request(model: str, messages: Sequence[JsonObject], tools: Sequence[JsonObject], *, logprobs: bool) -> bytes:
    """Returns the body of the request for one streamed turn, as JSON."""
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


def merge_chunks(chunks: Sequence[bytes]) -> ModelDelta:
    """Decodes the chunks and merges them into one delta. Raises `ModelError` if one is malformed or is an error."""
    try:
        return _merge([decode_chunk(chunk) for chunk in chunks])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError("interrupted", f"a malformed chunk in its stream ({type(error).__name__})") from error


def error_message(error: object) -> str:
    """Returns the message of a server's error object; lone surrogates, which cannot be stored, are replaced."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message).encode("utf-8", "replace").decode()


def decode_chunk(data: bytes) -> _Chunk:
    try:
        return _decode_strictly(data)
    except ValueError:  # msgspec refuses lone surrogates, which some servers send when they split a character
        return msgspec.convert(json.loads(data), _Chunk)


def _merge(chunks: Sequence[_Chunk]) -> ModelDelta:
    texts: list[str] = []
    reasonings: list[str] = []
    calls: list[RawCall] = []
    logprobs: list[float] = []
    finish_reason = usage = None
    for chunk in chunks:
        if chunk.error:
            raise ModelError("unavailable", error_message(chunk.error))
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
            calls += [_call_delta(position, call) for position, call in enumerate(delta.tool_calls)]
    return ModelDelta(
        text="".join(texts),
        reasoning="".join(reasonings),
        calls=tuple(calls),
        finish_reason=finish_reason,
        usage=_parse_usage(usage) if usage else None,
        logprob_sum=sum(logprobs),
        logprob_count=len(logprobs),
        chunk_count=len(texts),
    )


def _call_delta(position: int, call: _Call) -> RawCall:
    function = call.function or _Function()
    return RawCall(
        index=call.index if isinstance(call.index, int) else position,
        id=call.id or "",
        name=function.name or "",
        arguments=function.arguments or "",
    )


def _parse_usage(usage: dict[str, Any]) -> Usage:
    """Converts the counts to integers, which some servers send in other types. The run's checkpoint stores them."""
    given = {name: usage.get(name) or 0 for name in Usage.__struct_fields__}
    counted = msgspec.convert(given, Usage, strict=False)
    return (
        counted
        if counted.total_tokens
        else replace(counted, total_tokens=counted.prompt_tokens + counted.completion_tokens)
    )
