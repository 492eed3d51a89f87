"""Copies the chains to the archive, where there is one: this node's own at once, those of ended nodes within a minute.

Where to continue is read from the archive, so any node can export any chain, and exporting twice does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress

import structlog

from app.audit.chain import is_sealed
from app.errors import ConfigurationError, StorageUnavailable
from app.ports.audit import AuditArchive, AuditReader, ChainName, StoredEntry
from app.ports.clock import Clock

_EXPORT_SECONDS = 2.0
_ROUNDS_PER_SWEEP = 30
_PAGE_ENTRIES = 500
_STOP_SECONDS = 3.0

log = structlog.get_logger(__name__)


class Exporter:
    """`written` are the chains that have grown; the exporter empties it. `keys` are those of the MACs."""

    def __init__(
        self,
        source: AuditReader,
        archive: AuditArchive,
        written: set[ChainName],
        clock: Clock,
        *,
        keys: Sequence[bytes],
        retention_days: float,
        export_seconds: float = _EXPORT_SECONDS,
    ) -> None:
        self._source = source
        self._archive = archive
        self._written = written
        self._clock = clock
        self._keys = keys
        self._retention_ms = int(retention_days * 86_400_000)
        self._export_seconds = export_seconds
        self._places: dict[ChainName, tuple[int, int]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._export_forever())

    async def stop(self) -> None:
        """Export what is left, once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):  # another process copies what is left
                    await self._try(self._export_written())
        await self._archive.close()

    async def _export_forever(self) -> None:
        rounds = 0
        while True:
            is_sweep = rounds % _ROUNDS_PER_SWEEP == 0
            if await self._try(self.export_all() if is_sweep else self._export_written()):
                rounds += 1
            await asyncio.sleep(self._export_seconds)

    async def _try(self, work: Awaitable[object]) -> bool:
        try:
            await work
            return True
        except (StorageUnavailable, ConfigurationError) as error:
            log.warning("audit.export_paused", cause=error.log_cause)
            return False

    async def export_all(self) -> int:
        """Export what the archive lacks of every chain, and remove what is too old there. Returns the number of
        entries. Raises `StorageUnavailable`, `ConfigurationError`."""
        self._places = await self._archive.last_places()
        await self._archive.expire(int(self._clock.now() * 1000) - self._retention_ms)
        exported = 0
        for tenant_id in await self._source.list_tenants():
            for name, last_write_ms in await self._source.list_chains(tenant_id):
                chain = ChainName(tenant_id, name)
                if last_write_ms >= self._places.get(chain, (0, 0))[0]:
                    exported += await self._export(chain)
        return exported

    async def _export_written(self) -> None:
        for chain in list(self._written):
            self._written.discard(chain)
            try:
                await self._export(chain)
            except BaseException:
                self._written.add(chain)
                raise

    async def _export(self, chain: ChainName) -> int:
        exported = 0
        while True:
            entries = await self._source.read(chain, self._places.get(chain, (0, 0)), _PAGE_ENTRIES)
            if not entries:
                return exported
            sealed = [entry for entry in entries if self._is_sealed(chain, entry)]
            await self._archive.add(chain, sealed)
            self._places[chain] = entries[-1].place
            exported += len(sealed)

    def _is_sealed(self, chain: ChainName, entry: StoredEntry) -> bool:
        """Whether an entry is one of ours. Others must not get into the archive, where they would be in our way."""
        if is_sealed(self._keys, chain, entry):
            return True
        log.error("audit.entry_invalid", tenantId=chain.tenant_id, chain=chain.name, sequence=entry.place[1])
        return False
