"""One experiment: starts all processes, runs clients and faults concurrently, and collects the evidence."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from app.dev.chaos import faults, plan, takeover
from app.dev.chaos.clients import READ_TIMEOUT_SECONDS, Frame, RunClient
from app.dev.chaos.cluster import Cluster
from app.dev.chaos.environment import Environment, start_environment
from app.dev.chaos.faults import FaultKind, RedisKind
from app.dev.chaos.injected import InjectedFault
from app.dev.chaos.mcp_process import is_sdk_installed
from app.dev.chaos.storage import STORAGES
from app.dev.chaos.verdict import Evidence
from app.redis import keys
from app.redis.log_entries import log_entries
from app.redis.wire.connection import Connection
from app.retry import retry_until_available
from app.settings.quotas import NO_QUOTAS
from statemachine.results import answer_text, is_last_content, with_result

AT_ONCE = 30
_HEARTBEAT_SECONDS = READ_TIMEOUT_SECONDS / 3
_ROUND_SECONDS = 30.0
"""How long a batch of `AT_ONCE` runs may take on average, without leases, before the experiment is stopped (s)."""
_OUTAGE_SECONDS = {RedisKind.SINGLE: 0.0, RedisKind.CLUSTER: 30.0, RedisKind.SENTINEL: 30.0}
"""What failovers may add to that (s)."""
_SETTLE_SECONDS = 60.0
_REDIS_TIMEOUT_SECONDS = 3.0
_READ_SECONDS = 60.0
"""How long Redis may be unavailable while the evidence is collected (s)."""
_COME_BACK_SECONDS = 15.0
"""How long a node may need after a fault until it is connected to the MCP server again (s)."""
_MAX_TURNS = 60
"""The model calls a tool of the MCP server again while that server starts, which can take long under load."""
INTERNAL_ERRORS = ("run.failed_unexpectedly", "run.abandoned", "request.crashed")
"""The log events of internal errors, of this release and earlier ones."""


@dataclass(frozen=True, slots=True)
class Options:
    """`replicas` is how many replicas acknowledge what must not be lost; 0 for one server."""

    runs: int
    kill_every_seconds: float
    nodes: int
    seed: int
    lease_seconds: float
    redis: RedisKind = RedisKind.SINGLE
    replicas: int = 0


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
        self._with_mcp = is_sdk_installed()
        self._plans = plan.runs(options.seed, options.runs, with_mcp=self._with_mcp)
        self._folder = Path(tempfile.mkdtemp(prefix="aura-chaos-"))
        self._secret = secrets.token_urlsafe(48)
        self._clients: list[RunClient] = []
        self._injected: list[InjectedFault] = []
        self._started_at = time.time()
        self._main: asyncio.Task[Any] | None = None
        self._is_interrupted = self._is_collecting = False

    def interrupt(self) -> None:
        """End the experiment now. What it has shown so far is judged all the same; the second call stops even that."""
        is_second, self._is_interrupted = self._is_interrupted, True
        if self._main is not None and (is_second or not self._is_collecting):
            self._main.cancel()

    async def run(self) -> ExperimentResult:
        """Run the experiment. The logs of the nodes are kept, except where it raises or is interrupted twice."""
        self._main = asyncio.current_task()
        try:
            return await self._run()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    async def _run(self) -> ExperimentResult:
        options = self._options
        collected: dict[str, Any] = {}
        try:
            async with (
                start_environment(self._plans, self._folder, with_mcp=self._with_mcp) as environment,
                STORAGES[options.redis](options.replicas) as storage,
                Cluster(
                    storage,
                    {**environment.node_variables(), **self._settings()},
                    options.nodes,
                    self._folder,
                    environment.mcp,
                ) as cluster,
            ):
                self._injected = cluster.injected
                collected = await self._observe(cluster, environment)
        except asyncio.CancelledError:  # while the processes were starting: nothing has run yet
            if not self._continue_interrupted():
                raise
        seconds = time.time() - self._started_at
        evidence = self._evidence(**collected)
        return ExperimentResult(options, evidence, self._injected, self._started_at, seconds, self._folder)

    def _continue_interrupted(self) -> bool:
        """Return whether the cancellation was the first interruption, after which the evidence is collected."""
        if not self._is_interrupted or self._is_collecting or self._main is None:
            return False
        self._is_collecting = True
        return self._main.uncancel() == 0

    def _settings(self) -> dict[str, str]:
        return {
            **NO_QUOTAS,
            "JWT_SECRET": self._secret,
            "AURA_LEASE_SECONDS": f"{self._options.lease_seconds:g}",
            "AURA_HEARTBEAT_SECONDS": f"{_HEARTBEAT_SECONDS:g}",
            "AURA_REDIS_REPLICAS": str(self._options.replicas),
            "AURA_MAX_TURNS": str(_MAX_TURNS),
        }

    async def _observe(self, cluster: Cluster, environment: Environment) -> dict[str, Any]:
        """Run clients and faults, and return what the experiment then finds, as fields of `Evidence`.

        Once the evidence is collected, the first interruption no longer stops anything: the collection ends soon.
        """
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        redis = Connection(cluster.storage.url, timeout_seconds=_REDIS_TIMEOUT_SECONDS)
        try:
            async with httpx2.AsyncClient(limits=limits, trust_env=False) as http:
                try:
                    await self._run_clients_and_faults(cluster, http, redis)
                except asyncio.CancelledError:
                    if not self._continue_interrupted():
                        raise
                self._is_collecting = True
            await cluster.storage.settle()
            found = await self._read_storage(cluster, redis)
        finally:
            await redis.close()
        for node in cluster.nodes:
            if node.up_since is None:  # it is just starting, which only an interruption can leave so
                node.kill()
            else:
                await node.terminate()
        texts = [node.log_path.read_text(errors="replace") for node in cluster.nodes]
        node_logs = [takeover.parse_log(text) for text in texts]
        return {
            **found,
            "executions": environment.executions(),
            "keys": environment.keys(),
            "node_problems": [
                *_node_problems(cluster, texts),
                *cluster.storage.problems,
                *environment.problems(),
            ],
            "takeovers": takeover.measure(node_logs, cluster.injected, self._options.lease_seconds),
        }

    async def _read_storage(self, cluster: Cluster, redis: Connection) -> dict[str, Any]:
        """Return the stored logs and runs. Where Redis does not come back, that is a problem, and some are missing."""
        logs: dict[str, list[Frame]] = {}
        stored: list[bytes] = []
        try:
            for session_id in (client.record.session_id for client in self._clients):
                if session_id is not None:
                    async with asyncio.timeout(_READ_SECONDS):
                        logs[session_id] = await _read_log(redis, session_id)
            async with asyncio.timeout(_READ_SECONDS):
                stored = await retry_until_available(lambda: redis.find_keys("aura:*:events:*"))
        except TimeoutError:
            cluster.storage.problems.append(
                f"Redis was unavailable for {_READ_SECONDS:g} s at the end: {len(logs)} logs were read"
            )
        return {"logs": logs, "stored_runs": frozenset(key.decode().rpartition(":")[2] for key in stored)}

    def _evidence(self, **collected: Any) -> Evidence:
        """Return the evidence: what is known here already, and what was collected."""
        with_replicas = self._options.replicas > 0
        return Evidence(
            records=[client.record for client in self._clients],
            planned=self._options.runs,
            lossy_times=[
                (fault.since, fault.until)
                for fault in self._injected
                if fault.replaced_master
                and (fault.kind.certainly_lags or fault.replaced_successor or not with_replicas)
            ],
            has_replicas=with_replicas,
            has_mcp=self._with_mcp,
            away_times=[
                (fault.since, fault.until + _COME_BACK_SECONDS)
                for fault in self._injected
                if fault.kind is FaultKind.MCP_KILL or fault.kind.ends_lease
            ],
            is_interrupted=self._is_interrupted,
            **collected,
        )

    async def _run_clients_and_faults(self, cluster: Cluster, http: httpx2.AsyncClient, redis: Connection) -> None:
        """Run clients and faults concurrently. Once few runs are left, no new fault is injected."""
        options = self._options
        stop = asyncio.Event()
        fault_task = asyncio.create_task(cluster.inject_faults(self._faults(), stop))
        progress_task = asyncio.create_task(self._report_progress(cluster))
        client_tasks: set[asyncio.Task[None]] = set()
        round_seconds = _ROUND_SECONDS + 2 * options.lease_seconds + _OUTAGE_SECONDS[options.redis]
        max_seconds = (options.runs / AT_ONCE + 1) * round_seconds
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
            await _cancel_all([fault_task, progress_task, *client_tasks])

    def _faults(self) -> Iterator[faults.Fault]:
        options = self._options
        return faults.faults(
            options.seed,
            nodes=options.nodes,
            every_seconds=options.kill_every_seconds,
            lease_seconds=options.lease_seconds,
            redis=options.redis,
            with_mcp=self._with_mcp,
        )

    async def _report_progress(self, cluster: Cluster) -> None:
        while True:
            ended = sum(client.record.is_done for client in self._clients)
            counts = Counter(fault.kind.value for fault in cluster.injected)
            summary = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
            self._progress(f"{ended} of {self._options.runs} runs ended · {summary or 'no fault yet'}")
            await asyncio.sleep(0.5)


async def _cancel_all(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel the tasks and wait for their ends. Raises the first error of one of them."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


async def _wait_until_fewer(tasks: set[asyncio.Task[None]], count: int) -> None:
    """Wait until fewer than `count` of the tasks are still running."""
    while len(running := [task for task in tasks if not task.done()]) >= count:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)


async def _read_log(redis: Connection, session_id: str) -> list[Frame]:
    entries: Any = await retry_until_available(lambda: redis.execute("XRANGE", keys.events(session_id), "-", "+"))
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
