"""Connections that are opened again: their pauses grow, and one that is being opened can be given up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from itertools import repeat
from typing import Any

import pytest

from app.dev.demo.redis import RedisServer
from app.errors import StorageUnavailable
from app.ports.redis_address import RedisAddress, Server
from app.redis.wire import sentinel as sentinel_module
from app.redis.wire import subscriber as subscriber_module
from app.redis.wire.connection import Connection
from app.redis.wire.drivers import Drivers
from app.redis.wire.listening import Listening
from app.redis.wire.pipeline import Pipeline
from app.redis.wire.protocol import RedisProtocol
from app.redis.wire.pubsub import PubSub
from app.redis.wire.sentinel import Sentinels
from app.redis.wire.sharded import ShardedPubSub
from app.redis.wire.subscriber import CLASSIC, Subscriber
from app.redis.wire.topology import Topology
from tests.harness.waiting import eventually

OLD, NEW = Server("10.0.0.1", 6379), Server("10.0.0.2", 6379)


class FakeProtocol(RedisProtocol):
    """A connection whose server reacts to what is sent in a way that a test sets."""

    def __init__(self, on_send: Callable[[], object]) -> None:
        self.send = lambda _: on_send()  # type: ignore[method-assign, assignment]

    def abort(self) -> None:
        pass


class FakeDriver:
    is_connected = True

    async def disconnect(self, *, nowait: bool) -> None:
        self.is_connected = not nowait


class Hanging:
    """Sentinels that name the old master, which accepts connections and does not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer, self.opened = OLD, list[Server]()
        self.switches = 0
        drivers = Drivers(RedisAddress.parse("redis+sentinel://a:1/aura"), timeout_seconds=1)
        self.sentinels = Sentinels(drivers, timeout_seconds=1, on_switch=self._on_switch)
        self.sentinels.start()

        async def query(*_: object) -> tuple[int, Server]:
            return 1, self.answer

        async def open_driver(_: Drivers, server: Server, **__: object) -> FakeDriver:
            self.opened.append(server)
            if server == OLD:
                await asyncio.Event().wait()
            return FakeDriver()

        async def open_sentinel(*_: object) -> FakeDriver:
            return FakeDriver()

        def attach(_: object, on_message: Callable[[Any], None], __: Callable[[], None]) -> RedisProtocol:
            self._on_message = on_message
            return FakeProtocol(lambda: None)

        monkeypatch.setattr(sentinel_module, "attach", attach)
        monkeypatch.setattr(Drivers, "open_sentinel", open_sentinel)
        monkeypatch.setattr(Sentinels, "_query", query)
        monkeypatch.setattr(Drivers, "open", open_driver)

    def announce(self, master: Server = NEW) -> None:
        self.answer = master
        news = f"aura {OLD.host} {OLD.port} {master.host} {master.port}"
        self._on_message([b"message", b"+switch-master", news.encode()])

    def _on_switch(self) -> None:
        self.switches += 1


@pytest.fixture
async def hanging(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hanging]:
    hanging = Hanging(monkeypatch)
    yield hanging
    await hanging.sentinels.close()


async def test_new_master_is_opened_at_once_while_the_old_one_hangs(hanging: Hanging) -> None:
    openings = [asyncio.create_task(hanging.sentinels.open_master()) for _ in range(3)]
    await eventually(lambda: len(hanging.opened) == 3, 5)
    for _ in range(3):  # every sentinel announces it
        hanging.announce()
    async with asyncio.timeout(1):
        await asyncio.gather(*openings)
    assert hanging.opened == [*repeat(OLD, 3), *repeat(NEW, 3)]
    assert hanging.switches == 1


async def test_new_master_that_is_found_before_it_is_announced_counts_once(hanging: Hanging) -> None:
    """The connections that are open or being opened leave the old one in that case, too."""
    first = asyncio.create_task(hanging.sentinels.open_master())
    await eventually(lambda: hanging.opened == [OLD], 5)
    assert hanging.switches == 0  # the first master is no failover
    hanging.answer = NEW
    async with asyncio.timeout(1):
        await hanging.sentinels.open_master()
        await first
    assert hanging.opened == [OLD, NEW, NEW]
    hanging.announce()
    assert hanging.switches == 1


async def test_opening_a_connection_can_be_cancelled(hanging: Hanging) -> None:
    pipeline = Pipeline(hanging.sentinels.open_master, timeout_seconds=10)
    waiting = pipeline.submit([("PING",)])
    await eventually(lambda: hanging.opened == [OLD], 5)
    async with asyncio.timeout(1):
        await pipeline.close()
    with pytest.raises(StorageUnavailable, match="closed"):
        await waiting
    assert hanging.opened == [OLD]


async def test_opening_a_connection_to_a_node_that_left_the_cluster_is_given_up(hanging: Hanging) -> None:
    listening = Listening(Drivers(RedisAddress.parse("redis://a"), timeout_seconds=10), None)
    opening = asyncio.create_task(listening.open([OLD], lambda _: None, lambda: None))
    await eventually(lambda: hanging.opened == [OLD], 5)
    listening.abort_unless_to([OLD, NEW])
    await asyncio.sleep(0.05)
    assert not opening.done()
    for _ in range(2):
        listening.abort_unless_to([NEW])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(opening), 1)
    assert opening.done()


def failures_of(module: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the failures in a row before each pause of a module; its pauses are short."""
    counted = list[int]()

    def pause(failures: int) -> float:
        counted.append(failures)
        return 0.001

    monkeypatch.setattr(module, "growing_pause", pause)
    return counted


@pytest.mark.parametrize("acknowledges", [False, True])
async def test_pauses_grow_until_a_subscription_is_acknowledged(
    acknowledges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts connections and closes them again is not opened ten times a second."""
    counted, loop = failures_of(subscriber_module, monkeypatch), asyncio.get_running_loop()

    async def open_listening(on_message: Callable[[Any], None], on_lost: Callable[[], None]) -> RedisProtocol:
        def on_send() -> None:
            if acknowledges:
                on_message([b"subscribe", b"pulse", 1])
            loop.call_soon(on_lost)

        return FakeProtocol(on_send)

    owner = PubSub(Connection("redis://a", timeout_seconds=1), "node-x", timeout_seconds=1)
    subscriber = Subscriber(open_listening, CLASSIC, owner, timeout_seconds=1, pulse="pulse")
    subscriber.start()
    await eventually(lambda: len(counted) >= 4, 5)
    await subscriber.stop()
    assert counted[:4] == ([1] * 4 if acknowledges else [1, 2, 3, 4])


@pytest.mark.parametrize("acknowledges", [False, True])
async def test_pauses_before_a_sentinel_is_tried_again_grow_until_it_acknowledges(
    acknowledges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, loop = failures_of(sentinel_module, monkeypatch), asyncio.get_running_loop()

    async def open_sentinel(*_: object) -> FakeDriver:
        return FakeDriver()

    def attach(_: object, on_message: Callable[[Any], None], on_lost: Callable[[], None]) -> RedisProtocol:
        def on_send() -> None:
            on_message([b"subscribe", b"+switch-master", 1] if acknowledges else ConnectionError())
            loop.call_soon(on_lost)

        return FakeProtocol(on_send)

    monkeypatch.setattr(Drivers, "open_sentinel", open_sentinel)
    monkeypatch.setattr(sentinel_module, "attach", attach)
    sentinels = Sentinels(
        Drivers(RedisAddress.parse("redis+sentinel://a:1/aura"), timeout_seconds=1),
        timeout_seconds=1,
        on_switch=lambda: None,
    )
    sentinels.start()
    await eventually(lambda: len(counted) >= 4, 5)
    await sentinels.close()
    assert counted[:4] == ([1] * 4 if acknowledges else [1, 2, 3, 4])


async def test_slot_without_a_master_requests_the_map_once_for_each_subscription() -> None:
    """The map itself is followed ten times a second while it is requested: a request by it would never end."""
    requests = list[None]()
    topology = Topology((None,) * 16384, frozenset(), 1, is_up=False)
    drivers = Drivers(RedisAddress.parse("redis://a"), timeout_seconds=1)
    pubsub = ShardedPubSub(drivers, topology, lambda: requests.append(None), timeout_seconds=0.05)
    with pytest.raises(StorageUnavailable):
        await pubsub.subscribe("news", lambda _: None)
    for _ in range(5):
        pubsub.follow(topology)
    assert len(requests) == 1
    await pubsub.close()


async def test_pubsub_uses_the_server_of_the_commands_where_several_are_no_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where it was connected to another one before that was known."""
    monkeypatch.setattr(random, "choice", lambda servers: servers[0])
    with RedisServer() as one, RedisServer() as other:
        connection = Connection(f"redis://127.0.0.1:{one.port},127.0.0.1:{other.port}", timeout_seconds=2)
        pubsub, received = PubSub(connection, "node-x", timeout_seconds=2), list[bytes | None]()
        await pubsub.start()
        await pubsub.subscribe("news", received.append)
        one.pause()
        await connection.execute("PING")  # the other one answers
        one.resume()
        async with asyncio.timeout(5):
            while b"one" not in received:
                await connection.execute("PUBLISH", "news", "one")
                await asyncio.sleep(0.02)
        await pubsub.stop()
        await connection.close()
