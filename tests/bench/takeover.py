"""Many runs wait in a cluster, one of the processes is killed, and all runs are approved afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from redis.asyncio.cluster import RedisCluster

from tests.bench.client import APPROVE, Reading
from tests.bench.environment import Environment
from tests.bench.waiting import APPROVAL_SETTINGS, WaitingClients, read_to_its_end, start_and_disconnect

LEASE_SECONDS = 10
_AT_ONCE = 200
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Takeover:
    """What happened to `count` waiting runs on a cluster of three masters when one of two processes was killed."""

    count: int
    redis_kb: float
    connections: int
    killed_with: int
    taken_over_after_seconds: float
    done_after_seconds: float
    tools_started: int
    started_twice: int

    def describe(self) -> list[str]:
        taken_over, done = f"{self.taken_over_after_seconds:.1f} s", f"{self.done_after_seconds:.1f} s"
        return [
            f"{self.count:,} runs wait, two processes, three masters: {self.redis_kb:.2f} KB of Redis each",
            f"  {self.connections} connections to Redis",
            f"  a process with {self.killed_with:,} of them is killed: all are taken over after {taken_over}",
            f"  all are approved and have ended after {done}",
            f"  {self.tools_started:,} tools were started, {self.started_twice} of them twice",
        ]


async def measure_takeover(count: int) -> Takeover:
    """Each stream is read to its end and checked. Raises `InvalidStream` where a run did not complete."""
    settings = {**APPROVAL_SETTINGS, "AURA_LEASE_SECONDS": str(LEASE_SECONDS)}
    with Environment(settings, workers=2, masters=3) as environment:
        cluster: RedisCluster = RedisCluster.from_url(environment.redis_url.split(",")[0])
        waiting, memory = WaitingClients(), environment.redis_memory_bytes()
        await start_and_disconnect(environment, waiting, 0, count)
        memory, connections = environment.redis_memory_bytes() - memory, environment.redis_count().connections
        listed, began = await _listed_runs(cluster), time.monotonic()
        os.kill(environment.pids[0], signal.SIGKILL)
        killed_with = await _until_taken_over(cluster, listed)
        taken_over, began = time.monotonic() - began, time.monotonic()
        await _approve_all(cluster, waiting.readings)
        for some in _groups(waiting.readings):
            await asyncio.gather(*(read_to_its_end(environment, reading) for reading in some))
        done = time.monotonic() - began
        started = await _started_tools(cluster)
        await cluster.aclose()
    return Takeover(
        count=count,
        redis_kb=memory / count / 1024,
        connections=connections,
        killed_with=killed_with,
        taken_over_after_seconds=taken_over,
        done_after_seconds=done,
        tools_started=len(started),
        started_twice=sum(times > 1 for times in started.values()),
    )


async def _until_taken_over(cluster: RedisCluster, before: Counter[bytes]) -> int:
    """Wait until another process has the runs of the killed one; return how many it had."""
    while True:
        listed = await _listed_runs(cluster)
        gone = [count for key, count in before.items() if not listed[key]]
        if gone and listed.total() >= before.total():
            return gone[0]
        await asyncio.sleep(_POLL_SECONDS)


async def _listed_runs(cluster: RedisCluster) -> Counter[bytes]:
    """Return how many runs each process has, by the key of its list."""
    keys = [key async for key in cluster.scan_iter(match="aura:node:*:runs", count=1000)]
    return Counter({key: int(await cluster.zcard(key)) for key in keys})


async def _approve_all(cluster: RedisCluster, readings: Sequence[Reading]) -> None:
    """Approve as the Main Service does (CONTRACT §5), but without a message: the runs poll their requests."""
    now = str(int(time.time() * 1000))
    for some in _groups(readings):
        await asyncio.gather(*(cluster.eval(APPROVE, 1, f"hitl:request:{it.request_id}", now) for it in some))


async def _started_tools(cluster: RedisCluster) -> Counter[tuple[str, str]]:
    """Return how often each call was started, by session and call, as the record of decisions has it."""
    found: Counter[tuple[str, str]] = Counter()
    async for key in cluster.scan_iter(match="aura:audit:*", count=1000, _type="STREAM"):
        for _, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", await cluster.xrange(key)):
            entry = json.loads(fields[b"b"])
            if entry.get("kind") == "tool.started":
                found[entry["session"], entry["call"]] += 1
    return found


def _groups(readings: Sequence[Reading]) -> Iterator[Sequence[Reading]]:
    for first in range(0, len(readings), _AT_ONCE):
        yield readings[first : first + _AT_ONCE]
