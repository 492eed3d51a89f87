"""A master with two replicas and three sentinels: the master is found and followed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from app.dev.demo.redis import RedisServer
from app.dev.demo.redis_deployments import MASTER_NAME, SentinelServer, SentinelServers, execute
from app.errors import StorageUnavailable
from app.ports.redis_address import RedisAddress, Server
from app.redis.wire.connection import Connection
from app.redis.wire.drivers import Drivers
from app.redis.wire.pubsub import PubSub
from app.redis.wire.sentinel import Sentinels
from tests.app.redis.test_cluster import keep_trying
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

OLD, NEW = Server("10.0.0.1", 6379), Server("10.0.0.2", 6379)


@pytest.fixture
def watched() -> Iterator[SentinelServers]:
    with SentinelServers() as servers:
        yield servers


@pytest.fixture
async def connection(watched: SentinelServers) -> AsyncIterator[Connection]:
    connection = Connection(watched.url, timeout_seconds=2)
    yield connection
    await connection.close()


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_the_new_master_is_followed(watched: SentinelServers, connection: Connection, how: str) -> None:
    pubsub, received = PubSub(connection, "node-x", timeout_seconds=2), list[bytes | None]()
    await pubsub.start()
    await pubsub.subscribe("news", received.append)
    await connection.execute("SET", "key", "before")
    first = watched.master()
    first.kill() if how == "killed" else first.pause()
    await eventually(lambda: watched.master() is not first)
    assert await keep_trying(connection, "SET", "key", "after") == b"OK"
    assert execute(watched.master(), "GET", "key") == "after"
    await eventually(lambda: len(received) == 2)  # subscribed again
    await connection.execute("PUBLISH", "news", "one")
    await eventually(lambda: b"one" in received)
    first.start() if how == "killed" else first.resume()
    await pubsub.stop()


async def test_a_switch_that_an_administrator_orders_is_followed_at_once(
    watched: SentinelServers, connection: Connection
) -> None:
    """The old master goes on and would answer: the news alone leads to the new one."""
    await connection.execute("SET", "key", "before")
    first = watched.master()
    execute(watched.sentinels[0], "SENTINEL", "FAILOVER", MASTER_NAME)
    await eventually(lambda: watched.master() is not first)
    await asyncio.sleep(1)
    assert await connection.execute("SET", "key", "after") == b"OK"
    assert execute(watched.master(), "GET", "key") == "after"


async def test_a_switch_is_followed_within_a_second_while_connections_to_a_hung_master_are_being_opened(
    watched: SentinelServers,
) -> None:
    """Sentinels with Redis's default settings notice a hung master after the timeout of this client only."""
    for sentinel in watched.sentinels:
        execute(sentinel, "SENTINEL", "SET", MASTER_NAME, "down-after-milliseconds", 30_000)
    connection = Connection(watched.url, timeout_seconds=4)
    pubsub, received = PubSub(connection, "node-x", timeout_seconds=4), list[bytes | None]()
    await pubsub.start()
    await pubsub.subscribe("news", received.append)
    separate = await connection.separate_pipeline("key")
    await separate.submit([("SET", "key", "before")])
    first = watched.master()
    first.pause()
    lost = asyncio.gather(connection.execute("PING"), separate.submit([("PING",)]), return_exceptions=True)
    await asyncio.sleep(6.5)  # silent for longer than the timeout: all three are being opened again
    assert not pubsub.is_connected
    execute(watched.sentinels[0], "SENTINEL", "FAILOVER", MASTER_NAME)
    await eventually(lambda: watched.master() is not first)
    async with asyncio.timeout(1):
        assert await connection.execute("SET", "key", "after") == b"OK"
        assert await separate.submit([("GET", "key")]) == [b"after"]
        await eventually(lambda: received == [None, None])
    assert connection.failovers == 1
    await lost
    await pubsub.stop()
    await connection.close()
    first.resume()


async def test_dead_and_hanging_sentinels_do_not_keep_the_master_from_being_found(watched: SentinelServers) -> None:
    watched.sentinels[0].kill()
    watched.sentinels[1].pause()
    connection = Connection(watched.url, timeout_seconds=2)
    assert await connection.execute("SET", "key", "value") == b"OK"
    await connection.close()
    watched.sentinels[1].resume()


@pytest.mark.parametrize(
    "answers", [[(5, OLD), (5, NEW), (5, NEW)], [(5, OLD), None, (6, NEW)], [(5, OLD), (5, OLD), (6, NEW)]]
)
async def test_the_newest_answer_counts_and_of_several_that_of_most_sentinels(
    answers: list[tuple[int, Server] | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As seen in a failover: one sentinel kept the earlier master under the same epoch as the others."""
    drivers = Drivers(RedisAddress.parse("redis+sentinel://a:1,b:2,c:3/aura"), timeout_seconds=1)
    sentinels = Sentinels(drivers, timeout_seconds=1, on_switch=lambda: None)
    given = iter(answers)

    async def query(*_: object) -> tuple[int, Server] | None:
        return next(given)

    tried: list[Server] = []

    async def opened(_: Drivers, server: Server, **__: object) -> None:
        tried.append(server)

    monkeypatch.setattr(Sentinels, "_query", query)
    monkeypatch.setattr(Drivers, "open", opened)
    await sentinels.open_master()
    assert tried == [NEW]
    await sentinels.close()


async def test_sentinels_that_know_no_such_master_make_storage_unavailable(watched: SentinelServers) -> None:
    connection = Connection(watched.url.replace(f"/{MASTER_NAME}", "/another"), timeout_seconds=1)
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match="Redis cannot be reached") as raised:
        await connection.execute("PING")
    assert time.monotonic() - started < 3
    assert "another" in raised.value.log_cause
    await connection.close()


async def test_passwords_of_servers_and_sentinels_are_used() -> None:
    with RedisServer("--requirepass", "m") as master:
        sentinel = SentinelServer("requirepass s", f"sentinel auth-pass {MASTER_NAME} m")
        sentinel.watch(master.port, quorum=1)
        with sentinel:
            address = f"redis+sentinel://:m@127.0.0.1:{sentinel.port}/{MASTER_NAME}"
            connection = Connection(f"{address}?sentinel_password=s", timeout_seconds=2)
            assert await connection.execute("SET", "key", "value") == b"OK"
            await connection.close()
            without = Connection(address, timeout_seconds=1)
            with pytest.raises(StorageUnavailable):
                await without.execute("PING")
            await without.close()
