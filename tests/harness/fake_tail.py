"""A run's log that a test plays: what its readers find is what the test puts in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.ports.journal import LogEntry


class PlayedTail:
    """What the test puts in: at hand, or, while `is_remote`, to be looked up."""

    def __init__(self, woken: Callable[[], None]) -> None:
        self.woken = woken
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

    def play(self, *pages: list[LogEntry] | Exception) -> None:
        self.pages += pages
        self.woken()


class PlayedJournal:
    """Only its tails are asked for."""

    def __init__(self) -> None:
        self.tails: list[PlayedTail] = []

    def tail(self, session_id: str, after: int, woken: Callable[[], None]) -> PlayedTail:
        self.tails.append(PlayedTail(woken))
        return self.tails[-1]
