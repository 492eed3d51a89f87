"""What readers get without a request to Redis, and what they get where a run ends while they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

from app.clock import SystemClock
from app.dev.demo.redis import RedisServer
from app.errors import RunLost
from app.ports.journal import LogEntry
from app.redis import keys
from app.redis.checkpoints import Checkpoints
from app.redis.feeds import Feeds
from app.redis.run_index import RedisRunIndex
from app.redis.wake_ups import WakeUps
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from app.redis.wire.script import Command
from statemachine.frames import DONE_BODY
from statemachine.packed_frames import pack
from tests.harness.stored import seals

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


THOUGHT = b'event: thought\ndata: {"type":"thought"}\n\n'


class RedirectedConnection(Connection):
    """Executes the first command of a pipeline last, as in a cluster where another master has its key already."""

    def __init__(self, url: str, meanwhile: Callable[[], None]) -> None:
        super().__init__(url, timeout_seconds=3)
        self._meanwhile = meanwhile

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        first, *others = commands
        replies = await super().pipeline(others)
        self._meanwhile()
        return [*await super().pipeline([first]), *replies]


class StoredLog:
    """The log of a run in Redis, as the journal writes it."""

    def __init__(self, redis_client: redis.Redis) -> None:
        self._redis = redis_client
        self.append(101, THOUGHT)
        self._redis.hset(keys.run(SESSION), "final", 0)

    def append(self, id: int, *bodies: bytes) -> None:
        self._redis.xadd(keys.events(SESSION), {"b": pack(bodies)}, id=f"{id}-0")

    def end(self) -> None:
        """End the run, once."""
        if self._redis.hget(keys.run(SESSION), "final") == "0":
            self.append(103, THOUGHT, DONE_BODY)
            self.set_final()

    def set_final(self) -> None:
        self._redis.hset(keys.run(SESSION), "final", 1)


@pytest.fixture
def stored(redis_client: redis.Redis) -> StoredLog:
    return StoredLog(redis_client)


def feeds_on(connection: Connection) -> Feeds:
    return Feeds(connection, WakeUps(connection, PubSub(connection, "node-x", timeout_seconds=3)))


@pytest.mark.slow
async def test_a_run_that_ends_while_its_log_is_read_repeats_no_event(
    redis_server: RedisServer, stored: StoredLog
) -> None:
    connection = RedirectedConnection(redis_server.url, stored.end)
    tail = feeds_on(connection).tail(SESSION, 101, lambda: None)
    assert await tail.fetch() == [LogEntry(103, THOUGHT), LogEntry(104, DONE_BODY)]
    assert await tail.fetch() == [LogEntry(104, DONE_BODY)]  # a reader that has everything gets the end marker again
    tail.close()
    await connection.close()


async def test_a_run_that_ends_while_it_is_read_is_not_taken_for_read(
    redis_server: RedisServer, stored: StoredLog
) -> None:
    connection = RedirectedConnection(redis_server.url, stored.end)
    checkpoints = Checkpoints(connection, seals().checkpoints, SystemClock(), [], retention_seconds=60)
    index = RedisRunIndex(connection, checkpoints, retention_seconds=60)
    assert await index.end_id(SESSION) is None
    assert await index.end_id(SESSION) == 104
    await connection.close()


async def test_a_log_without_its_end_is_lost_and_repeats_no_event(redis_server: RedisServer, stored: StoredLog) -> None:
    stored.set_final()
    connection = Connection(redis_server.url, timeout_seconds=3)
    tail = feeds_on(connection).tail(SESSION, 101, lambda: None)
    with pytest.raises(RunLost, match="its log has no end"):
        await tail.fetch()
    tail.close()
    await connection.close()
