"""The log of domain events in Redis: which entries are deleted when it is full."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from app.clock import SystemClock
from app.dev.demo.redis import RedisServer
from app.ports.knowledge import Vector, WorkspaceEvent
from app.redis import keys
from app.redis.knowledge import RedisKnowledgeLog
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from tests.harness.knowledge import MODEL

MakeLog = Callable[..., RedisKnowledgeLog]
LOG, SEEN = keys.knowledge_log("t1"), keys.knowledge_seen("t1")
MEGABYTE = 1024 * 1024
DAY_SECONDS = 86_400


@pytest.fixture
async def make(redis_server: RedisServer, redis_client: redis.Redis) -> AsyncIterator[MakeLog]:
    connection = Connection(redis_server.url, timeout_seconds=3)
    pubsub = PubSub(connection, "node-x", timeout_seconds=3)

    def log(max_events: int = 1000, max_bytes: int = MEGABYTE) -> RedisKnowledgeLog:
        limits: dict[str, Any] = {"max_events": max_events, "max_bytes": max_bytes, "retention_seconds": DAY_SECONDS}
        return RedisKnowledgeLog(connection, pubsub, "node-x", SystemClock(), channels=(), **limits)

    yield log
    await connection.close()


@pytest.fixture
def one_millisecond(redis_client: redis.Redis) -> int:
    """The millisecond of all entries written afterwards, as after the clock of Redis was set back."""
    ms = int(time.time() * 1000) + 60_000
    redis_client.xadd(LOG, {"v": "gone", "m": MODEL, "b": "12"}, id=f"{ms}-0")
    return ms


def events(count: int, at: int = 0, characters: int = 10) -> list[WorkspaceEvent]:
    text = "가" * characters
    return [WorkspaceEvent(f"e{n}", "t1", "mail", ("mail",), "u1", n, "견적", text) for n in range(at, at + count)]


def ids(client: redis.Redis) -> list[str]:
    """Returns the ids of the events in the log."""
    return [json.loads(event)[0] for event in fields(client, "e")]


def fields(client: redis.Redis, name: str) -> list[str]:
    entries: Any = client.xrange(LOG)
    return [entry[name] for _, entry in entries if name in entry]


def names(*numbers: int) -> list[str]:
    return [f"e{n}" for n in numbers]


async def test_the_newest_events_are_kept_even_within_one_millisecond(
    make: MakeLog, redis_client: redis.Redis, one_millisecond: int
) -> None:
    assert await make(max_events=3).accept(events(12)) == [True] * 12
    assert ids(redis_client) == redis_client.zrange(SEEN, 0, -1) == names(9, 10, 11)
    assert await make(max_events=3).first_position("t1") == (one_millisecond, 10)


async def test_the_newest_bytes_are_kept_even_within_one_millisecond(
    make: MakeLog, redis_client: redis.Redis, one_millisecond: int
) -> None:
    await make().accept(events(200, characters=4500))  # 2.6 MB
    size = redis_client.memory_usage(LOG, samples=0) or 0
    assert 0.95 * MEGABYTE < size < 1.02 * MEGABYTE
    kept = ids(redis_client)
    assert kept == redis_client.zrange(SEEN, 0, -1) == names(*range(200 - len(kept), 200))


async def test_vectors_are_deleted_with_their_event_and_not_before(
    make: MakeLog, redis_client: redis.Redis, one_millisecond: int
) -> None:
    log = make(max_events=3)
    for n in range(5):
        await log.accept(events(1, at=n))
        await log.save_vectors("t1", [Vector(f"e{n}", MODEL, b"12")])
    assert ids(redis_client) == fields(redis_client, "v") == names(2, 3, 4)
    summary = await log.summary("t1")
    assert (summary.events, summary.vectors) == (3, 3)
    assert summary.oldest == pytest.approx(one_millisecond / 1000, abs=0.001)


async def test_entries_of_an_older_release_are_deleted_first_and_no_newer_ones(
    make: MakeLog, redis_client: redis.Redis, one_millisecond: int
) -> None:
    """During a deployment: the older release stores scores in whole milliseconds."""
    log = make(max_events=4)
    await log.accept(events(3))
    redis_client.zadd(SEEN, dict.fromkeys(names(0, 1, 2), one_millisecond))
    await log.accept(events(3, at=3))
    assert set(redis_client.zrange(SEEN, 0, -1)) == {*names(2, 3, 4, 5)} <= {*ids(redis_client)}
    await log.accept(events(1, at=6))
    assert ids(redis_client) == redis_client.zrange(SEEN, 0, -1) == names(3, 4, 5, 6)
