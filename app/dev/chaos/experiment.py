"""One experiment: starts all processes, runs clients and faults concurrently, and collects the evidence."""

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
from app.dev.chaos.clients import READ_TIMEOUT_SECONDS, Frame, RunClient
from app.dev.chaos.cluster import Cluster, InjectedFault
from app.dev.chaos.environment import Environment, start_environment
from app.dev.chaos.verdict import Evidence
from app.dev.demo.redis import RedisServer
from app.redis.log_entries import log_entries
from app.setting_types import NO_QUOTAS
from statemachine.results import answer_text, is_last_content, with_result

AT_ONCE = 30
_HEARTBEAT_SECONDS = READ_TIMEOUT_SECONDS / 3
_ROUND_SECONDS = 30.0
"""How long a batch of `AT_ONCE` runs may take on average, without leases, before the experiment is stopped (s)."""
_SETTLE_SECONDS = 60.0
INTERNAL_ERRORS = ("run.failed_unexpectedly", "run.abandoned", "request.crashed")
"""The log events of internal errors, of this release and earlier ones."""


@dataclass(frozen=True, slots=True)
class Options:
    runs: int
    kill_every_seconds: float
    nodes: int
    seed: int
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """What an experiment produced; `verdict.judge` evaluates the evidence."""

    options: Options
    evidence: Evidence
    injected: list[InjectedFault]
    started_at: float
    seconds: float
    folder: Path
    """The directory that holds the logs of the nodes."""


class Experiment:
    """Runs one experiment; `progress` receives a text for the status display."""

    def __init__(self, options: Options, progress: Callable[[str], None]) -> None:
        self._options = options
        self._progress = progress
        self._plans = plan.runs(options.seed, options.runs)
        self._folder = Path(tempfile.mkdtemp(prefix="aura-chaos-"))
        self._secret = secrets.token_urlsafe(48)
        self._clients: list[RunClient] = []

    async def run(self) -> ExperimentResult:
        """Run the experiment. The logs of the nodes are kept, except where the experiment raises or is cancelled."""
        try:
            return await self._run()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    async def _run(self) -> ExperimentResult:
        started_at = time.time()
        async with start_environment(self._plans) as environment:
            with RedisServer(persistent=True) as redis:
                variables = {**environment.node_variables(), **self._settings()}
                async with Cluster(redis, variables, self._options.nodes, self._folder) as cluster:
                    evidence = await self._observe(cluster, environment)
                    return ExperimentResult(
                        self._options, evidence, cluster.injected, started_at, time.time() - started_at, self._folder
                    )

    def _settings(self) -> dict[str, str]:
        return {
            **NO_QUOTAS,
            "JWT_SECRET": self._secret,
            "AURA_LEASE_SECONDS": f"{self._options.lease_seconds:g}",
            "AURA_HEARTBEAT_SECONDS": f"{_HEARTBEAT_SECONDS:g}",
        }

    async def _observe(self, cluster: Cluster, environment: Environment) -> Evidence:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        async with (
            httpx2.AsyncClient(limits=limits, trust_env=False) as http,
            Redis.from_url(cluster.redis.url, socket_timeout=3) as redis,
        ):
            await self._run_clients_and_faults(cluster, http, redis)
            logs = {
                client.record.session_id: await _read_log(redis, client.record.session_id)
                for client in self._clients
                if client.record.session_id is not None
            }
            stored = frozenset([key.decode().rpartition(":")[2] async for key in redis.scan_iter("aura:*:events:*")])
        for node in cluster.nodes:
            await node.terminate()
        texts = [node.log_path.read_text(errors="replace") for node in cluster.nodes]
        node_logs = [takeover.parse_log(text) for text in texts]
        return Evidence(
            records=[client.record for client in self._clients],
            logs=logs,
            mails=environment.mails(),
            pulls=environment.pulls(),
            stored_runs=stored,
            planned=self._options.runs,
            node_problems=_node_problems(cluster, texts),
            takeovers=takeover.measure(node_logs, cluster.injected, self._options.lease_seconds),
        )

    async def _run_clients_and_faults(self, cluster: Cluster, http: httpx2.AsyncClient, redis: Redis) -> None:
        """Run clients and faults concurrently. Once few runs are left, no new fault is injected."""
        options = self._options
        faults = plan.faults(
            options.seed,
            nodes=options.nodes,
            every_seconds=options.kill_every_seconds,
            lease_seconds=options.lease_seconds,
        )
        stop = asyncio.Event()
        fault_task = asyncio.create_task(cluster.inject_faults(faults, stop))
        progress_task = asyncio.create_task(self._report_progress(cluster))
        client_tasks: set[asyncio.Task[None]] = set()
        max_seconds = (options.runs / AT_ONCE + 1) * (_ROUND_SECONDS + 2 * options.lease_seconds)
        at_once = min(AT_ONCE, -(-options.runs // 3))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max_seconds):
                    for run in self._plans:
                        await _wait_until_fewer(client_tasks, at_once)
                        client = RunClient(run, cluster, http, redis, self._secret)
                        self._clients.append(client)
                        client_tasks.add(asyncio.create_task(client.follow()))
                    await _wait_until_fewer(client_tasks, -(-at_once // 2))
            stop.set()
            await fault_task
            if client_tasks:
                await asyncio.wait(client_tasks, timeout=_SETTLE_SECONDS + 2 * options.lease_seconds)
        finally:
            everything = [fault_task, progress_task, *client_tasks]
            for task in everything:
                task.cancel()
            for result in await asyncio.gather(*everything, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    async def _report_progress(self, cluster: Cluster) -> None:
        while True:
            ended = sum(client.record.is_done for client in self._clients)
            counts = Counter(fault.kind.value for fault in cluster.injected)
            summary = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
            self._progress(f"{ended} of {self._options.runs} runs ended · {summary or 'no fault yet'}")
            await asyncio.sleep(0.5)


async def _wait_until_fewer(tasks: set[asyncio.Task[None]], count: int) -> None:
    """Wait until fewer than `count` of the tasks are still running."""
    while len(running := [task for task in tasks if not task.done()]) >= count:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)


async def _read_log(redis: Redis, session_id: str) -> list[Frame]:
    (key,) = [key async for key in redis.scan_iter(f"aura:*:events:{session_id}")] or [b""]
    entries: Any = await redis.xrange(key) if key else []
    frames: list[Frame] = []
    answer = ""
    for id, body in log_entries(entries):
        answer += answer_text(body)
        # What a reader gets of the last piece has the whole answer; the log has not.
        shown = with_result(body, answer) if is_last_content(body) else body
        frames.append((id, shown))
    return frames


def _node_problems(cluster: Cluster, texts: list[str]) -> list[str]:
    problems = []
    for node, text in zip(cluster.nodes, texts, strict=True):
        problems += [f"node {node.index} {problem}" for problem in node.problems]
        problems += [
            f"node {node.index}: {str(line)[:600]}"
            for line in takeover.parse_log(text)
            if line["event"] in INTERNAL_ERRORS
        ]
        if "Traceback" in text and not any(f"node {node.index}:" in problem for problem in problems):
            at = text.index("Traceback")
            problems.append(f"node {node.index}: {text[max(0, at - 200) : at + 800]}")
    return problems
