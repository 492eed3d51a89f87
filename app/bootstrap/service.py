"""The parts of one process, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog
from structlog.contextvars import bind_contextvars

from app.agents.catalog import AgentCatalog
from app.audit.service import Audit
from app.bootstrap.stores import Stores
from app.bootstrap.tools import ToolParts
from app.integrations.task_reporter import MainServiceReporter
from app.knowledge.service import Knowledge
from app.model.chat import OpenAIModel
from app.model.fallbacks import FallbackModel
from app.redis.wire.advice import configuration_advice
from app.runs.admission import AdmissionQueue
from app.runs.service import RunService
from app.web.sse import EventStreams

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """Counts of one process, logged when it stops."""

    starting_runs: int
    active_runs: int
    waiting_runs: int
    open_streams: int
    ignored_signals: int


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one process that are started and stopped, in the order in which they start."""

    stores: Stores
    model: OpenAIModel | FallbackModel
    tools: ToolParts
    agents: AgentCatalog
    runs: RunService
    streams: EventStreams
    knowledge: Knowledge | None
    task_reporter: MainServiceReporter | None
    audit: Audit
    replicas: int

    @property
    def admission(self) -> AdmissionQueue:
        return self.runs.admission

    async def start(self) -> None:
        bind_contextvars(nodeId=self.stores.nodes.node_id)  # for the log lines of all tasks that start here
        advices, _ = await asyncio.gather(
            configuration_advice(self.stores.connection, self.replicas), self.stores.rights.report()
        )
        for advice in advices:
            log.warning("redis.advised", advice=advice)
        await self.stores.pubsub.start()
        await self.audit.start()
        await self.stores.journal.start()
        await self.tools.start()  # before this node can take over runs, whose calls need the tools
        await self.stores.open_streams.start()
        await self.stores.decisions.start()
        self.runs.start_deadlines()
        await self.stores.nodes.start()
        if self.knowledge is not None:
            await self.knowledge.start()
        if self.task_reporter is not None:
            await self.task_reporter.start()
        if self.stores.archive is not None:
            self.stores.archive.start()

    async def drain(self) -> None:
        """Stop the runs first, so that readers get their last committed step; then end the lease, so that other nodes
        continue at once; then end the streams, whose clients reconnect to another replica."""
        await self.runs.drain()
        await self.stores.nodes.stop()
        self.stores.journal.drain()

    async def stop(self) -> None:
        if not self.runs.is_draining:
            await self.drain()
        if self.knowledge is not None:
            await self.knowledge.stop()
        if self.task_reporter is not None:
            await self.task_reporter.stop()
        if self.stores.archive is not None:
            await self.stores.archive.stop()
        await self.tools.stop()
        await self.stores.decisions.stop()
        await self.audit.stop()
        await self.stores.journal.stop()
        await self.stores.open_streams.stop()
        await self.stores.pubsub.stop()
        await self.model.close()
        await self.stores.connection.close()
        await asyncio.sleep(0)
        stats = self.stats()
        log.info("service.stopped", ignoredSignals=stats.ignored_signals, openStreams=stats.open_streams)

    def stats(self) -> ServiceStats:
        counts = self.runs.counts()
        return ServiceStats(
            starting_runs=counts.starting,
            active_runs=counts.active,
            waiting_runs=counts.waiting,
            open_streams=len(self.streams),
            ignored_signals=self.stores.decisions.ignored_signals,
        )
