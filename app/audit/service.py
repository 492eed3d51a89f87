"""The parts of the record in one process, built, started and stopped together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.audit.export import Exporter
from app.audit.queries import AuditQueries
from app.audit.trail import ChainedAuditTrail
from app.crypto.purpose_keys import Purpose, PurposeKeys
from app.ports.audit import AuditArchive, AuditStore, PolicyLoaded
from app.ports.clock import Clock


@dataclass(frozen=True, slots=True)
class Audit:
    """The trail that records, the queries of auditors, and the export where a database is configured."""

    trail: ChainedAuditTrail
    queries: AuditQueries
    exporter: Exporter | None

    @classmethod
    def build(
        cls,
        store: AuditStore,
        archive: AuditArchive | None,
        secrets: Sequence[str],
        node_id: str,
        clock: Clock,
        policy: PolicyLoaded,
        *,
        retention_days: float,
    ) -> Audit:
        """Build the parts. The first of the secrets seals; all of them are accepted of earlier entries."""
        keys = audit_keys(secrets)
        trail = ChainedAuditTrail(store, keys[0], node_id, clock, policy, retention_days=retention_days)
        exporter = None
        if archive is not None:
            exporter = Exporter(store, archive, trail.written, clock, keys=keys, retention_days=retention_days)
        return cls(trail, AuditQueries(store, keys), exporter)

    async def start(self) -> None:
        await self.trail.start()
        if self.exporter is not None:
            await self.exporter.start()

    async def stop(self) -> None:
        await self.trail.stop()
        if self.exporter is not None:
            await self.exporter.stop()


def audit_keys(secrets: Sequence[str]) -> list[bytes]:
    """Return the keys with which an entry of the record may be sealed, in the order of the secrets.

    Each key depends on its secret alone, so the old `JWT_SECRET` as `AURA_AUDIT_KEY` keeps older entries valid.
    """
    return list(PurposeKeys(secrets).derive(Purpose.AUDIT))


def open_archive(url: str | None) -> AuditArchive | None:
    """Return the archive at this URL, if there is one; it connects when it is used. Raises `ConfigurationError`."""
    if url is None:
        return None
    from app.audit.postgres import PostgresArchive  # noqa: PLC0415 - a driver of 10 MB that others do without

    return PostgresArchive(url)
