"""Readers of logs in this process. A reader is a cursor and a word to wake it; a slow one costs nothing more.

For a run that this node writes, the latest frames are kept in memory while somebody reads: those readers do not ask
Redis for what the process has just sent there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from app.errors import RunLost, StorageUnavailable
from app.ports import Entry
from app.redis import keys
from app.redis.channels import Channels
from app.redis.connection import Connection

_KEPT = 256
_PAGE = 200
_LOOK_SECONDS = 2.0
"""How often readers look who cannot be sure to be woken: other nodes' wake-ups can be lost."""


class Feed:
    """What this process knows of one run's log. `is_local`: every new entry passes through here."""

    __slots__ = ("_entries", "_floor", "_was_read", "is_local", "is_subscribed", "readers")

    def __init__(self) -> None:
        self.is_local = False
        self.is_subscribed = False
        self.readers: set[RedisTail] = set()
        self._was_read = False
        self._entries: deque[Entry] = deque()
        self._floor: int | None = None  # everything above it is in `_entries`

    def open(self) -> None:
        self.is_local, self.is_subscribed = True, False
        self._forget()
        self.wake()  # what the last owner said may not have been heard: look once more, then only here

    def close(self) -> None:
        """The readers take what they have not read yet; those who want more must be woken by others."""
        self.is_local = False
        self.wake()

    def _forget(self) -> None:
        self._floor = None
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
        for reader in tuple(self.readers):
            reader.woken()

    def add(self, reader: RedisTail) -> None:
        self.readers.add(reader)
        self._was_read = True

    def remove(self, reader: RedisTail) -> None:
        self.readers.discard(reader)
        if not self.readers and self._entries:
            self._floor = self._entries[-1].id
            self._entries.clear()

    def since(self, cursor: int) -> list[Entry] | None:
        """The entries above the cursor, as far as they passed through here, or None: the log must be asked."""
        if self._floor is None or cursor < self._floor:
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

    def __init__(self, connection: Connection, channels: Channels) -> None:
        self._connection = connection
        self._channels = channels
        self._feeds: dict[str, Feed] = {}
        self._unsure: set[RedisTail] = set()
        self._look: asyncio.TimerHandle | None = None
        self.is_draining = False

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
        if feed is not None:
            feed.close()
            if not feed.readers:
                del self._feeds[session_id]

    def drain(self) -> None:
        """Let every reader end without the end marker (§2.3)."""
        self.is_draining = True
        for feed in self._feeds.values():
            feed.wake()

    def tail(self, session_id: str, after: int, woken: Callable[[], None]) -> RedisTail:
        """A reader; it is woken from now on, before its first look at the log."""
        feed = self._feeds.setdefault(session_id, Feed())
        reader = RedisTail(self, feed, session_id, after, woken)
        feed.add(reader)
        return reader

    def leave(self, reader: RedisTail, feed: Feed, session_id: str) -> None:
        feed.remove(reader)
        self._unsure.discard(reader)
        if not feed.readers:
            self._channels.unsubscribe(keys.wake(session_id), feed.wake)
            feed.is_subscribed = False
            if not feed.is_local and self._feeds.get(session_id) is feed:
                del self._feeds[session_id]

    async def subscribe(self, session_id: str, feed: Feed) -> None:
        """Be woken by other processes. Where Redis is away the wish stays, and is met when it is back."""
        if not (feed.is_local or feed.is_subscribed) and feed.readers:
            feed.is_subscribed = True
            with suppress(StorageUnavailable):
                await self._channels.subscribe(keys.wake(session_id), feed.wake)

    def look_later(self, reader: RedisTail) -> None:
        """Wake a reader in a while, whatever happens."""
        self._unsure.add(reader)
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look_now)

    def _look_now(self) -> None:
        self._look = None
        unsure, self._unsure = self._unsure, set()
        for reader in unsure:
            reader.woken()

    async def page(self, session_id: str, cursor: int) -> list[Entry]:
        """Some of the log. Of an ended run that has been read to its end: the end marker again."""
        events = keys.events(session_id)
        raw = await self._connection.call("XRANGE", events, f"({cursor}", "+", "COUNT", _PAGE)
        if not raw:
            (final, last) = await self._connection.many(
                [("HGET", keys.run(session_id), "final"), ("XREVRANGE", events, "+", "-", "COUNT", 1)]
            )
            if isinstance(final, Exception) or isinstance(last, Exception):
                raise StorageUnavailable("Redis: the log cannot be read")
            if final is None:
                raise RunLost(session_id, "its data is gone from Redis")
            if final == b"1" and last and int(last[0][0].partition(b"-")[0]) <= cursor:
                raw = last
        return [Entry(int(id.partition(b"-")[0]), fields[1]) for id, fields in pairs(raw)]


class RedisTail:
    """One reader's cursor: `ports.Tail`."""

    __slots__ = ("_cursor", "_feed", "_feeds", "_session_id", "woken")

    def __init__(self, feeds: Feeds, feed: Feed, session_id: str, after: int, woken: Callable[[], None]) -> None:
        self._feeds = feeds
        self._feed = feed
        self._session_id = session_id
        self._cursor = after
        self.woken = woken

    @property
    def is_over(self) -> bool:
        return self._feeds.is_draining

    async def read(self) -> list[Entry]:
        entries = self._feed.since(self._cursor)
        if not (entries or (entries is not None and self._feed.is_local)):
            entries = await self._look()
        if entries:
            self._cursor = entries[-1].id
        return entries

    async def _look(self) -> list[Entry]:
        """What the log holds. Who cannot be sure to be woken looks again."""
        await self._feeds.subscribe(self._session_id, self._feed)
        is_sure = self._feed.is_local
        try:
            entries = await self._feeds.page(self._session_id, self._cursor)
        except StorageUnavailable:  # heartbeats go on, and when it is back so does the stream
            entries, is_sure = [], False
        if not (entries or is_sure) and self in self._feed.readers:
            self._feeds.look_later(self)
        return entries

    def close(self) -> None:
        self._feeds.leave(self, self._feed, self._session_id)


def pairs(raw: object) -> list[tuple[bytes, list[bytes]]]:
    """Stream entries as the driver gives them: raw lists, or with fields as a dict."""
    return [(id, list(fields) if isinstance(fields, list) else _flat(fields)) for id, fields in raw]  # type: ignore[attr-defined]


def _flat(fields: dict[bytes, bytes]) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]
