"""A whole trial: all is started, runs and faults go on side by side, all settles, the evidence is read."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from redis.asyncio import Redis

from app.dev.chaos import plan, takeover
from app.dev.chaos.clients import SILENCE_SECONDS, Frame, RunClient
from app.dev.chaos.cluster import Cluster, Injected
from app.dev.chaos.environment import World, world
from app.dev.chaos.verdict import Evidence
from app.dev.demo.redis import RedisServer

AT_ONCE = 30
_HEARTBEAT_SECONDS = SILENCE_SECONDS / 3
_ROUND_SECONDS = 30.0
"""What one run may take in the mean, leases aside, before the trial as a whole is given up."""
_SETTLE_SECONDS = 60.0
_BREAKAGES = ("run.broke", "request.crashed")


@dataclass(frozen=True, slots=True)
class Options:
    runs: int
    kill_every_seconds: float
    nodes: int
    seed: int
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is reported, besides the verdict."""

    options: Options
    evidence: Evidence
    injected: list[Injected]
    began: float
    seconds: float
    folder: Path
    """The nodes' logs."""


class Trial:
    """One trial under way."""

    def __init__(self, options: Options, progress: Callable[[str], None]) -> None:
        self._options = options
        self._progress = progress
        self._plans = plan.runs(options.seed, options.runs)
        self._folder = Path(tempfile.mkdtemp(prefix="aura-chaos-"))
        self._secret = secrets.token_urlsafe(48)
        self._clients: list[RunClient] = []

    async def run(self) -> Outcome:
        """The nodes' logs are kept where it comes to an outcome."""
        try:
            return await self._run()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    async def _run(self) -> Outcome:
        began = time.time()
        async with world(self._plans) as around:
            with RedisServer(persistent=True) as redis:
                environment = {**around.environment(), **self._settings()}
                async with Cluster(redis, environment, self._options.nodes, self._folder) as cluster:
                    evidence = await self._observe(cluster, around)
                    return Outcome(self._options, evidence, cluster.injected, began, time.time() - began, self._folder)

    def _settings(self) -> dict[str, str]:
        return {
            "JWT_SECRET": self._secret,
            "AURA_LEASE_SECONDS": f"{self._options.lease_seconds:g}",
            "AURA_HEARTBEAT_SECONDS": f"{_HEARTBEAT_SECONDS:g}",
        }

    async def _observe(self, cluster: Cluster, around: World) -> Evidence:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        async with (
            httpx2.AsyncClient(limits=limits, trust_env=False) as http,
            Redis.from_url(cluster.redis.url, socket_timeout=3) as redis,
        ):
            await self._go_through(cluster, http, redis)
            logs = {
                client.record.session_id: await _log(redis, client.record.session_id)
                for client in self._clients
                if client.record.session_id is not None
            }
            stored = frozenset([key.decode().rpartition(":")[2] async for key in redis.scan_iter("aura:*:events:*")])
        for node in cluster.nodes:
            await node.terminate()
        texts = [node.log_path.read_text(errors="replace") for node in cluster.nodes]
        node_logs = [takeover.lines(text) for text in texts]
        return Evidence(
            records=[client.record for client in self._clients],
            logs=logs,
            mails=around.mails(),
            pulls=around.pulls(),
            stored_runs=stored,
            planned=self._options.runs,
            node_problems=_node_problems(cluster, texts),
            takeovers=takeover.measure(node_logs, cluster.injected, self._options.lease_seconds),
        )

    async def _go_through(self, cluster: Cluster, http: httpx2.AsyncClient, redis: Redis) -> None:
        """Runs and faults side by side; when few runs are left, no new fault; then all has time to settle."""
        options = self._options
        faults = plan.faults(
            options.seed,
            nodes=options.nodes,
            every_seconds=options.kill_every_seconds,
            lease_seconds=options.lease_seconds,
        )
        enough = asyncio.Event()
        suffering = asyncio.create_task(cluster.suffer(faults, enough))
        telling = asyncio.create_task(self._tell(cluster))
        following: set[asyncio.Task[None]] = set()
        most_seconds = (options.runs / AT_ONCE + 1) * (_ROUND_SECONDS + 2 * options.lease_seconds)
        at_once = min(AT_ONCE, -(-options.runs // 3))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(most_seconds):
                    for run in self._plans:
                        await _fewer(following, at_once)
                        client = RunClient(run, cluster, http, redis, self._secret)
                        self._clients.append(client)
                        following.add(asyncio.create_task(client.follow()))
                    await _fewer(following, -(-at_once // 2))
            enough.set()
            await suffering
            if following:
                await asyncio.wait(following, timeout=_SETTLE_SECONDS + 2 * options.lease_seconds)
        finally:
            everything = [suffering, telling, *following]
            for task in everything:
                task.cancel()
            for result in await asyncio.gather(*everything, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    async def _tell(self, cluster: Cluster) -> None:
        while True:
            ended = sum(client.record.is_done for client in self._clients)
            hits = Counter(fault.kind.value for fault in cluster.injected)
            told = ", ".join(f"{count} {kind}" for kind, count in sorted(hits.items()))
            self._progress(f"{ended} of {self._options.runs} runs ended · {told or 'no fault yet'}")
            await asyncio.sleep(0.5)


async def _fewer(tasks: set[asyncio.Task[None]], count: int) -> None:
    """Wait until fewer than that many go on."""
    while len(running := [task for task in tasks if not task.done()]) >= count:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)


async def _log(redis: Redis, session_id: str) -> list[Frame]:
    (key,) = [key async for key in redis.scan_iter(f"aura:*:events:{session_id}")] or [b""]
    entries: Any = await redis.xrange(key) if key else []
    return [(int(id.partition(b"-")[0]), fields[b"b"]) for id, fields in entries]


def _node_problems(cluster: Cluster, texts: list[str]) -> list[str]:
    problems = []
    for node, text in zip(cluster.nodes, texts, strict=True):
        problems += [f"node {node.index} {problem}" for problem in node.problems]
        problems += [
            f"node {node.index}: {str(line)[:600]}" for line in takeover.lines(text) if line["event"] in _BREAKAGES
        ]
        if "Traceback" in text and not any(f"node {node.index}:" in problem for problem in problems):
            at = text.index("Traceback")
            problems.append(f"node {node.index}: {text[max(0, at - 200) : at + 800]}")
    return problems
