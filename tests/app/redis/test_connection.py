"""The connections to Redis: lost connections, silent servers, many commands at once, subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
import redis

from app.dev.chaos.link import Relay
from app.dev.demo.redis import RedisServer
from app.errors import StorageUnavailable
from app.redis.wire.connection import Connection
from app.redis.wire.pipeline import MAX_IN_FLIGHT
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


async def test_a_lost_connection_is_replaced(connection: Connection, redis_client: redis.Redis) -> None:
    await connection.execute("SET", "key", "value")
    redis_client.client_kill_filter(_type="normal", skipme=True)
    assert await connection.execute("GET", "key") == b"value"


@pytest.mark.parametrize("how", ["close", "silence"])
async def test_commands_without_a_reply_are_sent_once_more_and_not_again(
    redis_server: RedisServer, redis_client: redis.Redis, how: Literal["close", "silence"]
) -> None:
    """All of them are, and each caller gets its own reply."""
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


async def test_a_server_that_accepts_and_does_not_reply_makes_storage_unavailable() -> None:
    clients: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(lambda _, writer: clients.append(writer), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = Connection(f"redis://127.0.0.1:{port}", timeout_seconds=0.2)
        with pytest.raises(StorageUnavailable, match="Redis did not answer in time"):
            await connection.execute("PING")
        await connection.close()
        for client in clients:
            client.close()


@pytest.mark.slow
async def test_attempts_to_reach_a_server_that_is_gone_become_rare_and_its_return_is_noticed() -> None:
    with RedisServer(persistent=True) as server:
        connection = Connection(server.url, timeout_seconds=3)
        await connection.execute("PING")
        server.kill()
        attempts: list[asyncio.StreamWriter] = []

        async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            attempts.append(writer)
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", server.port):
            async with asyncio.timeout(10):
                for _ in range(300):
                    with pytest.raises(StorageUnavailable):
                        await connection.execute("PING")
                    await asyncio.sleep(0.01)
        assert 1 < len(attempts) < 100, "without pauses, each of the 300 commands would connect"
        server.start()
        until = asyncio.get_running_loop().time() + 10
        while asyncio.get_running_loop().time() < until:
            with suppress(StorageUnavailable):
                assert await connection.execute("PING")
                break
            await asyncio.sleep(0.02)
        else:
            pytest.fail("the server is back, and not used")
        await connection.close()


async def test_closing_the_connection_to_a_cluster_fails_the_commands_in_flight() -> None:
    with RedisServer("--cluster-enabled", "yes") as server:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        connection = Connection(server.url, timeout_seconds=30)
        await connection.execute("PING")
        assert connection.stats().is_cluster
        server.pause()
        waiting = asyncio.create_task(connection.execute("PING"))
        await eventually(lambda: connection.stats().in_flight)
        await connection.close()
        with pytest.raises(StorageUnavailable, match="closed"):
            await waiting
        server.resume()


@pytest.mark.slow
async def test_keys_are_found_on_a_server_and_on_every_master_of_a_cluster() -> None:
    names = {f"aura:audit:{{{number}}}:x".encode() for number in range(3000)}
    with (
        RedisServer() as server,
        RedisServer("--cluster-enabled", "yes") as one,
        RedisServer("--cluster-enabled", "yes") as other,
    ):
        clients: list[Any] = [redis.Redis.from_url(node.url) for node in (one, other)]
        clients[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8000)
        clients[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8001, 16383)
        clients[1].execute_command("CLUSTER", "SET-CONFIG-EPOCH", 2)
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", clients[1].connection_pool.connection_kwargs["port"])
        await eventually(lambda: all(node.cluster("info")["cluster_state"] == "ok" for node in clients))
        for node in (server, one):
            connection = Connection(node.url, timeout_seconds=10)
            assert await connection.find_keys("aura:audit:*") == []
            every = [*names, b"aura:other"]
            for first in range(0, len(every), 50):
                await connection.pipeline([("SET", name, 1) for name in every[first : first + 50]])
            found = await connection.find_keys("aura:audit:*")
            assert {*found} == names
            assert len(found) == len(names)
            await connection.close()
        assert all(client.dbsize() for client in clients), "both masters hold keys"
        for client in clients:
            client.close()


class Encrypted(Relay):
    """Redis behind TLS."""

    def __init__(self, port: int, certificate: Certificate) -> None:
        super().__init__("127.0.0.1", port)
        self._certificate = certificate

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._certificate.server)


async def test_an_address_can_name_tls_a_password_and_a_database(tmp_path: Path) -> None:
    certificate = Certificate.create(tmp_path / "server.pem")
    with RedisServer("--requirepass", "secret") as server:
        async with Encrypted(server.port, certificate) as relay:
            address = f"rediss://:secret@127.0.0.1:{relay.port}/3?ssl_ca_certs={certificate.path}"
            connection = Connection(address, timeout_seconds=3)
            pubsub, received = PubSub(connection, "node-x", timeout_seconds=3), list[bytes | None]()
            await pubsub.start()
            await pubsub.subscribe("news", received.append)
            large = b"x" * 1_000_000
            assert await connection.pipeline_results([("SET", "key", large), ("GET", "key")]) == [b"OK", large]
            assert b"db=3" in await connection.execute("CLIENT", "INFO")
            relay.break_all()
            await eventually(lambda: received == [None, None])  # subscribed again
            await connection.execute("PUBLISH", "news", "one")
            await eventually(lambda: b"one" in received)
            await pubsub.stop()
            await connection.close()


async def test_thousands_of_commands_at_once_get_their_replies_over_one_connection(
    connection: Connection, redis_client: redis.Redis
) -> None:
    before = len(redis_client.client_list())
    numbers = [str(number).encode() for number in range(5000)]
    await connection.execute("PING")
    tasks = [asyncio.create_task(connection.execute("ECHO", number)) for number in numbers]
    await asyncio.sleep(0)
    assert connection.stats().in_flight == MAX_IN_FLIGHT
    tasks[0].cancel()  # it is sent already
    tasks[-1].cancel()  # it is queued
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    assert replies[1:-1] == numbers[1:-1]
    assert len(redis_client.client_list()) <= before + 1


async def test_a_command_that_cannot_be_encoded_fails_for_its_caller_only(connection: Connection) -> None:
    """Although both would be sent together."""
    commands = [connection.execute("ECHO", word) for word in ("\ud800", "hello")]
    replies = await asyncio.gather(*commands, return_exceptions=True)
    assert isinstance(replies[0], UnicodeEncodeError)
    assert replies[1] == b"hello"


async def test_unsubscribing_ends_the_wait_for_the_acknowledgement(connection: Connection) -> None:
    pubsub = PubSub(connection, "node-x", timeout_seconds=3)  # not started: there is no acknowledgement
    waiting = asyncio.create_task(pubsub.subscribe("news", lambda _: None))
    await asyncio.sleep(0)  # now it waits
    pubsub.unsubscribe("news")
    await waiting  # otherwise it raises


async def test_a_subscription_that_could_not_be_sent_is_made_after_the_reconnect(
    connection: Connection, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_connect, listen = asyncio.Event(), connection.listen
    may_connect.set()

    async def later(*callbacks: Any) -> RedisProtocol:
        await may_connect.wait()
        return await listen(*callbacks)

    monkeypatch.setattr(connection, "listen", later)
    pubsub = PubSub(connection, "node-x", timeout_seconds=0.2)
    await pubsub.start()
    await eventually(lambda: pubsub.is_connected)
    may_connect.clear()
    redis_client.client_kill_filter(_type="pubsub")
    await eventually(lambda: not pubsub.is_connected)
    received: list[bytes | None] = []
    with pytest.raises(StorageUnavailable):
        await pubsub.subscribe("news", received.append)
    may_connect.set()
    await eventually(lambda: redis_client.pubsub_channels("news"))
    redis_client.publish("news", "one")
    await eventually(lambda: b"one" in received)
    await pubsub.stop()


async def test_a_channel_is_unsubscribed_unless_it_is_subscribed_again(
    connection: Connection, redis_client: redis.Redis
) -> None:
    pubsub = PubSub(connection, "node-x", timeout_seconds=3)
    await pubsub.start()
    received: list[bytes | None] = []
    for name in ("kept", "unsubscribed", "again"):
        await pubsub.subscribe(name, received.append)
    pubsub.unsubscribe("unsubscribed")
    pubsub.unsubscribe("again")
    await pubsub.subscribe("again", received.append)
    await eventually(lambda: not redis_client.pubsub_channels("unsubscribed"))
    assert set(redis_client.pubsub_channels()) >= {"kept", "again"}
    redis_client.publish("again", "one")
    await eventually(lambda: b"one" in received)
    await pubsub.stop()
