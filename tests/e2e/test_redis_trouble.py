"""Redis fails over, is out of memory, loads its data, or has no free clients: runs pause and continue afterwards."""

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
from tests.e2e.test_storage import NodesOn, expect_refusal
from tests.e2e.two_runs import DONE, TEXT, TwoRuns, start_two_runs
from tests.harness.follow import of_type
from tests.harness.frames import answer, check
from tests.harness.redis_proxy import RedisProxy
from tests.harness.waiting import eventually

LONG_LEASE: dict[str, Any] = {"AURA_LEASE_SECONDS": 10, "AURA_HEARTBEAT_SECONDS": 0.3}


def connect(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer("--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes") as server:
        yield server


@pytest.fixture
def replica(server: RedisServer) -> Iterator[RedisServer]:
    """A replica of `server`."""
    with RedisServer("--repl-diskless-sync-delay", "0") as replica:
        with connect(replica) as client:
            client.replicaof("127.0.0.1", server.port)
        yield replica


async def wait_for_replication(server: RedisServer) -> None:
    """Wait until the replica has every write so far."""
    with connect(server) as client:
        written = client.info("replication")["master_repl_offset"]
        await eventually(lambda: client.info("replication").get("slave0", {}).get("offset", -1) >= written)


async def expect_writes_refused(runs: TwoRuns, *, is_ready: bool = False) -> None:
    """Check the behaviour while Redis is unavailable or refuses writes: requests get 503, streams get heartbeats."""
    runs.model.release()
    await expect_refusal(runs.node)
    assert await runs.approve() == 503
    assert (await runs.node.client.get("/ready")).status_code == (200 if is_ready else 503)
    await runs.expect_heartbeats()


def expect_no_other_run(server: RedisServer) -> None:
    """Refused runs must not have been created."""
    with connect(server) as client:
        assert len(client.keys("checkpoint:*")) == 2, client.keys("*")


def kill_primary(old: RedisServer, _: RedisServer) -> None:
    old.kill()


def demote_primary(old: RedisServer, new: RedisServer) -> None:
    """It lives, keeps every connection, and refuses each write with READONLY."""
    with connect(old) as client:
        client.replicaof("127.0.0.1", new.port)


@pytest.mark.parametrize("fail_over", [kill_primary, demote_primary])
async def test_failover_to_a_replica_loses_nothing(
    nodes_on: NodesOn,
    server: RedisServer,
    replica: RedisServer,
    model: ScriptedModelServer,
    fail_over: Callable[[RedisServer, RedisServer], None],
) -> None:
    """The address stays the same, as with a Kubernetes service; another server is behind it."""
    async with RedisProxy(server.port) as address, SmtpSink() as smtp:
        node = await nodes_on(address.url).start(**mail_settings(smtp), **LONG_LEASE)
        async with start_two_runs(node, model) as runs:
            await wait_for_replication(server)
            with connect(replica) as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
            fail_over(server, replica)
            await expect_writes_refused(
                runs, is_ready=fail_over is demote_primary
            )  # it answers, and the lease still holds
            address.target = ("127.0.0.1", replica.port)
            with connect(replica) as client:
                await eventually(lambda: client.pubsub_channels("hitl:channel:*"))
            await runs.finish()
        assert not node.logged("node.lease_lost")
        assert len(smtp.messages) == 1
        expect_no_other_run(replica)


@pytest.mark.slow
async def test_failover_to_a_lagging_replica_fails_only_the_run_with_lost_writes(
    nodes_on: NodesOn, server: RedisServer, replica: RedisServer, model: ScriptedModelServer
) -> None:
    """The run whose last writes are lost ends with an error; its tool does not run again. The other run continues."""
    async with RedisProxy(server.port) as address, SmtpSink() as smtp:
        node = await nodes_on(address.url).start(**mail_settings(smtp), **LONG_LEASE)
        async with start_two_runs(node, model) as runs:
            await wait_for_replication(server)
            with connect(replica) as client:
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


@pytest.mark.slow
async def test_redis_out_of_memory_refuses_writes_and_keeps_the_lease(
    nodes_on: NodesOn, server: RedisServer, model: ScriptedModelServer
) -> None:
    """With `maxmemory` and `noeviction`, Redis refuses writes that need memory, but not the renewal of the lease."""
    async with SmtpSink() as smtp:
        node = await nodes_on(server.url).start(**mail_settings(smtp), **LONG_LEASE)
        with connect(server) as client:
            async with start_two_runs(node, model) as runs:
                client.config_set("maxmemory", 1)
                await expect_writes_refused(runs, is_ready=True)
                ((_, lease),) = client.zrange(keys.NODES, 0, -1, withscores=True)
                await eventually(lambda: client.zrange(keys.NODES, 0, -1, withscores=True)[0][1] > lease)
                client.config_set("maxmemory", 0)
                await runs.finish()
        assert len(smtp.messages) == 1
        expect_no_other_run(server)


@pytest.mark.slow
async def test_redis_loading_its_data_pauses_runs(
    nodes_on: NodesOn, server: RedisServer, model: ScriptedModelServer
) -> None:
    """A restarted server replies LOADING while it reads its stored data."""
    async with SmtpSink() as smtp:
        node = await nodes_on(server.url).start(**mail_settings(smtp), **LONG_LEASE)
        with connect(server) as client:
            async with start_two_runs(node, model) as runs:
                client.mset({f"filler:{number}": secrets.token_hex(2000) for number in range(600)})
                client.config_set("loading-process-events-interval-bytes", 1024)
                client.config_set("key-load-delay", 20_000)  # µs; makes the loading last until it is reset
                loading = asyncio.create_task(asyncio.to_thread(client.execute_command, "DEBUG", "RELOAD"))
                await eventually(lambda: client.info("persistence")["loading"] == 1)  # Redis refuses writes from now on
                await expect_writes_refused(runs)
                assert not loading.done()
                client.config_set("key-load-delay", 0)
                await loading
                await runs.finish()
        assert any("LOADING" in str(line) or "loading" in str(line) for line in node.log)
        assert len(smtp.messages) == 1
        expect_no_other_run(server)


@pytest.mark.slow
async def test_redis_without_free_clients_pauses_runs(
    nodes_on: NodesOn, server: RedisServer, model: ScriptedModelServer
) -> None:
    async with SmtpSink() as smtp:
        node = await nodes_on(server.url).start(**mail_settings(smtp), **LONG_LEASE)
        with connect(server) as client:
            async with start_two_runs(node, model) as runs:
                client.config_set("maxclients", 1)
                for kind in ("normal", "pubsub"):  # all clients except this one
                    client.execute_command("CLIENT", "KILL", "TYPE", kind)
                await expect_writes_refused(runs)
                client.config_set("maxclients", 1000)
                await eventually(lambda: client.pubsub_channels("hitl:channel:*"))
                await runs.finish()
        assert len(smtp.messages) == 1
        expect_no_other_run(server)
