"""Readers of logs in this process. A reader is a cursor and a word to wake it; a slow one costs nothing more.

For a run that this node writes, frames are kept in memory until its readers have them: those readers do not ask Redis
for what the process has just sent there. Of a run without readers only the id is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from app.errors import RunLost, StorageUnavailable
from app.ports.journal import LogEntry
from app.redis import keys
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub

_KEPT = 256
_PAGE = 100
_LOOK_SECONDS = 2.0
"""How often readers look who cannot be sure to be woken: other nodes' wake-ups can be lost."""


class Feed:
    """What this process knows of one run's log while somebody reads it, or, of a run that it has just opened, will.

    `is_local`: every new entry passes through here.
    """

    __slots__ = ("_entries", "_floor", "is_local", "is_subscribed", "readers", "turns")

    def __init__(self, *, is_local: bool) -> None:
        self.is_local = is_local
        self.is_subscribed = False
        self.turns = 0  # how often the run has come or gone
        self.readers: list[RedisTail] = []
        self._entries: deque[LogEntry] | None = None
        self._floor: int | None = None  # everything above it is in `_entries`

    def open(self) -> None:
        self.is_local, self.is_subscribed = True, False
        self.turns += 1
        self._floor = self._entries = None
        self.wake()  # what the last owner said may not have been heard: look once more, then only here

    def close(self) -> None:
        """The readers take what they have not read yet; those who want more must be woken by others."""
        self.is_local = False
        self.turns += 1
        self.wake()

    def publish(self, entries: Sequence[LogEntry]) -> None:
        """Keep the entries until the readers have them."""
        if not entries:
            return
        if self._floor is None:
            self._floor = entries[0].id - 1
        if self._entries is None:
            self._entries = deque()
        self._entries.extend(entries)
        while len(self._entries) > _KEPT:
            self._floor = self._entries.popleft().id
        self.wake()

    def settle(self, cursor: int) -> None:
        """A reader has all that there is, up to its cursor; what every reader has is forgotten."""
        if self._floor is None:
            self._floor = cursor
        if self._entries is not None and all(reader.cursor >= self._entries[-1].id for reader in self.readers):
            self._floor, self._entries = self._entries[-1].id, None

    def wake(self, _: bytes | None = None) -> None:
        """There may be news; also what a Pub/Sub message says."""
        for reader in tuple(self.readers):
            reader.woken()

    def since(self, cursor: int) -> list[LogEntry] | None:
        """The entries above the cursor, as far as they passed through here, or None: the log must be asked."""
        if self._floor is None or cursor < self._floor:
            return None
        if self._entries is None:
            return []
        fresh: list[LogEntry] = []
        for entry in reversed(self._entries):
            if entry.id <= cursor:
                break
            fresh.append(entry)
        fresh.reverse()
        return fresh


class Feeds:
    """The feeds of all runs that are written or read here."""

    def __init__(self, connection: Connection, pubsub: PubSub) -> None:
        self._connection = connection
        self._pubsub = pubsub
        self._written: set[str] = set()
        self._feeds: dict[str, Feed] = {}
        self._unsure: set[RedisTail] = set()
        self._look: asyncio.TimerHandle | None = None
        self.is_draining = False

    def begin(self, session_id: str, entries: Sequence[LogEntry]) -> None:
        """This process has opened the run; whoever asked for it is about to read.

        Somebody may read it already: Redis had the run before this process had its answer.
        """
        self.open(session_id)
        self._feeds.setdefault(session_id, Feed(is_local=True)).publish(entries)

    def open(self, session_id: str) -> None:
        """This process writes the run from now on."""
        self._written.add(session_id)
        feed = self._feeds.get(session_id)
        if feed is not None:
            feed.open()
            self._pubsub.unsubscribe(keys.wake(session_id))

    def publish(self, session_id: str, entries: Sequence[LogEntry]) -> None:
        feed = self._feeds.get(session_id)
        if feed is not None:
            feed.publish(entries)

    def close(self, session_id: str) -> None:
        """Somebody else writes it, or nobody: the readers here go on by Pub/Sub."""
        self._written.discard(session_id)
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
        feed = self._feeds.get(session_id)
        if feed is None:
            feed = self._feeds[session_id] = Feed(is_local=session_id in self._written)
        reader = RedisTail(self, feed, session_id, after, woken)
        feed.readers.append(reader)
        return reader

    def leave(self, reader: RedisTail, feed: Feed, session_id: str) -> None:
        if reader in feed.readers:
            feed.readers.remove(reader)
        self._unsure.discard(reader)
        if not feed.readers and self._feeds.get(session_id) is feed:
            self._pubsub.unsubscribe(keys.wake(session_id))
            feed.is_subscribed = False
            del self._feeds[session_id]

    async def subscribe(self, session_id: str, feed: Feed) -> None:
        """Be woken by other processes. Where Redis is away the wish stays, and is met when it is back."""
        if not (feed.is_local or feed.is_subscribed) and feed.readers:
            feed.is_subscribed = True
            with suppress(StorageUnavailable):
                await self._pubsub.subscribe(keys.wake(session_id), feed.wake)

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

    async def page(self, session_id: str, cursor: int) -> list[LogEntry]:
        """Some of the log. Of an ended run that has been read to its end: the end marker again."""
        events = keys.events(session_id)
        raw = await self._connection.execute("XRANGE", events, f"({cursor}", "+", "COUNT", _PAGE)
        if not raw:
            (final, last) = await self._connection.pipeline_results(
                [("HGET", keys.run(session_id), "final"), ("XREVRANGE", events, "+", "-", "COUNT", 1)]
            )
            if isinstance(final, Exception) or isinstance(last, Exception):
                raise StorageUnavailable("Redis: the log cannot be read")
            if final is None:
                raise RunLost(session_id, "its data is gone from Redis")
            if final == b"1" and last and int(last[0][0].partition(b"-")[0]) <= cursor:
                raw = last
        return [LogEntry(int(id.partition(b"-")[0]), fields[1]) for id, fields in pairs(raw)]


class RedisTail:
    """One reader's cursor: `ports.Tail`."""

    __slots__ = ("_feed", "_feeds", "_session_id", "cursor", "woken")

    def __init__(self, feeds: Feeds, feed: Feed, session_id: str, after: int, woken: Callable[[], None]) -> None:
        self._feeds = feeds
        self._feed = feed
        self._session_id = session_id
        self.cursor = after
        self.woken = woken

    @property
    def is_draining(self) -> bool:
        return self._feeds.is_draining

    def buffered(self) -> list[LogEntry] | None:
        entries = self._feed.since(self.cursor)
        if entries:
            self.cursor = entries[-1].id
        elif entries is not None and self._feed.is_local:
            self._feed.settle(self.cursor)
        else:
            return None
        return entries

    async def fetch(self) -> list[LogEntry]:
        """What the log holds. Who cannot be sure to be woken looks again."""
        await self._feeds.subscribe(self._session_id, self._feed)
        is_sure, turns = self._feed.is_local, self._feed.turns
        try:
            entries = await self._feeds.page(self._session_id, self.cursor)
        except StorageUnavailable:  # heartbeats go on, and when it is back so does the stream
            entries, is_sure = [], False
        if entries:
            self.cursor = entries[-1].id
        elif is_sure and self._feed.turns == turns:  # nobody else has written meanwhile
            self._feed.settle(self.cursor)
        elif not is_sure and self in self._feed.readers:
            self._feeds.look_later(self)
        return entries

    def close(self) -> None:
        self._feeds.leave(self, self._feed, self._session_id)


def pairs(raw: object) -> list[tuple[bytes, list[bytes]]]:
    """Stream entries as the driver gives them: raw lists, or with fields as a dict."""
    return [(id, list(fields) if isinstance(fields, list) else _flat(fields)) for id, fields in raw]  # type: ignore[attr-defined]


def _flat(fields: dict[bytes, bytes]) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]
