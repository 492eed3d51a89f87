"""Server-Sent Events as WHATWG defines them, read from bytes that arrive in any pieces.

It is more tolerant than the standard in three points, because some servers need it: an event that the end of the stream
interrupts is still an event, JSON objects on `data:` lines without a blank line between them are events of their own,
and a field `error:` (llama.cpp until 2025) is an event with the name `error`.
"""

from __future__ import annotations

import re

MAX_EVENT_BYTES = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_BORDER = re.compile(rb"(?<=\})[ \t]*\n(?=data: ?(?:\{|\[DONE\])|error:)")
"""Between two `data:` lines that cannot belong to one JSON value: an object ends, and another or `[DONE]` begins."""


class EventTooLong(ValueError):
    """An event has more than `MAX_EVENT_BYTES` bytes."""


ServerEvent = tuple[bytes, bytes]
"""The name of an event, its `event:` field, empty if it has none; and its data. A plain tuple is made three times as
fast as one with names, and there is one for every token."""


class EventParser:
    """Parses one stream. Bytes that are not UTF-8 are passed on unchanged."""

    def __init__(self) -> None:
        self._rest = b""  # the event that has not ended yet
        self._is_first = True
        self._skips_newline = False  # the last piece ended with CR: a newline that follows belongs to it

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """Add the next bytes and return the events that are complete now. Raises `EventTooLong`."""
        if self._skips_newline and piece:
            self._skips_newline = False
            piece = piece.removeprefix(b"\n")
        if b"\r" in piece:
            self._skips_newline = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        text = self._rest + piece
        if self._is_first:
            if _BOM.startswith(text):
                self._rest = text
                return []
            self._is_first = False
            text = text.removeprefix(_BOM)
        *blocks, self._rest = text.split(b"\n\n")
        events: list[ServerEvent] = []
        for block in blocks:
            if block.startswith(b"data: {") and b"\n" not in block:  # the usual form
                events.append((b"", block[6:]))
            else:
                _add_events(block, events)
        if b"\ndata:" in self._rest:  # perhaps a server that sends no blank lines
            *whole, self._rest = _BORDER.split(self._rest)
            for block in whole:
                _add_events(block, events)
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events

    def finish(self) -> list[ServerEvent]:
        """Return the event that the end of the stream has interrupted, if there is one."""
        events: list[ServerEvent] = []
        _add_events(self._rest.removeprefix(_BOM) if self._is_first else self._rest, events)
        self._rest = b""
        return events


def _add_events(block: bytes, events: list[ServerEvent]) -> None:
    """Add the event in a block of lines, or the events, where a server separates them by no blank line."""
    for part in _BORDER.split(block):
        name, data = b"", []
        for line in part.split(b"\n"):
            field, _, value = line.partition(b":")
            match field:
                case b"data":
                    data.append(value.removeprefix(b" "))
                case b"event":
                    name = value.strip()
                case b"error":  # llama.cpp until 2025
                    name, data = b"error", [value.strip()]
        _add_event(name, b"\n".join(data), events)


def _add_event(name: bytes, data: bytes, events: list[ServerEvent]) -> None:
    if data and not data.isspace():
        events.append((name, data))
