"""Wires where the record of decisions is stored."""

from __future__ import annotations

from app.audit.service import open_archive
from app.ports.audit import AuditArchive
from app.redis.audit import RedisAuditStore
from app.redis.wire.connection import Connection
from app.settings import Settings


def make_audit_stores(settings: Settings, connection: Connection) -> tuple[RedisAuditStore, AuditArchive | None]:
    """Build the store of the record, and its archive where one is configured. Nothing connects before it is used."""
    url = settings.aura_audit_url
    store = RedisAuditStore(connection, retention_days=settings.aura_audit_retention_days)
    return store, open_archive(None if url is None else url.get_secret_value())
