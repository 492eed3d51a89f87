"""How an event becomes the bytes of a frame (§2.1): both shapes, one line, at most 2 KiB where it can be cut.

A frame body is everything but its `id:` line, which the journal gives. Bodies are encoded once, for the log and for
every reader of it.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from statemachine.checkpoint import JsonObject
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

Shape = Literal["both", "flat", "nested"]

FRAME_LIMIT_BYTES = 2048
ID_LINE_BYTES = len("id: 1706156400123\n") + 3  # µs-sized ids would still fit
BODY_LIMIT_BYTES = FRAME_LIMIT_BYTES - ID_LINE_BYTES

DONE_BODY = b"data: [DONE]\n\n"
"""The end of every stream (§2.3), stored in the log like an event so that its id is as firm as theirs."""

# JSON may hold these raw, but line readers of several languages end a line at them.
_LINE_ENDS = (("\u2028", "\\u2028"), ("\u2029", "\\u2029"), ("\x85", "\\u0085"))
_UTF8_LINE_ENDS = tuple((end.encode(), spelled.encode()) for end, spelled in _LINE_ENDS)
_MARK = "…"
_VERSION = VERSION.encode()
_encode = msgspec.json.Encoder().encode
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # `dumps` makes an encoder each time
# What of an event may be shortened, the least missed first.
_SHORTENED: dict[type[Event], tuple[str, ...]] = {
    PlanStepDeclared: ("description", "title"),
    PlanStepUpdated: ("description",),
    ErrorRaised: ("message",),
    End: ("message",),
}


def compact_json(value: object) -> str:
    """JSON without spaces, UTF-8 unescaped, never a line end in it."""
    text = _json(value)
    if text.isascii():
        return text
    for end, spelled in _LINE_ENDS:
        if end in text:
            text = text.replace(end, spelled)
    return text


def encode(event: Event, session_id: str, timestamp: int, shape: Shape = "both") -> list[bytes]:
    """The bodies of the frames of one event, at least one; text too long for a frame makes several.

    `timestamp` is Unix seconds.
    """
    body = _body(event, session_id, timestamp, shape)
    if len(body) <= BODY_LIMIT_BYTES:
        return [body]
    match event:
        case Thought(sources=sources) if len(sources) > 1:
            return [
                piece_body
                for piece in _with_fewer_sources(event)
                for piece_body in encode(piece, session_id, timestamp, shape)
            ]
        case Content(content=text) | Thought(content=text) if len(text) > 1:
            return [
                piece_body
                for piece in _halves(event, text)
                for piece_body in encode(piece, session_id, timestamp, shape)
            ]
        case ToolExecution():
            return [_body(_shortened_tool(event, session_id, timestamp, shape), session_id, timestamp, shape)]
        case _:
            for name in _SHORTENED.get(type(event), ()):
                if text := getattr(event, name):
                    return encode(replace(event, **{name: _cut(text)}), session_id, timestamp, shape)
            return [body]


def _body(event: Event, session_id: str, timestamp: int, shape: Shape) -> bytes:
    own, type = event.fields(), event.TYPE.encode()
    parts = [b'event: %b\ndata: {"type":"%b","version":"%b","timestamp":%d' % (type, type, _VERSION, timestamp)]
    if shape == "nested" or "sessionId" not in own:
        parts += (b',"sessionId":', _utf8_json(session_id))
    fields = _utf8_json(own)  # once, though it may stand there twice
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
        # A lone surrogate cannot be UTF-8; a broken character must not break the stream.
        return compact_json(value).encode("utf-8", "replace")
    if not data.isascii():
        for end, spelled in _UTF8_LINE_ENDS:
            if end in data:
                data = data.replace(end, spelled)
    return data


def _with_fewer_sources(event: Thought) -> tuple[Thought, Thought]:
    """Each source stands whole in one of the frames; the text is told once."""
    middle = len(event.sources) // 2
    tail = replace(event, content=_MARK, sources=event.sources[middle:])
    return replace(event, sources=event.sources[:middle]), tail


def _halves(event: Content | Thought, text: str) -> tuple[Event, Event]:
    middle = len(text) // 2
    head = replace(event, content=text[:middle])
    tail = replace(event, content=text[middle:])
    if isinstance(event, Content):
        return replace(head, chunk=True), tail
    return head, replace(tail, sources=())


def _cut(text: str) -> str:
    """Half of a text, or nothing of a very short one; a mark says that something is missing."""
    kept = text[: len(text) // 2].removesuffix(_MARK)
    return kept + _MARK if len(kept) > 1 else ""


def _shortened_tool(event: ToolExecution, session_id: str, timestamp: int, shape: Shape) -> ToolExecution:
    """Trim the arguments to half of the room, or to all of it where there is no outcome yet; then the outcome."""
    bare = replace(event, truncated=True, tool_args={}, result=None, error=None)
    room = BODY_LIMIT_BYTES - len(_body(bare, session_id, timestamp, shape))
    share = room if event.result is None and event.error is None else room // 2
    copies = 3 * (2 if shape == "both" else 1)
    event = replace(event, truncated=True, tool_args=_fitted_arguments(event.tool_args, max(0, share // copies)))
    for name in ("result", "error", "tool_name"):
        while (value := getattr(event, name)) and len(_body(event, session_id, timestamp, shape)) > BODY_LIMIT_BYTES:
            text = value if isinstance(value, str) else compact_json(value)
            event = replace(event, **{name: _cut(text)})
    return event


def _fitted_arguments(arguments: JsonObject, most_bytes: int) -> JsonObject:
    for limit in (256, 128, 64, 32, 16, 8, 4):
        if len(compact_json(arguments).encode("utf-8", "replace")) <= most_bytes:
            return arguments
        arguments = _trimmed(arguments, limit)
    return arguments if len(compact_json(arguments).encode("utf-8", "replace")) <= most_bytes else {}


def _trimmed(value: Any, limit: int) -> Any:
    match value:
        case str() if len(value) > limit:
            return value[:limit].removesuffix(_MARK) + _MARK
        case dict():
            return {key: _trimmed(item, limit) for key, item in list(value.items())[:limit]}
        case list():
            return [_trimmed(item, limit) for item in value[:limit]]
        case _:
            return value
