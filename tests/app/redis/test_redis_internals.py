"""The private names of redis-py: which are missing, and how the service works without them."""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis
import pytest
import redis
from redis.asyncio.connection import AbstractConnection, DefaultParser
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.errors import StorageUnavailable
from app.redis.wire import redis_internals
from app.redis.wire.connection import Connection
from app.redis.wire.driver_protocol import report_missing
from app.redis.wire.pubsub import PubSub
from app.redis.wire.redis_internals import missing_names
from tests.harness.frames import answer, check
from tests.harness.raw import MakeSettings, read_stream
from tests.harness.redis_proxy import RedisProxy
from tests.harness.service import running
from tests.harness.waiting import eventually


def test_all_names_are_there() -> None:
    """Fails where a new redis-py has moved a name: see `app/redis/wire/redis_internals.py`."""
    missing = missing_names()
    assert not missing, f"this redis-py lacks {missing}: commands take the slower way through redis-py"
    assert hasattr(hiredis, "PushNotification"), (
        "this hiredis does not mark push messages: they would be taken for replies"
    )


def test_a_missing_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(AbstractConnection, "_writer")
    monkeypatch.delattr(next(owner for owner in DefaultParser.__mro__ if "parse_error" in vars(owner)), "parse_error")
    assert missing_names() == ["AbstractConnection._writer", "DefaultParser.parse_error"]


@pytest.fixture
def without_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_internals, "missing_names", lambda: ["AbstractConnection._writer"])


@pytest.mark.usefixtures("without_names")
async def test_without_the_names_commands_go_through_redis_py(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    connection = Connection(redis_server.url, timeout_seconds=3)
    numbers = [str(number).encode() for number in range(2000)]
    assert await asyncio.gather(*(connection.execute("ECHO", number) for number in numbers)) == numbers
    with pytest.raises(StorageUnavailable, match="Redis refused a command") as caught:
        await connection.execute("SET", "key", "value"), await connection.execute("LLEN", "key")
    assert "WRONGTYPE" in caught.value.log_cause
    redis_client.client_kill_filter(_type="normal", skipme=True)
    assert await connection.execute("GET", "key") == b"value"
    await connection.close()
    with pytest.raises(StorageUnavailable):
        await Connection("redis://127.0.0.1:1", timeout_seconds=0.2).execute("PING")


@pytest.mark.usefixtures("without_names")
async def test_without_the_names_a_silent_connection_is_replaced(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    async with RedisProxy(redis_server.port) as proxy:
        connection = Connection(proxy.url, timeout_seconds=0.5)
        await connection.execute("PING")
        proxy.drop_replies(b"word-7", how="silence")
        words = [f"word-{number}".encode() for number in range(10)]
        assert await asyncio.gather(*(connection.execute("ECHO", word) for word in words)) == words
        await connection.close()


@pytest.mark.usefixtures("without_names")
async def test_without_the_names_messages_arrive(redis_server: RedisServer, redis_client: redis.Redis) -> None:
    connection, received = Connection(redis_server.url, timeout_seconds=3), list[Any]()
    pubsub = PubSub(connection, "node-x", timeout_seconds=3)
    await pubsub.start()
    await pubsub.subscribe("news", received.append)
    redis_client.client_kill_filter(_type="pubsub")
    await eventually(lambda: received == [None, None])  # subscribed again
    redis_client.publish("news", "one")
    await eventually(lambda: b"one" in received)
    await pubsub.stop()
    await connection.close()


@pytest.mark.usefixtures("without_names")
async def test_without_the_names_a_run_is_streamed(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="안녕하세요."))
    report_missing.cache_clear()
    with capture_logs() as logs:
        async with running(settings()) as aura:
            _, frames = await read_stream(aura)
    check(frames)
    assert answer(frames) == "안녕하세요."
    (warning,) = [line for line in logs if line["event"] == "redis.fallback_chosen"]
    assert (warning["library"], warning["missing"]) == ("redis", ["AbstractConnection._writer"])
