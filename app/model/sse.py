"""Server-Sent Events as WHATWG defines them, read from bytes that arrive in any pieces.

It is more tolerant than the standard in three points, because some servers need it: an event that the end of the stream
interrupts is still an event, JSON objects on `data:` lines without a blank line between them are events of their own,
and a field `error:` (llama.cpp until 2025) is an event with the name `error`.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_EVENT_BYTES = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """An event has more than `MAX_EVENT_BYTES` bytes."""


class ServerEvent(NamedTuple):
    """An event with data. `name` is its `event:` field, empty if it has none."""

    name: bytes
    data: bytes


class EventParser:
    """Parses one stream. Bytes that are not UTF-8 are passed on unchanged."""

    def __init__(self) -> None:
        self._rest = b""  # the line that has not ended yet
        self._is_first = True
        self._is_between_events = False
        self._skips_newline = False  # the last piece ended with CR: a newline that follows belongs to it
        self._name = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """Add the next bytes and return the events that are complete now. Raises `EventTooLong`."""
        if self._is_between_events and (events := _whole_events(piece)):
            return events
        if self._skips_newline:
            self._skips_newline = not piece
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
        *lines, self._rest = text.split(b"\n")
        events = []
        for line in lines:
            self._add_line(line, events)
        self._is_between_events = not (self._rest or self._data or self._name or self._skips_newline)
        if len(self._rest) + self._data_bytes > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events

    def finish(self) -> list[ServerEvent]:
        """Return the event that the end of the stream has interrupted, if there is one."""
        events: list[ServerEvent] = []
        self._add_line(self._rest.removeprefix(_BOM) if self._is_first else self._rest, events)
        self._rest = b""
        self._add_line(b"", events)
        return events

    def _add_line(self, line: bytes, events: list[ServerEvent]) -> None:
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
            if self._data and _is_another_event(self._data[-1], value):
                self._end_event(events)
            self._data.append(value)
            self._data_bytes += len(value)
        elif not line:
            self._end_event(events)
        elif line.startswith(b"event:"):
            self._name = line[6:].strip()
        elif line.startswith(b"error:"):
            self._end_event(events)
            self._name, self._data = b"error", [line[6:].strip()]

    def _end_event(self, events: list[ServerEvent]) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            if data.strip():
                events.append(ServerEvent(self._name, data))
            self._data, self._data_bytes = [], 0
        self._name = b""


def _whole_events(piece: bytes) -> list[ServerEvent]:
    """Return the events of a piece that is nothing but whole events as most servers send them, else an empty list.

    This is the usual case, and it takes a fifth of the time of reading line by line.
    """
    if not piece.endswith(b"\n\n") or b"\r" in piece:
        return []
    blocks = piece[:-2].split(b"\n\n")
    if not all(block.startswith(b"data: {") and b"\n" not in block for block in blocks):
        return []
    return [ServerEvent(b"", block[6:]) for block in blocks]


def _is_another_event(line: bytes, following: bytes) -> bool:
    """Whether two `data:` lines cannot belong to one JSON value: an object ends, and another or `[DONE]` begins."""
    return line.rstrip().endswith(b"}") and following.lstrip().startswith((b"{", b"[DONE]"))
