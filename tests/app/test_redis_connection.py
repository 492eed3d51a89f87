"""What the connection to Redis makes of its own breaking in the moment of a write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import pytest
import redis

from app.demo.redis import RedisServer
from app.errors import StorageUnavailable
from app.redis.channels import Channels
from app.redis.connection import Connection
from tests.harness.waiting import eventually


@pytest.fixture
async def connection(redis_server: RedisServer, redis_client: redis.Redis) -> AsyncIterator[Connection]:
    connection = Connection(redis_server.url, timeout_seconds=3)
    yield connection
    await connection.close()


async def closed(*_: Any, **__: Any) -> NoReturn:
    """As uvloop says it."""
    raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")


async def test_a_transport_that_closed_meanwhile_is_replaced(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.call("PING")
    (idle,) = connection._idle
    send = idle.send_packed_command
    broken: list[Any] = []

    async def once(*args: Any, **kwargs: Any) -> None:
        if not broken:
            broken.append(args)
            await closed()
        await send(*args, **kwargs)

    monkeypatch.setattr(idle, "send_packed_command", once)
    assert await connection.call("PING") in (b"PONG", True)
    assert broken


async def test_one_that_closes_again_and_again_is_storage_that_is_away(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.call("PING")
    monkeypatch.setattr(connection._idle[0], "send_packed_command", closed)
    with pytest.raises(StorageUnavailable, match="the handler is closed"):
        await connection.call("PING")


async def test_what_cannot_be_said_to_redis_is_its_callers_own_error(connection: Connection) -> None:
    """Though both would go out together."""
    said = [connection.call("ECHO", word) for word in ("\ud800", "hello")]
    answers = await asyncio.gather(*said, return_exceptions=True)
    assert isinstance(answers[0], UnicodeEncodeError)
    assert answers[1] == b"hello"


async def test_who_waits_for_a_subscription_that_is_wanted_no_more_waits_no_longer(connection: Connection) -> None:
    channels = Channels(connection, "node-x", timeout_seconds=3)  # not started: nobody will acknowledge
    waiting = asyncio.create_task(channels.subscribe("news", lambda _: None))
    await eventually(lambda: "news" in channels._awaited)
    channels.unsubscribe("news")
    await waiting  # else it raises


async def test_a_subscription_that_could_not_be_sent_is_made_up_for(
    connection: Connection, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = Channels(connection, "node-x", timeout_seconds=0.2)
    await channels.start()
    await eventually(lambda: channels._is_connected)
    heard: list[bytes | None] = []
    with monkeypatch.context() as broken:
        broken.setattr(channels._line, "send_command", closed)
        with pytest.raises(StorageUnavailable):
            await channels.subscribe("news", heard.append)
    await channels._line.disconnect()  # as a transport that is closed soon is
    await eventually(lambda: redis_client.pubsub_channels("news"))
    redis_client.publish("news", "one")
    await eventually(lambda: b"one" in heard)
    await channels.stop()
