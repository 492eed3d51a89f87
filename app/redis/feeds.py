"""The readers of event logs in this process: a reader is a cursor and a callback, so a slow one costs nothing more.

The entries of a run that this process writes are kept in memory until its readers have them, so that those readers do
not read from Redis what the process has just written. For a run without readers only the id is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from app.errors import RunLost, StorageUnavailable
from app.ports.journal import LogEntry
from app.redis import keys
from app.redis.log_entries import end_marker, last_id, log_entries
from app.redis.wake_ups import WakeUps
from app.redis.wire.connection import Connection

_MAX_BUFFERED_ENTRIES = 256
_PAGE_ENTRIES = 100
_POLL_SECONDS = 2.0
"""How often readers are notified that may have missed a wake-up: a message of another process can be lost."""


class Feed:
    """What this process knows of the log of one run that is read here, or that was created here a moment ago.

    `is_local`: this process writes the run, so that every new entry is published here. `is_subscribed`: the wake-ups of
    other processes are subscribed to. `ownership_changes` counts how often this process adopted or released the run.
    """

    __slots__ = ("_entries", "_floor", "is_local", "is_subscribed", "ownership_changes", "readers")

    def __init__(self, *, is_local: bool) -> None:
        self.is_local = is_local
        self.is_subscribed = False
        self.ownership_changes = 0
        self.readers: list[RedisTail] = []
        self._entries: deque[LogEntry] | None = None
        self._floor: int | None = None  # every entry with a greater id is in `_entries`

    def adopt(self) -> None:
        """This process writes the run from now on. The readers read from Redis once more, since the wake-up for the
        last entries of the former owner may be lost."""
        self.is_local, self.is_subscribed = True, False
        self.ownership_changes += 1
        self._floor = self._entries = None
        self.notify()

    def release(self) -> None:
        """This process writes the run no longer. The readers can still take what is buffered."""
        self.is_local = False
        self.ownership_changes += 1
        self.notify()

    def publish(self, entries: Sequence[LogEntry]) -> None:
        """Buffer entries until all readers have them, and notify the readers."""
        if not entries:
            return
        if self._floor is None:
            self._floor = entries[0].id - 1
        if self._entries is None:
            self._entries = deque()
        self._entries.extend(entries)
        while len(self._entries) > _MAX_BUFFERED_ENTRIES:
            self._floor = self._entries.popleft().id
        self.notify()

    def mark_read(self, last_event_id: int) -> None:
        """Record that a reader has every entry, up to this id. Entries that all readers have are dropped."""
        if self._floor is None:
            self._floor = last_event_id
        if self._entries is not None and all(reader.last_event_id >= self._entries[-1].id for reader in self.readers):
            self._floor, self._entries = self._entries[-1].id, None

    def notify(self, _: bytes | None = None) -> None:
        """Notify all readers that there may be news. It is also the listener for the wake-ups of other processes."""
        for reader in tuple(self.readers):
            reader.on_news()

    def entries_after(self, last_event_id: int) -> list[LogEntry] | None:
        """Return the buffered entries after this id, or None where the log must be read from Redis."""
        if self._floor is None or last_event_id < self._floor:
            return None
        if self._entries is None:
            return []
        newer: list[LogEntry] = []
        for entry in reversed(self._entries):
            if entry.id <= last_event_id:
                break
            newer.append(entry)
        newer.reverse()
        return newer


class Feeds:
    """The feeds of all runs that this process writes or reads."""

    def __init__(self, connection: Connection, wake_ups: WakeUps) -> None:
        self._connection = connection
        self._wake_ups = wake_ups
        self._written: set[str] = set()
        self._feeds: dict[str, Feed] = {}
        self._polled_readers: set[RedisTail] = set()
        self._poll_timer: asyncio.TimerHandle | None = None
        self.is_draining = False

    @property
    def count(self) -> int:
        return len(self._feeds)

    @property
    def reader_count(self) -> int:
        return sum(len(feed.readers) for feed in self._feeds.values())

    def create(self, session_id: str, entries: Sequence[LogEntry]) -> None:
        """This process has created the run; its caller is about to read it.

        There can be readers already: Redis had the run before this process had the reply.
        """
        self.adopt(session_id)
        self._feeds.setdefault(session_id, Feed(is_local=True)).publish(entries)

    def adopt(self, session_id: str) -> None:
        """This process writes the run from now on."""
        self._written.add(session_id)
        feed = self._feeds.get(session_id)
        if feed is not None:
            feed.adopt()
            self._wake_ups.unsubscribe(session_id)

    def publish(self, session_id: str, entries: Sequence[LogEntry]) -> None:
        """Give the readers the entries that this process has committed."""
        feed = self._feeds.get(session_id)
        if feed is not None:
            feed.publish(entries)

    def release(self, session_id: str) -> None:
        """This process writes the run no longer; its readers are notified by Pub/Sub from now on."""
        self._written.discard(session_id)
        feed = self._feeds.get(session_id)
        if feed is not None:
            feed.release()
            if not feed.readers:
                del self._feeds[session_id]

    def drain(self) -> None:
        """End every reader without the end marker (CONTRACT §2.3)."""
        self.is_draining = True
        for feed in self._feeds.values():
            feed.notify()

    def tail(self, session_id: str, last_event_id: int, on_news: Callable[[], None]) -> RedisTail:
        """Add a reader. It is notified from now on, before it has read anything."""
        feed = self._feeds.get(session_id)
        if feed is None:
            feed = self._feeds[session_id] = Feed(is_local=session_id in self._written)
        reader = RedisTail(self, feed, session_id, last_event_id, on_news)
        feed.readers.append(reader)
        return reader

    def remove(self, reader: RedisTail, feed: Feed, session_id: str) -> None:
        """Remove a reader, and with the last one the feed; a no-op where it is removed already."""
        if reader in feed.readers:
            feed.readers.remove(reader)
        self._polled_readers.discard(reader)
        if not feed.readers and self._feeds.get(session_id) is feed:
            self._wake_ups.unsubscribe(session_id)
            feed.is_subscribed = False
            del self._feeds[session_id]

    async def subscribe(self, session_id: str, feed: Feed) -> None:
        """Subscribe to the wake-ups of other processes, unless this process writes the run. While Redis is unavailable
        the subscription is pending."""
        if not (feed.is_local or feed.is_subscribed) and feed.readers and self._wake_ups.is_ready:
            feed.is_subscribed = True
            with suppress(StorageUnavailable):
                await self._wake_ups.subscribe(session_id, feed.notify)

    def poll_later(self, reader: RedisTail) -> None:
        """Notify a reader after the poll interval, whether there is news or not."""
        self._polled_readers.add(reader)
        if self._poll_timer is None:
            self._poll_timer = asyncio.get_running_loop().call_later(_POLL_SECONDS, self._notify_polled)

    def _notify_polled(self) -> None:
        self._poll_timer = None
        readers, self._polled_readers = self._polled_readers, set()
        for reader in readers:
            reader.on_news()

    async def read_page(self, session_id: str, last_event_id: int, *, must_exist: bool = False) -> list[LogEntry]:
        """Return the next entries of the log; for an ended run without further entries the end marker again.

        Raises `RunLost` where the log has expired, or with `must_exist` lacks this event: a failover has lost it. Also
        raises `StorageUnavailable`.
        """
        for _ in range(2):
            page = await self._try_to_read(session_id, last_event_id, must_exist)
            if page is not None:
                return page
        raise RunLost(session_id, "its log has no end")

    async def _try_to_read(self, session_id: str, last_event_id: int, must_exist: bool) -> list[LogEntry] | None:
        """Read a page. None where the run ended in between: a master of a cluster that sends one of the commands on to
        another one, as while a slot moves, executes the later ones before it."""
        events = keys.events(session_id)
        # The id may be inside an entry.
        final, current, further = await self._connection.pipeline(
            [
                ("HGET", keys.run(session_id), "final"),
                ("XREVRANGE", events, last_event_id, "-", "COUNT", 1),
                ("XRANGE", events, f"({last_event_id}", "+", "COUNT", _PAGE_ENTRIES),
            ]
        )
        if must_exist and not (current and last_id(current[0]) >= last_event_id):
            raise RunLost(session_id, "its last events are gone from Redis")
        entries = log_entries([*current, *further], after=last_event_id)
        if entries:
            return entries
        if final is None:
            raise RunLost(session_id, "its data is gone from Redis")
        if final != b"1":
            return []
        end = end_marker(current)
        return None if end is None else [end]


class RedisTail:
    """The cursor of one reader: `ports.journal.Tail`. `on_news` is called whenever there may be news."""

    __slots__ = ("_feed", "_feeds", "_has_read", "_session_id", "last_event_id", "on_news")

    def __init__(
        self, feeds: Feeds, feed: Feed, session_id: str, last_event_id: int, on_news: Callable[[], None]
    ) -> None:
        self._feeds = feeds
        self._feed = feed
        self._session_id = session_id
        self._has_read = False  # then `last_event_id` is that of an event, and not what a client has sent
        self.last_event_id = last_event_id
        self.on_news = on_news

    @property
    def is_draining(self) -> bool:
        return self._feeds.is_draining

    def buffered(self) -> list[LogEntry] | None:
        entries = self._feed.entries_after(self.last_event_id)
        if entries:
            self.last_event_id, self._has_read = entries[-1].id, True
        elif entries is not None and self._feed.is_local:
            self._feed.mark_read(self.last_event_id)
        else:
            return None
        return entries

    async def fetch(self) -> list[LogEntry]:
        """Read the next entries from Redis. A reader that may miss a wake-up is notified again later."""
        await self._feeds.subscribe(self._session_id, self._feed)
        is_certain, changes = self._feed.is_local, self._feed.ownership_changes
        try:
            entries = await self._feeds.read_page(self._session_id, self.last_event_id, must_exist=self._has_read)
        except StorageUnavailable:  # the stream continues when Redis is available again; until then heartbeats are sent
            entries, is_certain = [], False
        if entries:
            self.last_event_id, self._has_read = entries[-1].id, True
        elif is_certain and self._feed.ownership_changes == changes:  # no other process has written in between
            self._feed.mark_read(self.last_event_id)
        elif not is_certain and self in self._feed.readers:
            self._feeds.poll_later(self)
        return entries

    def close(self) -> None:
        self._feeds.remove(self, self._feed, self._session_id)
