"""What the connection to Redis makes of its own breaking in the moment of a write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
import redis

from app.dev.chaos.link import Relay
from app.dev.demo.redis import RedisServer
from app.errors import StorageUnavailable
from app.redis.wire.connection import _MOST, Connection
from app.redis.wire.protocol import RedisProtocol
from app.redis.wire.pubsub import PubSub
from tests.harness.certificate import Certificate
from tests.harness.redis_proxy import RedisProxy
from tests.harness.waiting import eventually


@pytest.fixture
async def connection(redis_server: RedisServer, redis_client: redis.Redis) -> AsyncIterator[Connection]:
    connection = Connection(redis_server.url, timeout_seconds=3)
    yield connection
    await connection.close()


async def test_a_connection_that_died_meanwhile_is_replaced(connection: Connection, redis_client: redis.Redis) -> None:
    await connection.execute("SET", "key", "value")
    redis_client.client_kill_filter(_type="normal", skipme=True)
    assert await connection.execute("GET", "key") == b"value"


@pytest.mark.parametrize("how", ["close", "silence"])
async def test_what_was_not_answered_is_asked_once_more_and_no_more(
    redis_server: RedisServer, redis_client: redis.Redis, how: Literal["close", "silence"]
) -> None:
    """All of it, and each has his own answer."""
    async with RedisProxy(redis_server.port) as proxy:
        connection = Connection(proxy.url, timeout_seconds=0.5)
        await connection.execute("PING")
        proxy.drop_replies(b"word-7", how=how)
        words = [f"word-{number}".encode() for number in range(10)]
        assert await asyncio.gather(*(connection.execute("ECHO", word) for word in words)) == words
        assert proxy.dropped_replies == 1
        proxy.drop_replies(b"word-7", times=2, how=how)
        with pytest.raises(StorageUnavailable):
            await connection.execute("ECHO", b"word-7")
        assert await connection.execute("ECHO", b"word-8") == b"word-8"
        await connection.close()


async def test_a_server_that_accepts_and_does_not_answer_is_not_waited_for() -> None:
    clients: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(lambda _, writer: clients.append(writer), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = Connection(f"redis://127.0.0.1:{port}", timeout_seconds=0.2)
        with pytest.raises(StorageUnavailable, match="no answer in time"):
            await connection.execute("PING")
        await connection.close()
        for client in clients:
            client.close()


async def test_who_waits_for_a_cluster_that_is_left_waits_no_longer(connection: Connection) -> None:
    class Silent:
        async def execute_command(self, *_: Any) -> None:
            await asyncio.Event().wait()

        async def aclose(self) -> None:
            pass

    connection._cluster = Silent()  # type: ignore[assignment]
    waiting = asyncio.create_task(connection.execute("PING"))
    await eventually(lambda: connection._under_way)
    await connection.close()
    await eventually(waiting.done)
    with pytest.raises(StorageUnavailable, match="closed"):
        await waiting


class Encrypted(Relay):
    """Redis behind TLS."""

    def __init__(self, port: int, certificate: Certificate) -> None:
        super().__init__("127.0.0.1", port)
        self._certificate = certificate

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._certificate.server)


async def test_an_address_may_ask_for_tls_a_password_and_a_database(tmp_path: Path) -> None:
    certificate = Certificate.create(tmp_path / "server.pem")
    with RedisServer("--requirepass", "secret") as server:
        async with Encrypted(server.port, certificate) as relay:
            address = f"rediss://:secret@127.0.0.1:{relay.port}/3?ssl_ca_certs={certificate.path}"
            connection = Connection(address, timeout_seconds=3)
            pubsub, heard = PubSub(connection, "node-x", timeout_seconds=3), list[bytes | None]()
            await pubsub.start()
            await pubsub.subscribe("news", heard.append)
            large = b"x" * 1_000_000
            assert await connection.pipeline_results([("SET", "key", large), ("GET", "key")]) == [b"OK", large]
            assert b"db=3" in await connection.execute("CLIENT", "INFO")
            relay.break_all()
            await eventually(lambda: heard == [None, None])  # subscribed anew
            await connection.execute("PUBLISH", "news", "one")
            await eventually(lambda: b"one" in heard)
            await pubsub.stop()
            await connection.close()


async def test_thousands_ask_at_once_and_all_are_answered_over_one_connection(
    connection: Connection, redis_client: redis.Redis
) -> None:
    before = len(redis_client.client_list())
    numbers = [str(number).encode() for number in range(5000)]
    asked = [asyncio.create_task(connection.execute("ECHO", number)) for number in numbers]
    await asyncio.sleep(0)
    assert connection._under_way <= _MOST
    asked[0].cancel()  # said already
    asked[-1].cancel()  # not yet
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert answers[1:-1] == numbers[1:-1]
    assert len(redis_client.client_list()) <= before + 1


async def test_what_cannot_be_said_to_redis_is_its_callers_own_error(connection: Connection) -> None:
    """Though both would go out together."""
    said = [connection.execute("ECHO", word) for word in ("\ud800", "hello")]
    answers = await asyncio.gather(*said, return_exceptions=True)
    assert isinstance(answers[0], UnicodeEncodeError)
    assert answers[1] == b"hello"


async def test_who_waits_for_a_subscription_that_is_wanted_no_more_waits_no_longer(connection: Connection) -> None:
    pubsub = PubSub(connection, "node-x", timeout_seconds=3)  # not started: nobody will acknowledge
    waiting = asyncio.create_task(pubsub.subscribe("news", lambda _: None))
    await eventually(lambda: "news" in pubsub._awaited)
    pubsub.unsubscribe("news")
    await waiting  # else it raises


async def test_a_subscription_that_could_not_be_sent_is_made_up_for(
    connection: Connection, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    pubsub, may_connect, listen = (
        PubSub(connection, "node-x", timeout_seconds=0.2),
        asyncio.Event(),
        connection.listen,
    )

    async def later(*told: Any) -> RedisProtocol:
        await may_connect.wait()
        return await listen(*told)

    await pubsub.start()
    await eventually(lambda: pubsub._line)
    monkeypatch.setattr(connection, "listen", later)
    redis_client.client_kill_filter(_type="pubsub")
    await eventually(lambda: pubsub._line is None)
    heard: list[bytes | None] = []
    with pytest.raises(StorageUnavailable):
        await pubsub.subscribe("news", heard.append)
    may_connect.set()
    await eventually(lambda: redis_client.pubsub_channels("news"))
    redis_client.publish("news", "one")
    await eventually(lambda: b"one" in heard)
    await pubsub.stop()


async def test_the_server_hears_of_what_is_wanted_no_more_but_not_of_what_is_wanted_again(
    connection: Connection, redis_client: redis.Redis
) -> None:
    pubsub = PubSub(connection, "node-x", timeout_seconds=3)
    await pubsub.start()
    heard: list[bytes | None] = []
    for name in ("kept", "left", "again"):
        await pubsub.subscribe(name, heard.append)
    pubsub.unsubscribe("left")
    pubsub.unsubscribe("again")
    await pubsub.subscribe("again", heard.append)
    await eventually(lambda: not redis_client.pubsub_channels("left"))
    assert set(redis_client.pubsub_channels()) >= {"kept", "again"}
    redis_client.publish("again", "one")
    await eventually(lambda: b"one" in heard)
    await pubsub.stop()
