"""The record of decisions in tests: a trail that keeps what it gets, and chains that an attacker rewrites."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import redis

from app.ports.audit import AuditEvent, AuthenticationFailed, RequestRefused
from app.redis import keys

Rows = list[tuple[str, dict[bytes, bytes]]]


class KeptTrail:
    """A trail that keeps its events in a list."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    def record(self, tenant_id: str, event: AuditEvent) -> None:
        self.events.append(event)

    async def write(self, tenant_id: str, event: AuditEvent) -> None:
        self.events.append(event)

    def record_refusal(self, tenant_id: str, event: RequestRefused) -> None:
        self.events.append(event)

    def record_failure(self, failure: AuthenticationFailed) -> None:
        self.events.append(failure)


class StoredRecord:
    """The record in Redis, as somebody sees and changes it who has Redis, and not the key."""

    def __init__(self, address: str) -> None:
        self.redis: Any = redis.Redis.from_url(address)

    def chain_names(self, tenant: str = "tenant1") -> list[str]:
        return [name.decode() for name in self.redis.zrange(keys.audit_chains(tenant), 0, -1)]

    def key(self, tenant: str = "tenant1") -> str:
        (name,) = self.chain_names(tenant)
        return keys.audit_chain(tenant, name)

    def rows(self, tenant: str = "tenant1") -> Rows:
        return [(id.decode(), fields) for id, fields in self.redis.xrange(self.key(tenant))]

    def stored(self, key: str) -> list[dict[str, Any]]:
        """The events of one stream."""
        return [json.loads(fields[b"b"]) for _, fields in self.redis.xrange(key)]

    def events(self, tenant: str = "tenant1") -> list[dict[str, Any]]:
        """All events of a tenant, chain by chain."""
        names = self.chain_names(tenant)
        return [event for name in names for event in self.stored(keys.audit_chain(tenant, name))]

    def kinds(self, tenant: str = "tenant1") -> list[str]:
        return [event["kind"] for event in self.events(tenant)]

    def rewrite(self, change: Callable[[Rows], Rows]) -> None:
        """Replace the chain of tenant1 by what `change` makes of it."""
        key, rows = self.key(), self.rows()
        self.redis.delete(key)
        for id, fields in change(rows):
            self.redis.xadd(key, fields, id=id)
