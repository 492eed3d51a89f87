"""The bytes of a stream as typed events (§2.1). Reads what the service writes and what the gateway makes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from statemachine.checkpoint import JsonObject
from statemachine.events import EVENT_TYPES, Event

DONE = "[DONE]"
_FRAME_LIMIT_BYTES = 16 * 1024 * 1024
_MADE_UP = re.compile(r"id: ?[0-9]{15,19}$")
"""What the gateway puts before a network buffer without `id:`, wherever that buffer was cut: microseconds, a line end.
Our own ids are milliseconds, and nothing else that the service writes ends a line like that."""

_BROKEN_CHARACTER = "\ufffd"


class StreamDamaged(Exception):
    """What came is no event stream of ours: read again from the last good event."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came. `retry_ms` alone, without data, is a frame too."""

    id: int | None = None
    data: str = ""
    retry_ms: int | None = None

    @property
    def is_done(self) -> bool:
        return self.data == DONE


@dataclass(frozen=True, slots=True)
class Received:
    """One event. `event` is None where this client does not know the type; `fields` are its own fields, all of them."""

    id: int | None
    type: str
    fields: JsonObject
    event: Event | None


class FrameReader:
    """Bytes in, in any pieces; whole frames out. What is incomplete at the end of a connection is not a frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._held = ""  # of a line that was cut in two
        self._lines: list[str] = []

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The frames that this piece completes. Raises `StreamDamaged` on one without an end."""
        self._buffer += piece
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        if len(rest) > _FRAME_LIMIT_BYTES:
            raise StreamDamaged(f"a line of more than {_FRAME_LIMIT_BYTES} bytes")
        for raw in lines:
            line = self._held + raw.decode("utf-8", "replace").removesuffix("\r")
            made_up = _MADE_UP.search(line)
            self._held = "" if made_up is None else line[: made_up.start()]
            if made_up is not None:
                continue  # the line goes on where it was cut
            if line:
                self._lines.append(line)
                continue
            frame, self._lines = _frame(self._lines), []
            if frame is not None:
                yield frame


def _frame(lines: list[str]) -> Frame | None:
    """None: nothing but comments. Of several ids the first counts."""
    id: int | None = None
    retry_ms: int | None = None
    data: list[str] = []
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "id" and id is None:
            id = _number(value)
        elif name == "retry":
            retry_ms = _number(value)
    if not data and retry_ms is None:
        return None
    return Frame(id, "\n".join(data), retry_ms)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def received(frame: Frame) -> Received:
    """The event of a frame, from the flat or the nested fields, whichever there are. Raises `StreamDamaged`."""
    try:
        message = json.loads(frame.data)
    except (ValueError, RecursionError):
        raise StreamDamaged("an event that is not JSON") from None
    if not isinstance(message, dict):
        raise StreamDamaged("an event that is not a JSON object")
    nested = message.pop("data", None)
    fields = message
    if isinstance(nested, dict):  # of two copies the one that came whole
        fields |= {name: value for name, value in nested.items() if name not in fields or not is_broken(value)}
    type = str(fields.get("type", ""))
    return Received(frame.id, type, fields, _typed(type, fields))


def is_broken(value: object) -> bool:
    """Whether a character of it was cut in two on the way; or it is one of the model's own making."""
    return _BROKEN_CHARACTER in json.dumps(value, ensure_ascii=False)


def _typed(type: str, fields: JsonObject) -> Event | None:
    """Lenient: unknown fields are left out, an event that lacks one is not typed."""
    known = EVENT_TYPES.get(type)
    try:
        return None if known is None else known.of(fields)
    except ValueError:
        return None
