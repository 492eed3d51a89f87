"""Encodes an event as SSE frames (§2.1), one data line each.

The text of an answer is split into frames of at most 2 KiB. The result of a tool is cut at 16 KiB. Nothing else is
shortened: a person decides on arguments, so each frame has all of them, whatever its size.

A frame body is the frame without its `id:` line, which the journal adds. A body is encoded once, for the log and all
its readers.
"""

from __future__ import annotations

import json
from typing import Literal

import msgspec
from msgspec.structs import replace

from statemachine.events import VERSION, Content, Event, ToolExecution

Shape = Literal["both", "flat", "nested"]

FRAME_LIMIT_BYTES = 2048
ID_LINE_BYTES = len("id: 1706156400123\n") + 3  # leaves room for ids in microseconds
BODY_LIMIT_BYTES = FRAME_LIMIT_BYTES - ID_LINE_BYTES

DONE_BODY = b"data: [DONE]\n\n"
"""The end of every stream (§2.3). The log stores it like an event, so that its id never changes."""

# JSON may contain these unescaped, but the line readers of several languages end a line at them.
_LINE_SEPARATORS = (("\u2028", "\\u2028"), ("\u2029", "\\u2029"), ("\x85", "\\u0085"))
_UTF8_LINE_SEPARATORS = tuple((separator.encode(), escape.encode()) for separator, escape in _LINE_SEPARATORS)
RESULT_LIMIT_BYTES = 16 * 1024
"""How much of a tool's result a frame has; the run's record has all of it."""
_ELLIPSIS = "…"
_VERSION = VERSION.encode()
_encode = msgspec.json.Encoder().encode
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # `dumps` builds an encoder for each call


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
    """Return the bodies of the frames of one event: one, or several if it is answer text that is too long for a frame.

    `timestamp` is in Unix seconds.
    """
    if isinstance(event, ToolExecution):
        event = _with_short_result(event)
    body = _body(event, session_id, timestamp, shape)
    if not isinstance(event, Content) or len(body) <= BODY_LIMIT_BYTES or len(event.content) <= 1:
        return [body]
    middle = len(event.content) // 2
    pieces = replace(event, content=event.content[:middle], chunk=True), replace(event, content=event.content[middle:])
    return [piece_body for piece in pieces for piece_body in encode(piece, session_id, timestamp, shape)]


def _body(event: Event, session_id: str, timestamp: int, shape: Shape) -> bytes:
    event_fields, type = event.fields(), event.TYPE.encode()
    parts = [b'event: %b\ndata: {"type":"%b","version":"%b","timestamp":%d' % (type, type, _VERSION, timestamp)]
    if shape == "nested" or "sessionId" not in event_fields:
        parts += (b',"sessionId":', _utf8_json(session_id))
    fields = _utf8_json(event_fields)  # encoded once, written up to twice
    if shape != "nested":
        parts += (b",", fields[1:-1])
    if shape != "flat":
        parts.append(b',"data":{"timestamp":%d,%b' % (timestamp, fields[1:]))
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


def _with_short_result(event: ToolExecution) -> ToolExecution:
    """Return the event with a result of at most `RESULT_LIMIT_BYTES`. What is cut becomes text with an ellipsis."""
    if event.result is None or len(_utf8_json(event.result)) <= RESULT_LIMIT_BYTES:
        return event
    text = event.result if isinstance(event.result, str) else compact_json(event.result)
    data = text.encode("utf-8", "replace")
    room = RESULT_LIMIT_BYTES - len(_ELLIPSIS.encode())
    return replace(event, result=data[:room].decode("utf-8", "ignore") + _ELLIPSIS, truncated=True)
