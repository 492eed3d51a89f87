"""A cluster of three masters with replicas: lost masters, lost seeds, slots that move, Pub/Sub."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.redis_deployments import ClusterServers, execute
from app.dev.demo.script import ScriptedTurn
from app.errors import StorageUnavailable
from app.redis import keys, scripts
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from app.redis.wire.script import Command
from tests.harness.approvals import MakeSettings
from tests.harness.service import running
from tests.harness.slots import SlotMove, master_of
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

KEYS = [f"key-{number}" for number in range(300)]
FAILOVER_SECONDS = 30.0


@pytest.fixture
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers() as servers:
        yield servers


@pytest.fixture
async def connection(cluster: ClusterServers) -> AsyncIterator[Connection]:
    connection = Connection(cluster.url, timeout_seconds=2)
    yield connection
    await connection.close()


def is_replaced(cluster: ClusterServers, master: RedisServer) -> bool:
    return master not in cluster.masters()


async def keep_trying(connection: Connection, *command: str) -> bytes:
    """Send a command until it is answered. A failover takes some seconds, in which it may fail."""
    deadline = time.monotonic() + FAILOVER_SECONDS
    while True:
        try:
            reply: bytes = await connection.execute(*command)
            return reply
        except StorageUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_each_command_of_a_batch_goes_to_its_master_and_replies_keep_their_order(connection: Connection) -> None:
    await connection.pipeline([("SET", key, key) for key in KEYS])
    replies = await connection.pipeline([("GET", key) for key in KEYS])
    assert replies == [key.encode() for key in KEYS]
    assert await connection.get_many([*KEYS, "none"]) == [*replies, None]
    assert {*await connection.find_keys("key-*")} == {*replies}


async def test_a_process_has_one_connection_for_commands_to_each_master(
    cluster: ClusterServers, connection: Connection
) -> None:
    await asyncio.gather(*(connection.execute("SET", key, key) for key in KEYS))
    for master in cluster.masters():
        clients = str(execute(master, "CLIENT", "LIST", "TYPE", "normal"))
        assert clients.count("cmd=set") + clients.count("'cmd': 'set'") == 1


async def test_all_masters_may_be_killed_in_turn_and_the_seeds_with_them(
    cluster: ClusterServers, connection: Connection
) -> None:
    """After the third one no server that the address names is a master; each comes back as a replica."""
    await connection.pipeline([("SET", key, "0") for key in KEYS])
    for turn, seed in enumerate(cluster.servers[:3], 1):
        await eventually(cluster.is_whole)
        seed.kill()
        await asyncio.gather(*(keep_trying(connection, "SET", key, str(turn)) for key in KEYS))
        replies = await asyncio.gather(*(keep_trying(connection, "GET", key) for key in KEYS))
        assert set(replies) == {str(turn).encode()}
        await eventually(partial(is_replaced, cluster, seed))
        seed.start()
    assert not {*cluster.masters()} & {*cluster.servers[:3]}


async def test_a_new_process_starts_while_the_first_seed_is_dead(cluster: ClusterServers) -> None:
    cluster.servers[0].kill()
    connection = Connection(cluster.url, timeout_seconds=2)
    assert await keep_trying(connection, "SET", "key", "value") == b"OK"
    assert connection.stats().is_cluster
    await connection.close()


async def test_a_master_that_hangs_is_left_when_its_replica_takes_over(
    cluster: ClusterServers, connection: Connection
) -> None:
    await connection.execute("SET", "key", "before")
    master = master_of(cluster, "key")
    master.pause()
    try:
        assert await keep_trying(connection, "SET", "key", "after") == b"OK"
    finally:
        master.resume()
    assert await keep_trying(connection, "GET", "key") == b"after"


async def test_slots_move_while_commands_go_on(cluster: ClusterServers, connection: Connection) -> None:
    """Keys of one slot are on both masters meanwhile: `ASK`, then `MOVED`."""
    names = [f"{{tag}}:{number}" for number in range(200)]
    await connection.pipeline([("SET", name, name) for name in names])
    move = SlotMove(cluster, "{tag}")
    move.begin()
    move.send_keys(names[:100])
    replies = await connection.pipeline([("GET", name) for name in names])
    assert replies == [name.encode() for name in names]
    assert await connection.execute("SET", "{tag}:new", "1") == b"OK"
    move.send_keys(names[100:])
    move.end()
    replies = await connection.pipeline([("GET", name) for name in [*names, "{tag}:new"]])
    assert replies == [*(name.encode() for name in names), b"1"]


async def test_a_slot_without_a_master_makes_storage_unavailable_within_the_time(
    cluster: ClusterServers, connection: Connection
) -> None:
    await connection.execute("SET", "key", "value")
    first = master_of(cluster, "key")
    for server in (first, replica_of(cluster, first)):
        server.kill()
    started = time.monotonic()
    with pytest.raises(StorageUnavailable):
        await connection.execute("GET", "key")
    assert time.monotonic() - started < 4 * 2 + 1


async def test_messages_arrive_again_after_the_node_that_was_listened_to_is_killed(
    cluster: ClusterServers, connection: Connection
) -> None:
    pubsub, received = PubSub(connection, "node-x", timeout_seconds=2), list[bytes | None]()
    await pubsub.start()
    await pubsub.subscribe("news", received.append)
    listened_to = next(it for it in cluster.servers if "news" in execute(it, "PUBSUB", "CHANNELS"))
    listened_to.kill()
    await eventually(lambda: received == [None, None])  # subscribed again
    await keep_trying(connection, "PUBLISH", "news", "one")
    await eventually(lambda: b"one" in received)
    await pubsub.stop()


async def test_closing_fails_the_commands_in_flight(cluster: ClusterServers, connection: Connection) -> None:
    await connection.execute("SET", "key", "value")
    master_of(cluster, "key").pause()
    waiting = asyncio.create_task(connection.execute("GET", "key"))
    await eventually(lambda: connection.stats().in_flight)
    await connection.close()
    with pytest.raises(StorageUnavailable, match="closed"):
        await waiting


def replica_of(cluster: ClusterServers, master: RedisServer) -> RedisServer:
    ranges = execute(cluster.servers[-1], "CLUSTER", "SLOTS")
    (port,) = {int(each[3][1]) for each in ranges if int(each[2][1]) == master.port}
    return next(server for server in cluster.servers if server.port == port)


async def test_a_run_is_created_only_when_its_node_is_known_to_list_it(
    cluster: ClusterServers, settings: MakeSettings
) -> None:
    """The masters do not wait for each other: while the one of the list hangs, no other one may create the run."""
    async with running(settings(redis_url=cluster.url, aura_redis_timeout_seconds=0.5)) as aura:
        list_key = keys.runs_on(aura.service.stores.nodes.node_id)
        masters = cluster.masters()
        suspended = master_of(cluster, list_key)
        suspended.pause()
        try:
            async with aura.stream("질문") as stream:
                assert stream.response.status_code == 503
            others = [master for master in masters if master is not suspended]
            assert [key for master in others for key in execute(master, "KEYS", "aura:*:events:*")] == []
        finally:
            suspended.resume()


async def test_a_run_whose_creation_outlasts_a_failover_is_listed_again(
    cluster: ClusterServers, settings: MakeSettings, model: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failover removes its entry, and the runs that the node had are listed again before this one is there."""
    send = Connection.pipeline

    async def creates_late(self: Connection, commands: Sequence[Command]) -> list[Any]:
        if any(len(command) > 1 and command[1] == scripts.CREATE.sha for command in commands):
            await self.execute("DEL", list_key)
            self.failovers += 1
            await asyncio.sleep(1.5)
        return await send(self, commands)

    model.play(ScriptedTurn(text="네.", hang_after=0))
    async with running(settings(redis_url=cluster.url)) as aura:
        list_key = keys.runs_on(aura.service.stores.nodes.node_id)
        monkeypatch.setattr(Connection, "pipeline", creates_late)
        async with aura.stream("질문") as stream:
            session_id = (await stream.until("start"))["sessionId"]
            master = master_of(cluster, list_key)
            await eventually(lambda: session_id in execute(master, "ZRANGE", list_key, 0, -1))
            model.release()
            await stream.rest()
