"""`AURA_REDIS_REPLICAS`: nothing happens outside before replicas have what must not be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.redis_deployments import execute
from app.dev.demo.script import ScriptedTurn
from app.redis.wire.acknowledgements import Acknowledgements
from app.redis.wire.advice import configuration_advice
from app.redis.wire.connection import Connection
from app.settings import Settings
from tests.harness.service import running
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]


@pytest.fixture
def replicated() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica."""
    with RedisServer("--repl-diskless-sync-delay", "0") as master, RedisServer() as replica:
        execute(replica, "REPLICAOF", "127.0.0.1", master.port)
        while execute(replica, "INFO", "replication")["master_link_status"] != "up":
            pass
        yield master, replica


@pytest.fixture
async def connection(replicated: tuple[RedisServer, RedisServer]) -> AsyncIterator[Connection]:
    connection = Connection(replicated[0].url, timeout_seconds=1)
    yield connection
    await connection.close()


async def test_a_write_that_replicas_have_is_acknowledged(connection: Connection) -> None:
    found = Acknowledgements(connection, 1)
    await connection.pipeline([("SET", "text", "value"), ("HSET", "hash", "field", "2")])
    assert await found.has("text", "value")
    assert await found.has("hash", "2", field="field")


async def test_a_write_that_the_master_does_not_have_is_not_acknowledged(connection: Connection) -> None:
    """After a failover the master may be a server that lacks it."""
    found = Acknowledgements(connection, 1)
    await connection.execute("SET", "text", "another")
    assert not await found.has("text", "value")
    assert not await found.has("none", "value")


@pytest.mark.slow
async def test_nothing_is_acknowledged_while_too_few_replicas_follow(
    connection: Connection, replicated: tuple[RedisServer, RedisServer]
) -> None:
    await connection.execute("SET", "text", "value")
    assert not await Acknowledgements(connection, 2).has("text", "value")
    replicated[1].pause()
    assert not await Acknowledgements(connection, 1).has("text", "value")
    waiting = asyncio.create_task(Acknowledgements(connection, 1).has("text", "value"))
    assert await connection.execute("GET", "text") == b"value"  # other commands do not wait with it
    replicated[1].resume()
    assert await waiting


async def test_what_waits_at_the_same_time_shares_one_command(
    connection: Connection, replicated: tuple[RedisServer, RedisServer]
) -> None:
    found = Acknowledgements(connection, 1)
    await connection.pipeline([("SET", f"key-{number}", "value") for number in range(200)])
    assert await found.has("key-0", "value")
    before = execute(replicated[0], "INFO", "commandstats")["cmdstat_wait"]["calls"]
    assert all(await asyncio.gather(*(found.has(f"key-{number}", "value") for number in range(200))))
    assert execute(replicated[0], "INFO", "commandstats")["cmdstat_wait"]["calls"] - before <= 3


async def test_a_risky_call_runs_only_after_replicas_have_its_start(
    settings: MakeSettings, model: ScriptedModelServer, replicated: tuple[RedisServer, RedisServer]
) -> None:
    master, replica = replicated
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})), ScriptedTurn(text="보냈습니다."))
    made = settings(redis_url=master.url, aura_redis_replicas=1, aura_redis_timeout_seconds=1)
    async with running(made, tools=[tool]) as aura, aura.stream("메모") as stream:
        hitl = await stream.until("hitl")
        replica.pause()
        refused = await aura.decide("approve", hitl["requestId"])
        assert (refused.status_code, refused.json()["errorCode"]) == (503, "E5002")
        assert "replicas" in refused.json()["message"]
        with capture_logs() as logs:
            await eventually(lambda: [line for line in logs if line["event"] == "redis.not_acknowledged"])
        assert tool.ran == []
        replica.resume()
        assert (await stream.rest())[-2]["status"] == "completed"
        assert len(tool.ran) == 1


async def test_a_server_that_may_write_without_its_replicas_is_advised_on(connection: Connection) -> None:
    assert not [line for line in await configuration_advice(connection) if "min-replicas" in line]
    (advice,) = [line for line in await configuration_advice(connection, 1) if "min-replicas" in line]
    assert "AURA_REDIS_REPLICAS" in advice
    await connection.execute("CONFIG", "SET", "min-replicas-to-write", 1)
    assert not [line for line in await configuration_advice(connection, 1) if "min-replicas" in line]
