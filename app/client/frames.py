"""Parses the bytes of a stream into typed events (§2.1), also where the gateway has inserted ids of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .decoding import JsonObject, decode_event
from .events import Event

DONE = "[DONE]"
_MAX_LINE_BYTES = 16 * 1024 * 1024
_GATEWAY_ID = re.compile(r"id: ?[0-9]{15,19}$")
"""The id in microseconds that the gateway inserts, with a line end, before a network buffer without `id:`. The buffer
may begin anywhere. The service's own ids are milliseconds, and nothing else that it sends ends a line like this."""

_REPLACEMENT_CHARACTER = "\ufffd"


class StreamDamaged(Exception):
    """The bytes are not an event stream of the service. The caller should resume after the last valid event."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stream. A frame may have `retry_ms` and no data."""

    id: int | None = None
    data: str = ""
    retry_ms: int | None = None

    @property
    def is_done(self) -> bool:
        """Whether this is `[DONE]`, the last frame of a stream."""
        return self.data == DONE


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One event. `fields` are all its fields under the names of the wire; `event` has them typed.

    `event` is None where this client does not know the type, or where a field is not what it knows.
    """

    id: int | None
    type: str
    fields: JsonObject
    event: Event | None


class FrameParser:
    """Parses bytes into frames. The bytes may be split anywhere; an incomplete frame at the end is dropped."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._line_start = ""  # of a line that the gateway has split
        self._lines: list[str] = []

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that these bytes complete. Raises `StreamDamaged` for a line that is too long."""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        if len(rest) > _MAX_LINE_BYTES:
            raise StreamDamaged(f"a line has more than {_MAX_LINE_BYTES} bytes")
        for raw in lines:
            line = self._line_start + raw.decode("utf-8", "replace").removesuffix("\r")
            gateway_id = _GATEWAY_ID.search(line)
            self._line_start = "" if gateway_id is None else line[: gateway_id.start()]
            if gateway_id is not None:
                continue  # the next line continues the one that was split
            if line:
                self._lines.append(line)
                continue
            frame, self._lines = _parse_frame(self._lines), []
            if frame is not None:
                yield frame


def _parse_frame(lines: list[str]) -> Frame | None:
    """Return the frame of these lines; None for comments alone. The first of several ids counts."""
    id: int | None = None
    retry_ms: int | None = None
    data: list[str] = []
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "id" and id is None:
            id = _parse_number(value)
        elif name == "retry":
            retry_ms = _parse_number(value)
    if not data and retry_ms is None:
        return None
    return Frame(id, "\n".join(data), retry_ms)


def _parse_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def parse_event(frame: Frame) -> ReceivedEvent:
    """Return the event of a frame, whose fields may be at the top level, inside `data`, or both (`AURA_EVENT_SHAPE`).

    Raises `StreamDamaged` where the frame is not a JSON object.
    """
    try:
        message = json.loads(frame.data)
    except (ValueError, RecursionError):
        raise StreamDamaged("an event is not JSON") from None
    if not isinstance(message, dict):
        raise StreamDamaged("an event is not a JSON object")
    nested = message.pop("data", None)
    fields = message
    if isinstance(nested, dict):  # of two copies, take the one without a damaged character
        fields |= {
            name: value for name, value in nested.items() if name not in fields or not has_damaged_character(value)
        }
    type = str(fields.get("type", ""))
    return ReceivedEvent(frame.id, type, fields, decode_event(type, fields))


def has_damaged_character(value: object) -> bool:
    """Return whether a value contains U+FFFD: a character was split on the way, or the model generated it."""
    return _REPLACEMENT_CHARACTER in json.dumps(value, ensure_ascii=False)
