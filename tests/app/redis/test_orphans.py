"""Runs that a failover has left without a node that writes them are found and go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from app.dev.demo.redis_deployments import ClusterServers
from app.redis import keys
from app.redis.wire.connection import Connection
from app.retry import retry_until_available
from tests.harness.waiting import eventually
from tests.journal_suite.conftest import Process
from tests.journal_suite.redis_store import RedisProcess, RedisStore
from tests.journal_suite.runs import StoredRun

LEASE_SECONDS = 1.0

Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(cluster: ClusterServers) -> AsyncIterator[Start]:
    store, started = RedisStore(cluster.url, cluster.servers, masters=cluster.masters), list[Process]()
    store.clear()

    async def start_process(*, claims: bool = False) -> Process:
        started.append(await Process.start(store, claims=claims, lease_seconds=LEASE_SECONDS))
        return started[-1]

    yield start_process
    for process in started:
        await process.parts.stop()


def connection_of(process: Process) -> Connection:
    assert isinstance(process.parts, RedisProcess)
    return process.parts.connection


async def owner_of(process: Process, run: StoredRun) -> tuple[str, int]:
    record = await process.journal.get_record(run.session_id)
    assert record is not None
    return record.owner, record.epoch


async def lose_list(cluster: ClusterServers, dead: str) -> None:
    """Remove what is known of a dead node, as a failover can."""
    connection = Connection(cluster.url, timeout_seconds=2)
    await retry_until_available(lambda: connection.pipeline([("DEL", keys.runs_on(dead)), ("ZREM", keys.NODES, dead)]))
    await connection.close()


async def test_a_run_of_a_dead_node_that_is_listed_nowhere_is_taken_over(cluster: ClusterServers, start: Start) -> None:
    gone, run, ended = await start(), StoredRun(), StoredRun(user_id="lee")
    lock, dead = await run.create(gone.journal), gone.nodes.node_id
    ended_lock = await ended.create(gone.journal)
    ended.answer()
    ended.finish()
    await ended.commit(gone.journal, ended_lock)
    await gone.parts.cut_off()
    await lose_list(cluster, dead)
    with capture_logs() as logs:
        heir = await start(claims=True)
        await eventually(lambda: heir.claimed)
    assert heir.claimed[run.session_id].epoch == lock.epoch + 1
    assert heir.claimed[run.session_id].created_at == pytest.approx(lock.created_at, abs=1)
    assert [(it["sessionId"], it["ofNode"]) for it in logs if it["event"] == "run.listed_again"] == [
        (run.session_id, dead)
    ]


@pytest.mark.slow
async def test_a_run_whose_end_is_lost_goes_on_after_the_failover(cluster: ClusterServers, start: Start) -> None:
    """Its node, which took the run for ended, hands it over; what the node still writes it keeps."""
    gone, first = await start(), StoredRun()
    await first.create(gone.journal)
    await gone.parts.cut_off()
    await lose_list(cluster, gone.nodes.node_id)
    process = await start(claims=True)
    await eventually(lambda: first.session_id in process.claimed)  # the search of the start
    kept, ended = StoredRun(user_id="park"), StoredRun(user_id="lee")
    process.claimed[kept.session_id] = await kept.create(process.journal)
    await ended.create(process.journal)
    await connection_of(process).execute("ZREM", keys.runs_on(process.nodes.node_id), ended.session_id)
    connection_of(process).failovers += 1
    await eventually(lambda: ended.session_id in process.claimed)
    assert await owner_of(process, ended) == (process.nodes.node_id, 2)
    assert await owner_of(process, kept) == (process.nodes.node_id, 1)


@pytest.mark.slow
async def test_a_list_that_others_have_written_hides_no_other_run(cluster: ClusterServers, start: Start) -> None:
    gone, hidden, run = await start(), StoredRun(), StoredRun(user_id="lee")
    for each in (hidden, run):
        await each.create(gone.journal)
    await gone.parts.cut_off()
    await lose_list(cluster, gone.nodes.node_id)
    process = await start(claims=True)
    connection = connection_of(process)
    await connection.execute("HSET", keys.run(hidden.session_id), "owner", "node-x")
    await connection.execute("SET", keys.runs_on("node-x"), "no list")
    await eventually(lambda: run.session_id in process.claimed)
    assert hidden.session_id not in process.claimed
