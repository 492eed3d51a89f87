"""Wires what one process reads and writes in Redis, and the archive of ended runs."""

from __future__ import annotations

from dataclasses import dataclass

from app.bootstrap.archive import RunArchive, make_outbox, make_run_archive
from app.bootstrap.connection import connect, make_nodes
from app.bootstrap.keys import make_checkpoints, make_seals
from app.crypto.purpose_keys import PurposeKeys
from app.ports.clock import Clock
from app.ports.journal import RunReader
from app.ports.quotas import Quotas
from app.redis.approval_requests import RedisApprovalRequests
from app.redis.checkpoints import Checkpoints
from app.redis.decisions import RedisDecisions
from app.redis.journal import RedisJournal
from app.redis.nodes import RedisNodes
from app.redis.open_streams import RedisStreamQuota
from app.redis.quotas import MEGABYTE, RedisTenants, RedisWaitingQuota
from app.redis.rights import RedisRights
from app.redis.sender_diagnostics import SenderDiagnostics
from app.redis.wire.acknowledgements import Acknowledgements
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one process. Nothing connects before it is used."""

    node_id: str
    connection: Connection
    pubsub: PubSub
    rights: RedisRights
    checkpoints: Checkpoints
    requests: RedisApprovalRequests
    decisions: RedisDecisions
    nodes: RedisNodes
    journal: RedisJournal
    open_streams: RedisStreamQuota
    waiting: RedisWaitingQuota
    archive: RunArchive | None

    @property
    def reader(self) -> RunReader:
        """What reads runs: the journal, and the archive where there is one."""
        return self.journal if self.archive is None else self.archive.reader


def make_stores(settings: Settings, keys: PurposeKeys, clock: Clock) -> Stores:
    """Build the stores of the settings."""
    node_id, connection, pubsub = connect(settings)
    seals, diagnostics = make_seals(settings, keys), SenderDiagnostics(connection, clock)
    acknowledgements = Acknowledgements(connection, settings.aura_redis_replicas)
    requests = RedisApprovalRequests(connection, seals.requests, diagnostics, clock, acknowledgements)
    checkpoints = make_checkpoints(settings, connection, seals, clock)
    nodes = make_nodes(settings, connection, pubsub, node_id, acknowledgements)
    quotas, outbox = _quotas(settings), make_outbox(settings, connection)
    tenants = RedisTenants(connection, clock, quotas, retention_seconds=settings.aura_retention_seconds)
    journal = RedisJournal(connection, pubsub, nodes, checkpoints, tenants, quotas, acknowledgements, outbox)
    return Stores(
        node_id=node_id,
        connection=connection,
        pubsub=pubsub,
        rights=RedisRights(connection, settings.aura_event_channels if settings.aura_knowledge else ()),
        checkpoints=checkpoints,
        requests=requests,
        decisions=RedisDecisions(connection, pubsub, requests, seals.requests, checkpoints, diagnostics, clock),
        nodes=nodes,
        journal=journal,
        open_streams=RedisStreamQuota(connection, lambda: nodes.node_id, quotas.streams_per_user),
        waiting=RedisWaitingQuota(connection, clock, quotas.waiting_per_user),
        archive=make_run_archive(settings, journal, outbox, clock),
    )


def _quotas(settings: Settings) -> Quotas:
    return Quotas(
        runs_per_minute_user=settings.aura_runs_per_minute_user,
        runs_per_minute_tenant=settings.aura_runs_per_minute_tenant,
        runs_per_user=settings.aura_max_runs_per_user,
        waiting_per_user=settings.aura_max_waiting_per_user,
        stored_bytes_user=int(settings.aura_stored_megabytes_user * MEGABYTE),
        stored_bytes_tenant=int(settings.aura_stored_megabytes_tenant * MEGABYTE),
        streams_per_user=settings.aura_max_streams_per_user,
    )
