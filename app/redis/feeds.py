"""Readers of logs in this process. A reader is a cursor and an event to wake it; a slow one costs nothing more.

For a run that this node writes, the latest frames are kept in memory while somebody reads: those readers do not ask
Redis for what the process has just sent there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from app.errors import StorageUnavailable
from app.ports import Entry
from app.redis import keys
from app.redis.channels import Channels

_KEPT = 256


class Feed:
    """What this process knows of one run's log. `is_local`: every new entry passes through here."""

    __slots__ = ("_entries", "_floor", "_was_read", "is_local", "readers")

    def __init__(self) -> None:
        self.is_local = False
        self.readers: set[asyncio.Event] = set()
        self._was_read = False
        self._entries: deque[Entry] = deque()
        self._floor: int | None = None  # everything above it is in `_entries`

    def open(self) -> None:
        self.is_local = True
        self.wake()  # what the last owner said may not have been heard: look once more, then only here

    def close(self) -> None:
        self.is_local, self._floor = False, None
        self._entries.clear()

    def publish(self, entries: Sequence[Entry]) -> None:
        """Keep the entries for the readers; where all have left, only remember how far the log goes."""
        if not entries:
            return
        if self._floor is None:
            self._floor = entries[0].id - 1
        self._entries.extend(entries)
        keep = _KEPT if self.readers or not self._was_read else 0
        while len(self._entries) > keep:
            self._floor = self._entries.popleft().id
        self.wake()

    def wake(self, _: bytes | None = None) -> None:
        """There may be news; also what a Pub/Sub message says."""
        for woken in self.readers:
            woken.set()

    def add(self, woken: asyncio.Event) -> None:
        self.readers.add(woken)
        self._was_read = True

    def remove(self, woken: asyncio.Event) -> None:
        self.readers.discard(woken)
        if not self.readers and self._entries:
            self._floor = self._entries[-1].id
            self._entries.clear()

    def since(self, cursor: int) -> list[Entry] | None:
        """The entries above the cursor, or None: the log must be asked."""
        if not self.is_local or self._floor is None or cursor < self._floor:
            return None
        fresh: list[Entry] = []
        for entry in reversed(self._entries):
            if entry.id <= cursor:
                break
            fresh.append(entry)
        fresh.reverse()
        return fresh


class Feeds:
    """The feeds of all runs that are written or read here."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._feeds: dict[str, Feed] = {}
        self._listening: set[asyncio.Task[None]] = set()

    def open(self, session_id: str) -> Feed:
        """This process writes the run from now on."""
        feed = self._feeds.setdefault(session_id, Feed())
        feed.open()
        self._channels.unsubscribe(keys.wake(session_id), feed.wake)
        return feed

    def publish(self, session_id: str, entries: Sequence[Entry]) -> None:
        feed = self._feeds.get(session_id)
        if feed is not None:
            feed.publish(entries)

    def close(self, session_id: str) -> None:
        """Somebody else writes it, or nobody: the readers here go on by Pub/Sub."""
        feed = self._feeds.get(session_id)
        if feed is None:
            return
        feed.close()
        if feed.readers:
            self._listening = {task for task in self._listening if not task.done()}
            self._listening.add(asyncio.create_task(self._listen(session_id, feed)))
        else:
            del self._feeds[session_id]

    async def _listen(self, session_id: str, feed: Feed) -> None:
        """Be woken by other processes. Where Redis is away the wish stays, and is met when it is back."""
        if feed.is_local or not feed.readers:
            return  # taken over again, or left, before this came to run
        with suppress(StorageUnavailable):
            await self._channels.subscribe(keys.wake(session_id), feed.wake)
        feed.wake()

    def wake_all(self) -> None:
        for feed in self._feeds.values():
            feed.wake()

    @asynccontextmanager
    async def reader(self, session_id: str) -> AsyncIterator[tuple[Feed, asyncio.Event]]:
        """Be woken by what is new, from before the first look at the log."""
        feed = self._feeds.setdefault(session_id, Feed())
        woken = asyncio.Event()
        feed.add(woken)
        try:
            if not feed.is_local:
                await self._listen(session_id, feed)
            yield feed, woken
        finally:
            feed.remove(woken)
            if not feed.readers:
                self._channels.unsubscribe(keys.wake(session_id), feed.wake)
                if not feed.is_local and self._feeds.get(session_id) is feed:
                    del self._feeds[session_id]
