"""What readers of this process's own runs get without a request to Redis."""

from __future__ import annotations

from app.dev.demo.redis import RedisServer
from app.ports.journal import LogEntry
from app.redis.feeds import Feeds
from app.redis.wake_ups import WakeUps
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub

SESSION = "session_u1_1706156400_a2ef"


async def test_a_reader_that_comes_before_the_reply_to_the_creation_gets_all_entries(redis_server: RedisServer) -> None:
    """They come from memory: Redis does not have this run."""
    connection = Connection(redis_server.url, timeout_seconds=3)
    feeds = Feeds(connection, WakeUps(connection, PubSub(connection, "node-x", timeout_seconds=3)))
    wakes: list[None] = []
    early = feeds.tail(SESSION, 0, lambda: wakes.append(None))
    created, committed = LogEntry(1, b"created"), LogEntry(2, b"committed")
    feeds.create(SESSION, [created])
    assert wakes
    assert early.buffered() == [created]
    wakes.clear()
    feeds.publish(SESSION, [committed])
    assert wakes
    assert early.buffered() == [committed]
    early.close()
    await connection.close()
