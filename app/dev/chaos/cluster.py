"""The nodes of an experiment and the faults that are injected into them, into their Redis and their MCP server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

from app.dev.chaos.abstract_storage import Storage
from app.dev.chaos.faults import Fault, FaultKind
from app.dev.chaos.injected import InjectedFault, Outage
from app.dev.chaos.link import Links
from app.dev.chaos.mcp_process import McpServerProcess
from app.dev.chaos.node import Node

_POLL_SECONDS = 0.05
_MAX_WAIT_SECONDS = 60.0
_MIN_UPTIME_SECONDS = 0.5


class Cluster:
    """All nodes and their Redis; also an async context manager, which waits until every node is ready."""

    def __init__(
        self,
        storage: Storage,
        environment: Mapping[str, str],
        count: int,
        folder: Path,
        mcp: McpServerProcess | None = None,
    ) -> None:
        self.storage = storage
        self._mcp = mcp
        self._mcp_has_fault = False
        self.injected: list[InjectedFault] = []
        self._environment = environment
        self._count = count
        self._folder = folder
        self._redis_has_fault = False
        self._links: list[Links] = []
        self.nodes: list[Node] = []

    async def __aenter__(self) -> Self:
        try:
            for index in range(self._count):
                links = self.storage.links(index)
                self._links.append(links)
                await links.open()
                self.nodes.append(Node(index, self._environment, links, self._folder))
            await asyncio.gather(*(node.start() for node in self.nodes))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        for links in self._links:
            await links.close()

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
            if fault.kind is FaultKind.MCP_KILL and not self._mcp_has_fault:
                return fault
            if fault.kind.affects_node and len(settled) > 1:
                return replace(fault, node=settled[0])
            await asyncio.sleep(_POLL_SECONDS)
        return None

    async def _inject(self, fault: Fault) -> None:
        if fault.kind.affects_redis:
            self._redis_has_fault = True
            try:
                await self.storage.settle()
                with self._recorded(fault.kind, -1) as outage:
                    await self.storage.inject(fault, outage)
            finally:
                self._redis_has_fault = False
            return
        if fault.kind is FaultKind.MCP_KILL:
            await self._kill_mcp_server(fault)
            return
        node = self.nodes[fault.node]
        node.up_since = None
        with self._recorded(fault.kind, fault.node) as outage:
            await self._apply_to_node(node, fault, outage)
        await node.start()

    async def _kill_mcp_server(self, fault: Fault) -> None:
        if self._mcp is None:
            raise ValueError("there is no MCP server")
        self._mcp_has_fault = True
        try:
            await self._mcp.wait_for_write()
            with self._recorded(fault.kind, -1) as outage:
                outage.calls_under_way = self._mcp.kill()
                await asyncio.sleep(fault.duration_seconds)
                await self._mcp.start()
        finally:
            self._mcp_has_fault = False

    @contextlib.contextmanager
    def _recorded(self, kind: FaultKind, node: int) -> Iterator[Outage]:
        since, outage = time.time(), Outage()
        try:
            yield outage
        finally:
            until = time.time()
            span = (outage.since, min(until, outage.until)) if outage.until else None
            replaced = (outage.replaces_master, outage.replaces_successor)
            self.injected.append(
                InjectedFault(kind, node, since, until, span, *replaced, calls_under_way=outage.calls_under_way)
            )

    async def _apply_to_node(self, node: Node, fault: Fault, outage: Outage) -> None:
        """Carry out a fault of a node, which must be started or waited for afterwards."""
        match fault.kind:
            case FaultKind.KILL:
                node.mark_down()
                node.signal(signal.SIGKILL)
                await node.wait_for_exit()
                await asyncio.sleep(fault.duration_seconds)
            case FaultKind.TERMINATE:
                node.takes_requests = False  # as a load balancer does, which polls /ready
                await node.terminate()
                await asyncio.sleep(fault.duration_seconds)
            case FaultKind.PAUSE:
                node.signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(fault.duration_seconds)
                finally:
                    node.signal(signal.SIGCONT)
            case FaultKind.CUT:
                await self._cut(node, fault, None)
            case FaultKind.MASTER_CUT:
                port = await self.storage.master_port(fault.node)
                outage.begin()
                await self._cut(node, fault, port)
                outage.end()

    async def _cut(self, node: Node, fault: Fault, port: int | None) -> None:
        node.links.cut(port)
        try:
            await asyncio.sleep(fault.duration_seconds)
        finally:
            node.links.mend()
