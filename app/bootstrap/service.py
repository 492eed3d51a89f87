"""The parts of one process, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog
from structlog.contextvars import bind_contextvars

from app.agents.catalog import AgentCatalog
from app.audit.service import Audit
from app.bootstrap.archive import RunArchive
from app.bootstrap.tools import ToolParts
from app.integrations.task_reporter import MainServiceReporter
from app.knowledge.service import Knowledge
from app.model.chat import OpenAIModel
from app.model.fallbacks import FallbackModel
from app.ports.journal import RunReader
from app.redis.approval_requests import RedisApprovalRequests
from app.redis.decisions import RedisDecisions
from app.redis.journal import RedisJournal
from app.redis.nodes import RedisNodes
from app.redis.open_streams import RedisStreamQuota
from app.redis.rights import RedisRights
from app.redis.wire.advice import configuration_advice
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
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

    connection: Connection
    rights: RedisRights
    pubsub: PubSub
    journal: RedisJournal
    open_streams: RedisStreamQuota
    requests: RedisApprovalRequests
    decisions: RedisDecisions
    nodes: RedisNodes
    model: OpenAIModel | FallbackModel
    tools: ToolParts
    agents: AgentCatalog
    runs: RunService
    streams: EventStreams
    knowledge: Knowledge | None
    task_reporter: MainServiceReporter | None
    audit: Audit
    replicas: int
    archive: RunArchive | None

    @property
    def reader(self) -> RunReader:
        """What reads runs: the journal, and the archive where there is one."""
        return reader_of(self.journal, self.archive)

    @property
    def admission(self) -> AdmissionQueue:
        return self.runs.admission

    async def start(self) -> None:
        bind_contextvars(nodeId=self.nodes.node_id)  # for the log lines of all tasks that start here
        advices, _ = await asyncio.gather(configuration_advice(self.connection, self.replicas), self.rights.report())
        for advice in advices:
            log.warning("redis.advised", advice=advice)
        await self.pubsub.start()
        await self.audit.start()
        await self.journal.start()
        await self.tools.start()  # before this node can take over runs, whose calls need the tools
        await self.open_streams.start()
        await self.decisions.start()
        self.runs.start_deadlines()
        await self.nodes.start()
        if self.knowledge is not None:
            await self.knowledge.start()
        if self.task_reporter is not None:
            await self.task_reporter.start()
        if self.archive is not None:
            self.archive.start()

    async def drain(self) -> None:
        """Stop the runs first, so that readers get their last committed step; then end the lease, so that other nodes
        continue at once; then end the streams, whose clients reconnect to another replica."""
        await self.runs.drain()
        await self.nodes.stop()
        self.journal.drain()

    async def stop(self) -> None:
        if not self.runs.is_draining:
            await self.drain()
        if self.knowledge is not None:
            await self.knowledge.stop()
        if self.task_reporter is not None:
            await self.task_reporter.stop()
        if self.archive is not None:
            await self.archive.stop()
        await self.tools.stop()
        await self.decisions.stop()
        await self.audit.stop()
        await self.journal.stop()
        await self.open_streams.stop()
        await self.pubsub.stop()
        await self.model.close()
        await self.connection.close()
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
            ignored_signals=self.decisions.ignored_signals,
        )


def reader_of(journal: RedisJournal, archive: RunArchive | None) -> RunReader:
    """Return what reads runs: the journal, and the archive where there is one."""
    return journal if archive is None else archive.reader
