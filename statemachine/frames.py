"""Encodes an event as SSE frames (§2.1): one data line each, at most 2 KiB if the event can be shortened.

A frame body is the frame without its `id:` line, which the journal adds. A body is encoded once, for the log and all
its readers.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from statemachine.events import (
    VERSION,
    Content,
    End,
    ErrorRaised,
    Event,
    PlanStepDeclared,
    PlanStepUpdated,
    Thought,
    ToolExecution,
)
from statemachine.stored import JsonObject

Shape = Literal["both", "flat", "nested"]

FRAME_LIMIT_BYTES = 2048
ID_LINE_BYTES = len("id: 1706156400123\n") + 3  # leaves room for ids in microseconds
BODY_LIMIT_BYTES = FRAME_LIMIT_BYTES - ID_LINE_BYTES

DONE_BODY = b"data: [DONE]\n\n"
"""The end of every stream (§2.3). The log stores it like an event, so that its id never changes."""

# JSON may contain these unescaped, but the line readers of several languages end a line at them.
_LINE_SEPARATORS = (("\u2028", "\\u2028"), ("\u2029", "\\u2029"), ("\x85", "\\u0085"))
_UTF8_LINE_SEPARATORS = tuple((separator.encode(), escape.encode()) for separator, escape in _LINE_SEPARATORS)
_ELLIPSIS = "…"
_VERSION = VERSION.encode()
_encode = msgspec.json.Encoder().encode
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # `dumps` builds an encoder for each call
# The fields of an event that may be shortened, in this order.
_SHORTENABLE_FIELDS: dict[type[Event], tuple[str, ...]] = {
    PlanStepDeclared: ("description", "title"),
    PlanStepUpdated: ("description",),
    ErrorRaised: ("message",),
    End: ("message",),
}


def compact_json(value: object) -> str:
    """Return the JSON of a value in one line, without spaces and with characters other than ASCII unescaped."""
    text = _json(value)
    if text.isascii():
        return text
    for separator, escape in _LINE_SEPARATORS:
        if separator in text:
            text = text.replace(separator, escape)
    return text


def encode(event: Event, session_id: str, timestamp: int, shape: Shape = "both") -> list[bytes]:
    """Return the bodies of the frames of one event: one, or several if its text is too long for a frame.

    `timestamp` is in Unix seconds.
    """
    body = _body(event, session_id, timestamp, shape)
    if len(body) <= BODY_LIMIT_BYTES:
        return [body]
    match event:
        case Thought(sources=sources) if len(sources) > 1:
            return [
                piece_body
                for piece in _split_sources(event)
                for piece_body in encode(piece, session_id, timestamp, shape)
            ]
        case Content(content=text) | Thought(content=text) if len(text) > 1:
            return [
                piece_body
                for piece in _split_text(event, text)
                for piece_body in encode(piece, session_id, timestamp, shape)
            ]
        case ToolExecution():
            return [_body(_shorten_tool(event, session_id, timestamp, shape), session_id, timestamp, shape)]
        case _:
            for name in _SHORTENABLE_FIELDS.get(type(event), ()):
                if text := getattr(event, name):
                    return encode(replace(event, **{name: _halve(text)}), session_id, timestamp, shape)
            return [body]


def _body(event: Event, session_id: str, timestamp: int, shape: Shape) -> bytes:
    event_fields, type = event.fields(), event.TYPE.encode()
    parts = [b'event: %b\ndata: {"type":"%b","version":"%b","timestamp":%d' % (type, type, _VERSION, timestamp)]
    if shape == "nested" or "sessionId" not in event_fields:
        parts += (b',"sessionId":', _utf8_json(session_id))
    fields = _utf8_json(event_fields)  # encoded once, written up to twice
    if shape != "nested":
        parts += (b",", fields[1:-1])
    if shape != "flat":
        parts += (b',"data":', fields)
    parts.append(b"}\n\n")
    return b"".join(parts)


def _utf8_json(value: object) -> bytes:
    try:
        data = _encode(value)
    except ValueError:
        # A single surrogate has no UTF-8 form. It is replaced, because a broken character must not end the stream.
        return compact_json(value).encode("utf-8", "replace")
    if not data.isascii():
        for separator, escape in _UTF8_LINE_SEPARATORS:
            if separator in data:
                data = data.replace(separator, escape)
    return data


def _split_sources(event: Thought) -> tuple[Thought, Thought]:
    """Split the sources over two thoughts. The first has the text, the second an ellipsis."""
    middle = len(event.sources) // 2
    tail = replace(event, content=_ELLIPSIS, sources=event.sources[middle:])
    return replace(event, sources=event.sources[:middle]), tail


def _split_text(event: Content | Thought, text: str) -> tuple[Event, Event]:
    middle = len(text) // 2
    head = replace(event, content=text[:middle])
    tail = replace(event, content=text[middle:])
    if isinstance(event, Content):
        return replace(head, chunk=True), tail
    return head, replace(tail, sources=())


def _halve(text: str) -> str:
    """Return the first half of a text with an ellipsis, or nothing if the text is very short."""
    kept = text[: len(text) // 2].removesuffix(_ELLIPSIS)
    return kept + _ELLIPSIS if len(kept) > 1 else ""


def _shorten_tool(event: ToolExecution, session_id: str, timestamp: int, shape: Shape) -> ToolExecution:
    """Shorten the arguments to half of the free space (all of it if there is no outcome yet), then the outcome."""
    bare = replace(event, truncated=True, tool_args={}, result=None, error=None)
    free_bytes = BODY_LIMIT_BYTES - len(_body(bare, session_id, timestamp, shape))
    arguments_bytes = free_bytes if event.result is None and event.error is None else free_bytes // 2
    copies = 3 * (2 if shape == "both" else 1)
    event = replace(event, truncated=True, tool_args=_fit_arguments(event.tool_args, max(0, arguments_bytes // copies)))
    for name in ("result", "error", "tool_name"):
        while (value := getattr(event, name)) and len(_body(event, session_id, timestamp, shape)) > BODY_LIMIT_BYTES:
            text = value if isinstance(value, str) else compact_json(value)
            event = replace(event, **{name: _halve(text)})
    return event


def _fit_arguments(arguments: JsonObject, max_bytes: int) -> JsonObject:
    """Shorten the values of the arguments, more and more, until their JSON fits. Return `{}` if it never does."""
    for limit in (256, 128, 64, 32, 16, 8, 4):
        if len(compact_json(arguments).encode("utf-8", "replace")) <= max_bytes:
            return arguments
        arguments = _trim(arguments, limit)
    return arguments if len(compact_json(arguments).encode("utf-8", "replace")) <= max_bytes else {}


def _trim(value: Any, limit: int) -> Any:
    """Limit the length of every text, list and object in the value."""
    match value:
        case str() if len(value) > limit:
            return value[:limit].removesuffix(_ELLIPSIS) + _ELLIPSIS
        case dict():
            return {key: _trim(item, limit) for key, item in list(value.items())[:limit]}
        case list():
            return [_trim(item, limit) for item in value[:limit]]
        case _:
            return value
