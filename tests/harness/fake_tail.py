"""A fake event log: readers receive the entries that a test appends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.ports.journal import LogEntry


class FakeTail:
    """Returns the appended pages one by one: from memory, or from storage while `is_remote` is set."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.is_draining = self.is_closed = self.is_remote = False
        self.pages: list[list[LogEntry] | Exception] = []

    def buffered(self) -> list[LogEntry] | None:
        if self.is_remote or (self.pages and isinstance(self.pages[0], Exception)):
            return None
        page = self.pages.pop(0) if self.pages else []
        assert not isinstance(page, Exception)
        return page

    async def fetch(self) -> list[LogEntry]:
        await asyncio.sleep(0)
        page = self.pages.pop(0) if self.pages else []
        if isinstance(page, Exception):
            raise page
        return page

    def close(self) -> None:
        self.is_closed = True

    def append(self, *pages: list[LogEntry] | Exception) -> None:
        """Append pages, or an exception that `fetch` raises, and wake the reader."""
        self.pages += pages
        self.wake()


class FakeJournal:
    """Implements `tail` only, and keeps every tail in `tails`."""

    def __init__(self) -> None:
        self.tails: list[FakeTail] = []

    def tail(self, session_id: str, after: int, wake: Callable[[], None]) -> FakeTail:
        self.tails.append(FakeTail(wake))
        return self.tails[-1]
