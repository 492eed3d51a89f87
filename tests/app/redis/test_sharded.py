"""Sharded Pub/Sub on the masters of a cluster, without replicas: which connection has which channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
from structlog.testing import capture_logs

from app.dev.demo.redis import RedisServer
from app.dev.demo.redis_deployments import ClusterServers, execute
from app.errors import StorageUnavailable
from app.redis import keys
from app.redis.rights import RedisRights
from app.redis.wire import sharded as module
from app.redis.wire.connection import Connection
from app.redis.wire.sharded import ShardedPubSub
from app.retry import retry_until_available
from tests.harness.slots import SlotMove, master_of
from tests.harness.waiting import eventually


@pytest.fixture
async def connection(cluster: ClusterServers) -> AsyncIterator[Connection]:
    connection = Connection(cluster.url, timeout_seconds=2)
    await retry_until_available(lambda: connection.execute("PING"))  # on a loaded machine the first answer can be late
    yield connection
    await connection.close()


@pytest.fixture
def pubsub(connection: Connection) -> ShardedPubSub:
    assert connection.sharded is not None
    return connection.sharded


def wake(user: str) -> str:
    return keys.wake(f"session_{user}_1706156400_a2ef")


def channels_of(server: RedisServer) -> set[str]:
    return set(execute(server, "PUBSUB", "SHARDCHANNELS"))


async def test_message_stays_with_the_master_of_its_slot(cluster: ClusterServers, pubsub: ShardedPubSub) -> None:
    received = list[bytes | None]()
    channel = wake("u1")
    await pubsub.subscribe(channel, received.append)
    home = master_of(cluster, channel)
    (other,) = set(cluster.servers) - {home}
    assert (channels_of(home), channels_of(other)) == ({channel}, set())
    assert channel not in execute(home, "PUBSUB", "CHANNELS")
    assert execute(home, "SPUBLISH", channel, "7") == 1
    await eventually(lambda: received == [None, b"7"])
    assert [server.port for server in pubsub.servers] == [home.port]
    pubsub.unsubscribe(channel)
    await eventually(lambda: not channels_of(home))


async def test_channels_of_all_slots_are_subscribed_at_once_and_again_after_a_lost_connection(
    cluster: ClusterServers, pubsub: ShardedPubSub
) -> None:
    channels = [keys.wake(f"session_u{number}_1706156400_{run:04x}") for number in range(200) for run in range(5)]
    received = list[bytes | None]()

    async def subscribe(channel: str) -> None:
        """On a loaded machine the acknowledgement can be late."""
        await retry_until_available(lambda: pubsub.subscribe(channel, received.append))

    await asyncio.gather(*map(subscribe, channels))
    assert set().union(*map(channels_of, cluster.servers)) == set(channels)
    assert len(received) == len(channels)
    for server in cluster.servers:
        with redis.Redis(port=server.port) as client:
            client.client_kill_filter(_type="pubsub")
    await eventually(lambda: len(received) == 2 * len(channels))
    assert set().union(*map(channels_of, cluster.servers)) == set(channels)


async def test_subscription_follows_a_slot_that_moves(cluster: ClusterServers, pubsub: ShardedPubSub) -> None:
    received = list[bytes | None]()
    channel = wake("u2")
    await pubsub.subscribe(channel, received.append)
    for _ in range(2):  # there and back
        received.clear()
        move = SlotMove(cluster, channel)
        move.begin()
        move.end()
        await eventually(lambda: received == [None])  # the keys must be read: a message may be lost
        assert channels_of(move.target) == {channel}
        assert execute(move.target, "SPUBLISH", channel, "7") == 1
        await eventually(lambda: received == [None, b"7"])


async def test_subscription_at_a_server_that_lost_the_slot_is_made_at_the_other_one(
    cluster: ClusterServers, pubsub: ShardedPubSub
) -> None:
    """The map of this process is older than the move: the answer is `MOVED`."""
    channel = wake("u3")
    move = SlotMove(cluster, channel)
    move.begin()
    move.end()
    await pubsub.subscribe(channel, lambda _: None)
    assert channels_of(move.target) == {channel}


@pytest.mark.slow
async def test_connection_without_channels_is_closed_after_a_while(
    cluster: ClusterServers, pubsub: ShardedPubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.1)
    home = master_of(cluster, wake("u4"))
    assert pubsub.servers == []
    await pubsub.subscribe(wake("u4"), lambda _: None)
    assert len(pubsub.servers) == 1
    pubsub.unsubscribe(wake("u4"))
    await eventually(lambda: not pubsub.servers)
    await eventually(lambda: "cmd=ssubscribe" not in str(execute(home, "CLIENT", "LIST")))
    await pubsub.subscribe(wake("u4"), lambda _: None)
    assert channels_of(home) == {wake("u4")}


@pytest.mark.slow
async def test_channel_of_a_server_that_hangs_is_subscribed_when_it_answers_again(
    cluster: ClusterServers, pubsub: ShardedPubSub
) -> None:
    channel = wake("u5")
    home = master_of(cluster, channel)
    received = list[bytes | None]()
    home.pause()
    try:
        with pytest.raises(StorageUnavailable):
            await pubsub.subscribe(channel, received.append)
    finally:
        home.resume()
    await eventually(lambda: received == [None])


async def test_first_map_of_a_cluster_is_no_failover(connection: Connection) -> None:
    assert connection.stats().is_cluster
    assert connection.failovers == 0


async def test_closed_subscriptions_can_be_ended_and_no_new_ones_are_made(
    cluster: ClusterServers, connection: Connection, pubsub: ShardedPubSub
) -> None:
    await pubsub.subscribe(wake("u7"), lambda _: None)
    await connection.close()
    pubsub.unsubscribe(wake("u7"))
    with pytest.raises(StorageUnavailable, match="closed"):
        await pubsub.subscribe(wake("u7"), lambda _: None)
    assert pubsub.servers == []
    await eventually(lambda: not channels_of(master_of(cluster, wake("u7"))))


async def test_user_without_the_right_is_named_it_and_the_subscription_is_made_once_it_is_granted(
    cluster: ClusterServers,
) -> None:
    for server in cluster.servers:
        execute(server, "ACL", "SETUSER", "limited", "reset", "on", ">pass", "~*", "&*", "+@all", "-ssubscribe")
    connection = Connection(cluster.url.replace("redis://", "redis://limited:pass@"), timeout_seconds=1)
    await connection.execute("PING")
    pubsub, received = connection.sharded, list[bytes | None]()
    assert pubsub is not None
    with capture_logs() as logs:
        await RedisRights(connection, ()).report()
        with pytest.raises(StorageUnavailable, match="does not allow"):
            await pubsub.subscribe(wake("u6"), received.append)
    assert {"event": "redis.rights_missing", "rights": ["SSUBSCRIBE aura:wake:*"]}.items() <= logs[0].items()
    for server in cluster.servers:
        execute(server, "ACL", "SETUSER", "limited", "+ssubscribe")
    await eventually(lambda: received == [None])
    await connection.close()


@pytest.mark.parametrize("arguments", [("--rename-command", "SPUBLISH", ""), ()], ids=["lacks it", "has it"])
async def test_sharded_channels_are_used_in_a_cluster_whose_servers_have_them(arguments: tuple[str, ...]) -> None:
    with RedisServer("--cluster-enabled", "yes", *arguments) as server:
        execute(server, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await eventually(lambda: "cluster_state:ok" in str(execute(server, "CLUSTER", "INFO")))
        connection = Connection(server.url, timeout_seconds=2)
        await connection.execute("PING")
        assert connection.stats().is_cluster
        assert (connection.sharded is None) == bool(arguments)
        await connection.close()
