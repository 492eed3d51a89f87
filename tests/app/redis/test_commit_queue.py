"""In a cluster, a master that does not answer delays only the commits of the runs that it holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest

from app.dev.demo.redis_deployments import ClusterServers
from app.redis.commit_queue import CommitQueue
from app.redis.wire.connection import Connection
from app.retry import retry_until_available
from tests.harness.slots import master_of


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    """Masters without replicas, of which each serves its slots whether the others are there or not."""
    with ClusterServers(3, replicas=False, arguments=("--cluster-require-full-coverage", "no")) as servers:
        yield servers


@pytest.fixture
async def connection(cluster: ClusterServers) -> AsyncIterator[Connection]:
    connection = Connection(cluster.url, timeout_seconds=1)
    for key in two_keys(cluster):  # the servers may not know yet of each other who serves which slot
        await retry_until_available(partial(connection.execute, "GET", key))
    yield connection
    await connection.close()


def two_keys(cluster: ClusterServers) -> tuple[str, str]:
    """Return keys of different masters."""
    by_master = {master_of(cluster, key).port: key for key in map("key-{}".format, range(50))}
    first, second, *_ = by_master.values()
    return first, second


@pytest.mark.slow
async def test_a_master_that_hangs_delays_only_its_own_commits(cluster: ClusterServers, connection: Connection) -> None:
    queue, (key, other) = CommitQueue(connection), two_keys(cluster)
    hanging = master_of(cluster, other)
    hanging.pause()
    try:
        delayed = asyncio.create_task(queue.write(("SET", other, "1")))
        await asyncio.sleep(0)
        for _ in range(3):
            assert await asyncio.wait_for(queue.write(("SET", key, "1")), 30) == b"OK"
        assert not delayed.done()
    finally:
        hanging.resume()
    assert await asyncio.wait_for(delayed, 30) == b"OK"
    await queue.stop()


async def test_a_command_without_a_result_is_written_though_its_master_gets_no_other_one(
    cluster: ClusterServers, connection: Connection
) -> None:
    queue, (key, other) = CommitQueue(connection), two_keys(cluster)
    queue.write_later(("SET", other, "later"))
    assert await queue.write(("SET", key, "2")) == b"OK"
    assert await connection.execute("GET", other) == b"later"
    await queue.stop()
