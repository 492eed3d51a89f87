"""Wires the erasure of a person's data for the command `aura erase`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.archive.erasure import ArchivedData, Erasure
from app.audit.service import Audit
from app.bootstrap.archive import open_run_archive
from app.bootstrap.audit import make_audit
from app.bootstrap.connection import connect, make_nodes
from app.bootstrap.keys import make_purpose_keys
from app.bootstrap.knowledge import make_knowledge
from app.bootstrap.tools import make_tools
from app.clock import SystemClock
from app.knowledge.erasure import KnowledgeData
from app.knowledge.service import Knowledge
from app.ports.erasure import Counts, PersonalData
from app.redis.erasure import RedisRunData
from app.redis.wire.acknowledgements import Acknowledgements
from app.settings import Settings


class PersonEraser:
    """The erasure, and the index of events that is stored and therefore built anew by the command itself."""

    def __init__(self, settings: Settings, erasure: Erasure, knowledge: Knowledge, audit: Audit) -> None:
        self._has_stored_index = settings.aura_knowledge_path is not None or settings.aura_knowledge_url is not None
        self._knowledge = knowledge
        self._audit = audit
        self.erasure = erasure

    async def erase(self, tenant_id: str, user_id: str, *, cancel: bool) -> Counts:
        """Remove everything, and return what was removed. Raises `RunsActive`, `StorageUnavailable`."""
        await self._audit.start()
        try:
            removed = await self.erasure.erase(tenant_id, user_id, cancel=cancel)
        finally:
            await self._audit.stop()
        if "domain events" in removed and self._has_stored_index:
            for tenant in await self._knowledge.events.list_tenants():
                await self._knowledge.catch_up(tenant)
        return removed


@asynccontextmanager
async def person_eraser(settings: Settings) -> AsyncIterator[PersonEraser]:
    """The parts that the command needs, connected to what the settings name."""
    clock = SystemClock()
    node_id, connection, pubsub = connect(settings)
    archive = open_run_archive(settings)
    knowledge = make_knowledge(settings, connection, pubsub, node_id, clock)
    others: list[PersonalData] = [
        KnowledgeData(knowledge.events),
        *([] if archive is None else [ArchivedData(archive, clock)]),
    ]
    acknowledgements = Acknowledgements(connection, settings.aura_redis_replicas)
    nodes = make_nodes(settings, connection, pubsub, node_id, acknowledgements)
    tools = make_tools(settings, make_purpose_keys(settings), clock, knowledge)
    audit = make_audit(settings, connection, node_id, clock, tools.registry)
    erasure = Erasure(RedisRunData(connection), others, nodes, audit.trail)
    try:
        yield PersonEraser(settings, erasure, knowledge, audit)
    finally:
        await knowledge.stop()
        if archive is not None:
            await archive.close()
        await connection.close()
