"""Wires the record of decisions."""

from __future__ import annotations

from app.audit.policy import load_policy
from app.audit.service import Audit, audit_keys, open_archive
from app.ports.audit import AuditArchive
from app.ports.clock import Clock
from app.redis.audit import RedisAuditStore
from app.redis.wire.connection import Connection
from app.settings import Settings
from app.tools.registry import ToolRegistry
from app.web.routes.health import VERSION


def make_audit(settings: Settings, connection: Connection, node_id: str, clock: Clock, toolbox: ToolRegistry) -> Audit:
    """Build the record of one process, whose first entry says which settings and which tools it has."""
    secrets, days = settings.audit_secrets, settings.aura_audit_retention_days
    risky = [tool.name for tool in toolbox.select() if tool.needs_approval]
    policy = load_policy(settings.model_dump(), audit_keys(secrets)[0], version=VERSION, approval_required=risky)
    store, archive = make_audit_stores(settings, connection)
    return Audit.build(store, archive, secrets, node_id, clock, policy, retention_days=days)


def make_audit_stores(settings: Settings, connection: Connection) -> tuple[RedisAuditStore, AuditArchive | None]:
    """Build the store of the record, and its archive where one is configured. Nothing connects before it is used."""
    url = settings.aura_audit_url
    store = RedisAuditStore(connection, retention_days=settings.aura_audit_retention_days)
    return store, open_archive(None if url is None else url.get_secret_value())
