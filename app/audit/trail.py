"""Appends to the chains of this process (`ports.audit.AuditTrail`): one writer, one round trip for all tenants.

Entries are sealed when they are sent, not when they are recorded, and a chain has at most one batch on its way. So a
batch whose answer was lost is sent again as it was, and the order of a chain is the order of its sequences.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog

from app.audit.bounds import MinuteBudget, RecentFailures
from app.audit.chain import START, Head, seal, seal_failure
from app.errors import AuraError, StorageUnavailable
from app.ports.audit import (
    SERVICE_TENANT,
    AppendResult,
    AuditEvent,
    AuditStore,
    AuthenticationFailed,
    ChainBatch,
    ChainContinued,
    ChainName,
    PolicyLoaded,
    RefusalsSuppressed,
    RequestRefused,
    StoredEntry,
)
from app.ports.clock import Clock

_BATCH_ENTRIES = 200
_COLLECT_SECONDS = 0.02
"""For how long an entry that nobody waits for is kept, so that it shares a write with others."""
_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
HEAD_SECONDS = 60.0
_FAILURE_SECONDS = 1.0
_STOP_SECONDS = 2.0
_LOG_EVERY_FAILURES = 60

log = structlog.get_logger(__name__)

_Pending = tuple[bytes, asyncio.Future[None] | None]


class _Chain:
    """The chain of one tenant: what is stored, what is on its way, and what is still to be sealed."""

    __slots__ = ("_next_head", "_waiting", "head", "logged", "name", "number", "pending", "sealed")

    def __init__(self, tenant_id: str, node_id: str, opening: AuditEvent) -> None:
        self.name = ChainName(tenant_id, node_id)
        self.number = 1
        self.head = self._next_head = self.logged = START
        self.sealed: list[StoredEntry] = []
        self.pending: list[_Pending] = [(opening.to_json(), None)]
        self._waiting: list[_Pending] = []

    def next_batch(self, key: bytes, now_ms: int) -> ChainBatch | None:
        """Return the batch to send: the one on its way, or else a new one. An event whose caller no longer waits is
        left out."""
        if not self.sealed:
            taken, self.pending = self.pending[:_BATCH_ENTRIES], self.pending[_BATCH_ENTRIES:]
            self._waiting = [item for item in taken if item[1] is None or not item[1].done()]
            self._next_head = self.head
            for body, _ in self._waiting:
                entry, self._next_head = seal(key, self.name, self._next_head, now_ms, body)
                self.sealed.append(entry)
        return ChainBatch(self.name, self.sealed) if self.sealed else None

    def confirm(self) -> None:
        """The batch is stored."""
        self.head = self._next_head
        for _, stored in self._waiting:
            if stored is not None and not stored.done():
                stored.set_result(None)
        self.sealed, self._waiting = [], []

    def continue_elsewhere(self, node_id: str, opening: AuditEvent) -> None:
        """Begin another chain with what could not be appended to this one."""
        end = ChainContinued(chain=self.name.name, sequence=self.head.sequence, hash=self.head.hash.hex())
        self.number += 1
        self.name = ChainName(self.name.tenant_id, f"{node_id}.{self.number}")
        self.pending = [(opening.to_json(), None), (end.to_json(), None), *self._waiting, *self.pending]
        self.head, self.sealed, self._waiting = START, [], []


class ChainedAuditTrail:
    """The chains of one node. `policy` opens each of them."""

    def __init__(
        self,
        store: AuditStore,
        key: bytes,
        node_id: str,
        clock: Clock,
        policy: PolicyLoaded,
        *,
        retention_days: float,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        self._store = store
        self._key = key
        self._node_id = node_id
        self._clock = clock
        self._policy = policy
        self._retention_ms = int(retention_days * 86_400_000)
        self._head_seconds = head_seconds
        self._chains: dict[str, _Chain] = {}
        self._dirty: dict[str, _Chain] = {}
        self._has_entries = asyncio.Event()
        self._collector: asyncio.TimerHandle | None = None
        self._refusals = MinuteBudget()
        self._failures = RecentFailures()
        self._tasks: list[asyncio.Task[None]] = []
        self.written: set[ChainName] = set()
        """The chains that have grown since their entries were last exported; the exporter empties it."""

    # --- recording ----------------------------------------------------------------------------------------------------

    def record(self, tenant_id: str, event: AuditEvent) -> None:
        self._append(tenant_id, (event.to_json(), None))
        if self._collector is None:
            self._collector = asyncio.get_running_loop().call_later(_COLLECT_SECONDS, self._send)

    async def write(self, tenant_id: str, event: AuditEvent) -> None:
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._append(tenant_id, (event.to_json(), stored))
        self._has_entries.set()
        await stored

    def record_refusal(self, tenant_id: str, event: RequestRefused) -> None:
        if self._refusals.admits(self._clock.now(), tenant_id, event.user):
            self.record(tenant_id, event)

    def record_failure(self, failure: AuthenticationFailed) -> None:
        self._failures.add(failure)

    def _append(self, tenant_id: str, pending: _Pending) -> None:
        tenant_id = tenant_id.encode("utf-8", "replace").decode().replace("\0", "?")  # every store can hold it then
        chain = self._chains.get(tenant_id)
        if chain is None:
            chain = self._chains[tenant_id] = _Chain(tenant_id, self._node_id, self._policy)
        chain.pending.append(pending)
        self._dirty[tenant_id] = chain

    def _send(self) -> None:
        self._collector = None
        self._has_entries.set()

    # --- writing ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to write. The first entry of the process is its policy."""
        chain = self._chains.setdefault(SERVICE_TENANT, _Chain(SERVICE_TENANT, self._node_id, self._policy))
        self._dirty[SERVICE_TENANT] = chain
        self._has_entries.set()
        jobs = (self._write_forever(), self._log_heads_forever(), self._store_failures_forever())
        self._tasks = [asyncio.create_task(job) for job in jobs]

    async def stop(self) -> None:
        """Write what is recorded, within a few seconds, and log the last heads."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._collector is not None:
            self._collector.cancel()
        with suppress(TimeoutError, StorageUnavailable):
            async with asyncio.timeout(_STOP_SECONDS):
                await self._store_failures()
                while self._dirty and await self._write_once() is None:
                    pass
        self._log_heads()

    async def _write_forever(self) -> None:
        failures = 0
        while True:
            await self._has_entries.wait()
            self._has_entries.clear()
            error = await self._write_once()
            if error is None:
                failures = 0
                continue
            if failures % _LOG_EVERY_FAILURES == 0:
                log.warning(
                    "audit.paused", cause=error.log_cause if isinstance(error, AuraError) else type(error).__name__
                )
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1
            self._has_entries.set()

    async def _write_once(self) -> Exception | None:
        """Send the next batch of each chain. Returns an error where one of them must be sent again."""
        now_ms = int(self._clock.now() * 1000)
        chains, batches = [], []
        for tenant_id, chain in list(self._dirty.items()):
            batch = chain.next_batch(self._key, now_ms)
            if batch is None:
                del self._dirty[tenant_id]
            else:
                chains.append(chain)
                batches.append(batch)
        results = await self._store.append(batches) if batches else []
        return self._apply(chains, results)

    def _apply(self, chains: Sequence[_Chain], results: Sequence[AppendResult]) -> Exception | None:
        error = None
        for chain, result in zip(chains, results, strict=True):
            if isinstance(result, Exception):
                error = result
            elif result == "blocked":
                log.error("audit.chain_blocked", chain=chain.name.name, sequence=chain.head.sequence)
                chain.continue_elsewhere(self._node_id, self._policy)
                self._has_entries.set()
            else:
                chain.confirm()
                self.written.add(chain.name)
                if not chain.pending:
                    self._dirty.pop(chain.name.tenant_id, None)
                elif self._collector is None or len(chain.pending) >= _BATCH_ENTRIES:
                    self._has_entries.set()  # what was recorded while this batch was on its way
        return error

    # --- once in a while ----------------------------------------------------------------------------------------------

    async def _log_heads_forever(self) -> None:
        while True:
            await asyncio.sleep(self._head_seconds)
            for tenant_id, count in self._refusals.take_suppressed(self._clock.now()):
                self.record(tenant_id, RefusalsSuppressed(count=count))
            names = self._log_heads()
            with suppress(StorageUnavailable):
                await self._store.expire(names, int(self._clock.now() * 1000) - self._retention_ms)

    def _log_heads(self) -> list[ChainName]:
        """Log the end of each chain that has grown. `aura audit verify --heads` reads these lines."""
        grown = [chain for chain in self._chains.values() if chain.head != chain.logged]
        for chain in grown:
            chain.logged = chain.head
            log_head(chain.name, chain.head)
        return [chain.name for chain in grown]

    async def _store_failures_forever(self) -> None:
        while True:
            await asyncio.sleep(_FAILURE_SECONDS)
            with suppress(StorageUnavailable):
                await self._store_failures()

    async def _store_failures(self) -> None:
        events = self._failures.take(int(self._clock.now() * 1000))
        if events:
            await self._store.add_failures([seal_failure(self._key, event.to_json()) for event in events])


def log_head(chain: ChainName, head: Head) -> None:
    """Log the end of a chain, as `app/audit/heads.py` reads it."""
    log.info(
        "audit.head",
        tenantId=chain.tenant_id,
        chain=chain.name,
        sequence=head.sequence,
        atMillis=head.at_ms,
        hash=head.hash.hex(),
    )
