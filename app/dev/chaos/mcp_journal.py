"""The journal of the MCP server: what its process has begun, written and ended. Pure."""

from __future__ import annotations

import json
from collections import Counter
from enum import StrEnum


class Entry(StrEnum):
    BEGUN = "begun"
    WRITTEN = "written"
    ENDED = "ended"


def line_of(entry: Entry, reference: str) -> bytes:
    """Return a line of the journal."""
    return json.dumps([entry.value, reference]).encode() + b"\n"


def notes(journal: bytes) -> Counter[str]:
    """Return how many notes were written for each reference."""
    return Counter(reference for entry, reference in _entries(journal) if entry == Entry.WRITTEN)


def under_way(journal: bytes) -> int:
    """Return how many calls have begun and not ended, in the journal since the process was started."""
    counts = Counter(entry for entry, _ in _entries(journal))
    return counts[Entry.BEGUN] - counts[Entry.ENDED]


def _entries(journal: bytes) -> list[tuple[str, str]]:
    """Return the entries; a line that is being written is left out."""
    return [(entry, reference) for entry, reference in map(json.loads, journal.split(b"\n")[:-1])]
