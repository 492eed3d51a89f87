"""What an entry of a run's stream holds: the events of one commit, the first of them with the id of the entry."""

from __future__ import annotations

from collections.abc import Iterable

from app.ports.journal import LogEntry
from statemachine.frames import DONE_BODY
from statemachine.packed_frames import frame_count, unpack

RawEntry = tuple[bytes, list[bytes] | dict[bytes, bytes]]
"""An entry as Redis sends it: its id and its only field; the driver may give the field as a dict."""


def log_entries(raw: Iterable[RawEntry], *, after: int = 0) -> list[LogEntry]:
    """Return the events with a greater id than `after`. Raises `ValueError` where others have written an entry."""
    found: list[LogEntry] = []
    for entry in raw:
        if last_id(entry) > after:
            events = enumerate(unpack(_packed(entry)), first_id(entry))
            found += [LogEntry(id, body) for id, body in events if id > after]
    return found


def end_marker(raw: Iterable[RawEntry]) -> LogEntry | None:
    """Return the last event of these entries if it is the end marker of a run."""
    entries = log_entries(raw)
    return entries[-1] if entries and entries[-1].body == DONE_BODY else None


def first_id(entry: RawEntry) -> int:
    return int(entry[0].partition(b"-")[0])


def last_id(entry: RawEntry) -> int:
    """Return the id of the last event of an entry, without unpacking it."""
    return first_id(entry) + frame_count(_packed(entry)) - 1


def _packed(entry: RawEntry) -> bytes:
    fields = entry[1]
    return fields[1] if isinstance(fields, list) else next(iter(fields.values()))
