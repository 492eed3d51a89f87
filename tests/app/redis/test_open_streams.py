"""A node writes a user's number of streams to Redis when it reports, not when a stream is opened or closed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis

from app.dev.demo.redis import RedisServer
from app.redis.open_streams import RedisStreamQuota
from app.redis.wire.connection import Connection
from tests.harness.waiting import eventually


@pytest.fixture
async def quota(redis_server: RedisServer) -> AsyncIterator[RedisStreamQuota]:
    connection = Connection(redis_server.url, timeout_seconds=2)
    quota = RedisStreamQuota(connection, lambda: "node-a1b2c3d4", max_streams=100)
    yield quota
    await quota.stop()
    await connection.close()


def numbers(redis_client: redis.Redis) -> list[str]:
    return [str(number) for key in redis_client.keys("aura:{u1}:streams:*") for number in redis_client.hvals(str(key))]


@pytest.mark.slow
async def test_streams_that_end_before_the_report_are_not_written(
    quota: RedisStreamQuota, redis_client: redis.Redis
) -> None:
    for _ in range(5):
        await quota.open("t1", "u1")
        quota.close("t1", "u1")
    await quota.open("t1", "u1")
    assert numbers(redis_client) == []  # nothing reports yet
    await quota.start()
    assert await eventually(lambda: numbers(redis_client)) == ["1"]
    quota.close("t1", "u1")
    await eventually(lambda: numbers(redis_client) == [])
