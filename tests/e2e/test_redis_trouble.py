"""Redis fails over, is full, loads, takes no more clients: runs pause, requests get 503, and then all goes on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from app.redis import keys
from tests.e2e.mail import mail_settings
from tests.e2e.test_storage import NodesOn, refused
from tests.e2e.two_runs import DONE, TEXT, TwoRuns, two_runs
from tests.harness.follow import of_type
from tests.harness.frames import answer, check
from tests.harness.redis_proxy import RedisProxy
from tests.harness.waiting import eventually

PATIENT: dict[str, Any] = {"AURA_LEASE_SECONDS": 10, "AURA_HEARTBEAT_SECONDS": 0.3}


def connected(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer("--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes") as server:
        yield server


@pytest.fixture
def replica(server: RedisServer) -> Iterator[RedisServer]:
    """It follows `server`, and has all that is there."""
    with RedisServer("--repl-diskless-sync-delay", "0") as replica:
        with connected(replica) as client:
            client.replicaof("127.0.0.1", server.port)
        yield replica


async def in_step(server: RedisServer) -> None:
    """The replica has every write so far."""
    with connected(server) as client:
        written = client.info("replication")["master_repl_offset"]
        await eventually(lambda: client.info("replication").get("slave0", {}).get("offset", -1) >= written)


async def nothing_gets_in(runs: TwoRuns, *, is_ready: bool = False) -> None:
    """What holds for as long as Redis cannot be used, or not be written to."""
    runs.model.release()
    await refused(runs.node)
    assert await runs.approve() == 503
    assert (await runs.node.client.get("/ready")).status_code == (200 if is_ready else 503)
    await runs.heartbeats()


def nothing_else(server: RedisServer) -> None:
    """What was refused was not begun after all."""
    with connected(server) as client:
        assert len(client.keys("checkpoint:*")) == 2, client.keys("*")


def dies(old: RedisServer, _: RedisServer) -> None:
    old.kill()


def is_demoted(old: RedisServer, new: RedisServer) -> None:
    """It lives, keeps every connection, and refuses each write with READONLY."""
    with connected(old) as client:
        client.replicaof("127.0.0.1", new.port)


@pytest.mark.parametrize("what_happens", [dies, is_demoted])
async def test_failover_to_a_replica(
    nodes_on: NodesOn,
    server: RedisServer,
    replica: RedisServer,
    model: ScriptedModelServer,
    what_happens: Callable[[RedisServer, RedisServer], None],
) -> None:
    """The address stays, as with a Kubernetes service; behind it is another server."""
    async with RedisProxy(server.port) as address, SmtpSink() as smtp:
        node = await nodes_on(address.url).start(**mail_settings(smtp), **PATIENT)
        async with two_runs(node, model) as runs:
            await in_step(server)
            with connected(replica) as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
            what_happens(server, replica)
            await nothing_gets_in(runs, is_ready=what_happens is is_demoted)  # it answers, and the lease still holds
            address.target = ("127.0.0.1", replica.port)
            with connected(replica) as client:
                await eventually(lambda: client.pubsub_channels("hitl:channel:*"))
            await runs.finish()
        assert not node.logged("node.lease_lost")
        assert len(smtp.messages) == 1
        nothing_else(replica)


async def test_failover_to_a_replica_that_lagged(
    nodes_on: NodesOn, server: RedisServer, replica: RedisServer, model: ScriptedModelServer
) -> None:
    """The run whose last writes are lost ends with a clear error, its tool does not run again; the other goes on."""
    async with RedisProxy(server.port) as address, SmtpSink() as smtp:
        node = await nodes_on(address.url).start(**mail_settings(smtp), **PATIENT)
        async with two_runs(node, model) as runs:
            await in_step(server)
            with connected(replica) as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
            model.play(ScriptedTurn(text=DONE, chunk_chars=4, hang_after=1))
            assert await runs.approve() == 200
            await runs.waiting.collect(runs.approval, of_type("content"))
            server.kill()
            address.target = ("127.0.0.1", replica.port)
            model.release()
            async with asyncio.timeout(10):
                await asyncio.gather(runs.writing.collect(runs.report), runs.waiting.collect(runs.approval))
        check(runs.waiting.seen)
        error, end, _ = runs.waiting.seen[-3:]
        assert (error["errorType"], end["status"]) == ("StorageUnavailable", "failed")
        check(runs.writing.seen)
        assert answer(runs.writing.seen) == TEXT
        assert len(smtp.messages) == 1


async def test_no_memory_left(nodes_on: NodesOn, server: RedisServer, model: ScriptedModelServer) -> None:
    """maxmemory with noeviction, as it must be: whatever would grow is refused, the lease is not."""
    async with SmtpSink() as smtp:
        node = await nodes_on(server.url).start(**mail_settings(smtp), **PATIENT)
        with connected(server) as client:
            async with two_runs(node, model) as runs:
                client.config_set("maxmemory", 1)
                await nothing_gets_in(runs, is_ready=True)
                ((_, lease),) = client.zrange(keys.NODES, 0, -1, withscores=True)
                await eventually(lambda: client.zrange(keys.NODES, 0, -1, withscores=True)[0][1] > lease)
                client.config_set("maxmemory", 0)
                await runs.finish()
        assert len(smtp.messages) == 1
        nothing_else(server)


async def test_it_loads_its_data(nodes_on: NodesOn, server: RedisServer, model: ScriptedModelServer) -> None:
    """A restarted server answers LOADING for as long as it reads what it had written."""
    async with SmtpSink() as smtp:
        node = await nodes_on(server.url).start(**mail_settings(smtp), **PATIENT)
        with connected(server) as client:
            async with two_runs(node, model) as runs:
                client.mset({f"filler:{number}": secrets.token_hex(2000) for number in range(600)})
                client.config_set("loading-process-events-interval-bytes", 1024)
                client.config_set("key-load-delay", 20_000)  # microseconds: as long as the test needs
                loading = asyncio.create_task(asyncio.to_thread(client.execute_command, "DEBUG", "RELOAD"))
                await eventually(lambda: client.info("persistence")["loading"] == 1)  # from here on nothing is written
                await nothing_gets_in(runs)
                assert not loading.done()
                client.config_set("key-load-delay", 0)
                await loading
                await runs.finish()
        assert any("LOADING" in str(line) or "loading" in str(line) for line in node.log)
        assert len(smtp.messages) == 1
        nothing_else(server)


async def test_it_takes_no_more_clients(nodes_on: NodesOn, server: RedisServer, model: ScriptedModelServer) -> None:
    async with SmtpSink() as smtp:
        node = await nodes_on(server.url).start(**mail_settings(smtp), **PATIENT)
        with connected(server) as client:
            async with two_runs(node, model) as runs:
                client.config_set("maxclients", 1)
                for kind in ("normal", "pubsub"):  # all but the one who asks
                    client.execute_command("CLIENT", "KILL", "TYPE", kind)
                await nothing_gets_in(runs)
                client.config_set("maxclients", 1000)
                await eventually(lambda: client.pubsub_channels("hitl:channel:*"))
                await runs.finish()
        assert len(smtp.messages) == 1
        nothing_else(server)
