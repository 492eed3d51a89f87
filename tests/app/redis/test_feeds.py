"""What readers of this process's own runs are given without asking Redis."""

from __future__ import annotations

from app.dev.demo.redis import RedisServer
from app.ports.journal import LogEntry
from app.redis.feeds import Feeds
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub


async def test_who_reads_a_run_before_its_creation_is_answered_goes_on_with_it(redis_server: RedisServer) -> None:
    """Redis, which would be asked for what did not pass through here, knows nothing of this run."""
    connection = Connection(redis_server.url, timeout_seconds=3)
    feeds = Feeds(connection, PubSub(connection, "node-x", timeout_seconds=3))
    wakes: list[None] = []
    early = feeds.tail("session", 0, lambda: wakes.append(None))
    created, committed = LogEntry(1, b"created"), LogEntry(2, b"committed")
    feeds.begin("session", [created])
    assert wakes
    assert early.buffered() == [created]
    wakes.clear()
    feeds.publish("session", [committed])
    assert wakes
    assert early.buffered() == [committed]
    early.close()
    await connection.close()
