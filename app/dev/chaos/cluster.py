"""The nodes of an experiment and the faults that are injected into them.

Each node is `aura serve` in its own process, with its own proxied connection to Redis (`Link`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import httpx2

import app
from app.dev.chaos.link import Link
from app.dev.chaos.plan import Fault, FaultKind
from app.dev.demo.redis import RedisServer
from app.server.parent import exit_with_parent

_START_SECONDS = 60.0
_STOP_SECONDS = 25.0
_POLL_SECONDS = 0.05
_MAX_WAIT_SECONDS = 60.0
_MIN_UPTIME_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """A fault that was injected, with its start and end (Unix s). `node` is -1 for a fault of Redis."""

    kind: FaultKind
    node: int
    since: float
    until: float


class Node:
    """One node. Its process is started again whenever it has ended."""

    def __init__(self, index: int, environment: Mapping[str, str], link: Link, folder: Path) -> None:
        self.index = index
        self.port = _free_port()
        self.link = link
        self.log_path = folder / f"node-{index}.log"
        self.up_since: float | None = None
        """When the node became ready (event loop time, s); None while it is down, starting, or has a fault."""
        self.takes_requests = False
        """Whether clients may choose the node: it has been ready, and is not known to be down."""
        self.problems: list[str] = []
        """Unexpected behaviour, as texts: exits that were not caused by a fault, slow starts, exit codes."""
        self._environment = {**environment, "REDIS_URL": link.url}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def start(self) -> None:
        """Start the process and wait until it is ready. A process that exits meanwhile is started again."""
        try:
            async with asyncio.timeout(_START_SECONDS), httpx2.AsyncClient(timeout=2, trust_env=False) as http:
                while True:
                    if await self._is_ready(http):
                        break
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            self.problems.append(f"was not ready after {_START_SECONDS:g} s")
            return
        self.takes_requests = True
        self.up_since = asyncio.get_running_loop().time()

    async def _is_ready(self, http: httpx2.AsyncClient) -> bool:
        if self._process is None or self._process.poll() is not None:
            if self._process is not None:
                self.problems.append(f"ended by itself with {self._process.returncode}")
            self._launch()
        with contextlib.suppress(httpx2.HTTPError):
            return bool((await http.get(f"{self.url}/ready")).status_code == 200)
        return False

    def _launch(self) -> None:
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve", "--env-file", os.devnull, "--bind", f"127.0.0.1:{self.port}"],
                cwd=Path(app.__file__).parents[1],
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C must reach only this process, which then stops the nodes in order
                preexec_fn=exit_with_parent(),  # noqa: PLW1509 - two system calls, no lock taken
            )

    def mark_down(self) -> None:
        self.up_since, self.takes_requests = None, False

    async def wait_for_exit(self) -> int:
        """Wait until the process exits and return its exit code. It is killed after `_STOP_SECONDS`."""
        if self._process is None:
            raise RuntimeError("the node is not running")
        until = asyncio.get_running_loop().time() + _STOP_SECONDS
        while self._process.poll() is None:
            if asyncio.get_running_loop().time() > until:
                self._process.kill()
            await asyncio.sleep(_POLL_SECONDS)
        code, self._process = self._process.returncode, None
        return code

    async def terminate(self) -> None:
        self.signal(signal.SIGTERM)
        code = await self.wait_for_exit()
        if code:
            self.problems.append(f"ended with {code} at SIGTERM")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Cluster:
    """All nodes and their Redis; also an async context manager, which waits until every node is ready."""

    def __init__(self, redis: RedisServer, environment: Mapping[str, str], count: int, folder: Path) -> None:
        self.redis = redis
        self.injected: list[InjectedFault] = []
        self._environment = environment
        self._count = count
        self._folder = folder
        self._redis_has_fault = False
        self.nodes: list[Node] = []

    async def __aenter__(self) -> Self:
        try:
            for index in range(self._count):
                link = Link(self.redis.port)
                await link.open()
                self.nodes.append(Node(index, self._environment, link, self._folder))
            await asyncio.gather(*(node.start() for node in self.nodes))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        for node in self.nodes:
            await node.link.close()

    def pick(self, rng: random.Random) -> Node | None:
        """Choose a node for a client: any that is not known to be down, even if it is paused or disconnected."""
        open_nodes = [node for node in self.nodes if node.takes_requests]
        return rng.choice(open_nodes) if open_nodes else None

    async def inject_faults(self, plan: Iterable[Fault], stop: asyncio.Event) -> None:
        """Inject the plan's faults until `stop` is set; then wait until every fault is over and every node is ready."""
        started: set[asyncio.Task[None]] = set()
        last_at = 0.0
        try:
            for fault in plan:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(fault.at_seconds - last_at):
                        await stop.wait()
                last_at = fault.at_seconds
                targeted = await self._choose_target(fault, stop)
                if stop.is_set():
                    break
                if targeted is not None:
                    started.add(asyncio.create_task(self._inject(targeted)))
                    await asyncio.sleep(0)
            await asyncio.gather(*started)
        finally:
            for task in started:
                task.cancel()
            await asyncio.gather(*started, return_exceptions=True)

    async def _choose_target(self, fault: Fault, stop: asyncio.Event) -> Fault | None:
        """Wait until the fault can be injected, and return it.

        A fault of a node needs a second node that can take over; it is moved to the next ready node where its own is
        not ready. None where `stop` is set or `_MAX_WAIT_SECONDS` have passed.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _MAX_WAIT_SECONDS
        while loop.time() < until and not stop.is_set():
            settled = [
                node.index
                for node in (*self.nodes[fault.node :], *self.nodes[: fault.node])
                if node.up_since is not None and loop.time() - node.up_since > _MIN_UPTIME_SECONDS
            ]
            if fault.kind.affects_redis and not self._redis_has_fault:
                return fault
            if not fault.kind.affects_redis and len(settled) > 1:
                return replace(fault, node=settled[0])
            await asyncio.sleep(_POLL_SECONDS)
        return None

    async def _inject(self, fault: Fault) -> None:
        since = time.time()
        if fault.kind.affects_redis:
            self._redis_has_fault = True
            try:
                await self._apply_to_redis(fault)
            finally:
                self._redis_has_fault = False
            self.injected.append(InjectedFault(fault.kind, -1, since, time.time()))
            return
        node = self.nodes[fault.node]
        node.up_since = None
        async with self._recorded(fault, since):
            await self._apply_to_node(node, fault)

    @contextlib.asynccontextmanager
    async def _recorded(self, fault: Fault, since: float) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.injected.append(InjectedFault(fault.kind, fault.node, since, time.time()))

    async def _apply_to_node(self, node: Node, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.KILL:
                node.mark_down()
                node.signal(signal.SIGKILL)
                await node.wait_for_exit()
                await asyncio.sleep(fault.duration_seconds)
                await node.start()
            case FaultKind.TERMINATE:
                node.takes_requests = False  # as a load balancer does, which polls /ready
                await node.terminate()
                await asyncio.sleep(fault.duration_seconds)
                await node.start()
            case FaultKind.PAUSE:
                node.signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(fault.duration_seconds)
                finally:
                    node.signal(signal.SIGCONT)
                await node.start()
            case FaultKind.CUT:
                node.link.cut()
                try:
                    await asyncio.sleep(fault.duration_seconds)
                finally:
                    node.link.mend()
                await node.start()

    async def _apply_to_redis(self, fault: Fault) -> None:
        if fault.kind is FaultKind.REDIS_PAUSE:
            self.redis.pause()
            try:
                await asyncio.sleep(fault.duration_seconds)
            finally:
                self.redis.resume()
        else:
            self.redis.kill()
            await asyncio.sleep(fault.duration_seconds)
            self.redis.restart(keep_data=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
