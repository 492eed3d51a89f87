"""Decodes the chunks of a chat completion's stream, and merges those that arrive together into one delta.

Only what a turn needs is decoded, and it may have any type: what cannot be understood is left out. The typed chunks of
the `openai` client cost a hundred times as much (tests/bench).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from statemachine.call_pieces import NO_PLACE, CallPiece
from statemachine.checkpoint import Usage
from statemachine.messages import ModelSource
from statemachine.provider_fields import merge_fields
from statemachine.stored import JsonObject
from statemachine.turn import ModelDelta

_THOUGHT_FIELDS = ("reasoning", "reasoning_content", "reasoning_text", "thinking", "reasoning_details")
"""Fields with a model's thoughts. Servers send the same thought under several of these names: the first one counts."""

_THOUGHT_PARTS = frozenset({"thinking", "reasoning", "reasoning_text", "reasoning.text", "thought"})
_CALL_FIELDS = frozenset({"index", "id", "type", "function", "custom", "name", "arguments", "input"})
_FUNCTION_FIELDS = frozenset({"name", "arguments", "input"})
_NO_REASONS = frozenset({"", "null", "none"})


class Chunk(msgspec.Struct, gc=False):
    """The top level of a chunk, of an unstreamed completion or of an error, as it was sent."""

    choices: Any = None
    usage: Any = None
    error: Any = None
    object: Any = None
    message: Any = None
    detail: Any = None
    errors: Any = None
    code: Any = None
    type: Any = None


_decode_strictly = msgspec.json.Decoder(Chunk).decode


class _TextDelta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    content: str | None = None
    role: str | None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    reasoning_content: None = None
    reasoning: None = None


class _TextChoice(msgspec.Struct, gc=False):
    delta: _TextDelta
    index: int = 0
    finish_reason: None = None
    logprobs: None = None
    error: None = None


class _TextChunk(msgspec.Struct, gc=False):
    choices: tuple[_TextChoice]
    usage: None = None
    error: None = None


_decode_text_chunk = msgspec.json.Decoder(_TextChunk).decode


def text_of_chunk(data: bytes) -> str | None:
    """Return the text of a chunk of the first choice that has nothing else in it, or None if the chunk has more.

    Most chunks are such, and this takes a third of the time of `decode_chunk` and `DeltaBuilder`.
    """
    try:
        (choice,) = _decode_text_chunk(data).choices
    except ValueError:
        return None
    return None if choice.index else choice.delta.content or ""


def decode_chunk(data: bytes) -> Chunk | None:
    """Return the chunk, or None if the data is JSON of another kind. Raises `ValueError` if it is not JSON."""
    try:
        return _decode_strictly(data)
    except ValueError:  # msgspec refuses lone surrogates and NaN, which some servers send
        value = _loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return msgspec.convert(value, Chunk) if isinstance(value, dict) else None


def _loads(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


class DeltaBuilder:
    """Merges chunks into one `ModelDelta`."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[CallPiece] = []
        self._extras: JsonObject = {}
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._logprobs: list[float] = []

    @property
    def has_content(self) -> bool:
        """Whether a chunk had text, a thought or a part of a call."""
        return bool(self._texts or self._thoughts or self._calls)

    @property
    def has_ended(self) -> bool:
        """Whether a chunk had a reason for the end."""
        return self._finish_reason is not None

    def build(self, source: ModelSource | None = None) -> ModelDelta:
        return ModelDelta(
            "".join(self._texts),
            "".join(self._thoughts),
            tuple(self._calls),
            self._finish_reason,
            self._usage,
            sum(self._logprobs),
            len(self._logprobs),
            len(self._texts),
            self._extras,
            source,
        )

    def add_usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage = _parse_usage(usage) or self._usage

    def add_finish_reason(self, reason: Any) -> None:
        """Keep the first reason. Texts that servers send for "not yet" are no reason."""
        if reason is None or self._finish_reason is not None:
            return
        text = str(reason).strip()
        if text.lower() not in _NO_REASONS:
            self._finish_reason = text

    def add_logprobs(self, logprobs: Any) -> None:
        tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
        for token in tokens if isinstance(tokens, list) else ():
            value = token.get("logprob") if isinstance(token, dict) else None
            if isinstance(value, int | float):
                self._logprobs.append(value)

    def add_message(self, message: JsonObject) -> None:
        """Add a delta, or the whole message of a completion that is not streamed."""
        thought = ""
        for name, value in message.items():
            if value is None or name == "role":
                continue
            if name == "content":
                if isinstance(value, str):
                    self.add_text(value)
                else:
                    self._add_parts(value)
            elif name == "refusal":
                self.add_text(value)
            elif name == "tool_calls":
                self._add_calls(value)
            elif name == "function_call":
                self._add_calls([{"function": value}])
            else:
                if name in _THOUGHT_FIELDS:
                    thought = thought or "".join(_texts_in(value))
                self._add_extras({name: value})
        if thought:
            self._thoughts.append(thought)

    def add_text(self, text: Any) -> None:
        if text and isinstance(text, str):
            self._texts.append(text)

    def _add_parts(self, content: Any) -> None:
        parts = content if isinstance(content, list) else [content]
        for part in parts:
            if isinstance(part, dict) and part.get("type") in _THOUGHT_PARTS:
                self._thoughts += _texts_in(part)
            else:
                for text in _texts_in(part):
                    self.add_text(text)
        self._add_extras({"content": [part for part in parts if isinstance(part, dict)]})

    def _add_extras(self, extras: JsonObject) -> None:
        self._extras = merge_fields(self._extras, extras)

    def _add_calls(self, calls: Any) -> None:
        pieces = calls if isinstance(calls, list) else [calls]
        for place, piece in enumerate(pieces):
            if isinstance(piece, dict):
                call = _call_piece(piece, place if len(pieces) > 1 else NO_PLACE)
                if call.id or call.name or call.arguments or call.extras:
                    self._calls.append(call)


def _call_piece(piece: JsonObject, place: int) -> CallPiece:
    """Return a piece of a call. Its name and arguments stand under `function`, or beside it at some servers."""
    inner = piece.get("function") or piece.get("custom")
    function = inner if isinstance(inner, dict) else piece
    arguments = function.get("arguments")
    if arguments is None:
        arguments = function.get("input")
    number = _number(piece.get("index"))
    extras = {name: value for name, value in piece.items() if name not in _CALL_FIELDS and value is not None}
    if function is not piece:
        more = {name: value for name, value in function.items() if name not in _FUNCTION_FIELDS and value is not None}
        extras = {**extras, "function": more} if more else extras
    return CallPiece(
        index=place if number is None else number,
        id=_text(piece.get("id")),
        name=_text(function.get("name")),
        arguments=arguments if isinstance(arguments, str) else _arguments_text(arguments),
        is_numbered=number is not None,
        extras=extras,
    )


def _arguments_text(arguments: Any) -> str:
    return "" if arguments is None else json.dumps(arguments, ensure_ascii=False)


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value[:9])
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    """Return a text, or a number as text; other types are no name and no id."""
    return value if isinstance(value, str) else str(value) if isinstance(value, int | float) else ""


def _texts_in(part: Any) -> Iterable[str]:
    """Yield the texts of a part of a message: a text, an object that holds it, or a list of such parts."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, list):
        for item in part:
            yield from _texts_in(item)
    elif isinstance(part, dict):
        for name in ("text", "thinking", "reasoning", "content", "summary", "refusal"):
            if part.get(name):
                yield from _texts_in(part[name])
                return


def _parse_usage(usage: JsonObject) -> Usage | None:
    """Return the counts as integers, which some servers send in other types; None if there are none."""
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else usage.get("prompt_cache_hit_tokens")
    counted = Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        total_tokens=_count(usage.get("total_tokens")),
        cached_tokens=_count(cached),
    )
    if counted.total_tokens == 0:
        counted = replace(counted, total_tokens=counted.prompt_tokens + counted.completion_tokens)
    return counted if counted.total_tokens else None


_MAX_TOKENS = 10**12
"""No turn has more tokens. A larger count is no count, and it would not fit into what stores it."""


def _count(value: Any) -> int:
    try:
        count = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return 0
    return count if 0 <= count <= _MAX_TOKENS else 0
