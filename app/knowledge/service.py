"""Receives the platform's domain events, appends them to the log, keeps the index up to date and searches it (§7).

A run waits for it only in a search that the model requests. A process does nothing while no event arrives.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Sequence

import structlog

from app.errors import AuraError, StorageUnavailable
from app.knowledge.events import MalformedMessage, parse
from app.knowledge.vectors import Vectors
from app.ports.knowledge import KnowledgeIndex, KnowledgeLog, Query, SearchResult, WorkspaceEvent

INBOX_BYTES = 32 * 1024 * 1024
RETRY_SECONDS = 1.0
_INBOX_MESSAGES = 10_000
_BATCH = 200
_CATCH_UP_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Knowledge:
    """The knowledge of one process.

    `counts` has the number of messages that this process received, by outcome: `accepted`, `repeated`, `overflowed`
    and `malformed:<reason>`.
    """

    def __init__(self, events: KnowledgeLog, index: KnowledgeIndex, vectors: Vectors | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.events = events
        self._index = index
        self._vectors = vectors
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._grown_tenants: set[str] = set()
        self._must_check_all = False
        self._woken = asyncio.Event()
        self._catching_up: dict[str, asyncio.Lock] = {}
        self._opening = asyncio.Lock()
        self._generation: int | None = None
        self._is_delayed = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def generation(self) -> int | None:
        """The generation of the open index; None before it is opened and while it has to be rebuilt."""
        return self._generation

    async def start(self) -> None:
        """Subscribes in a background task, so that the service starts without Redis."""
        self._tasks = [asyncio.create_task(self._consume())]
        if self._vectors is not None:
            self._tasks.append(asyncio.create_task(self._vectors.run(self.catch_up)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._index.close()
        if self._vectors is not None:
            await self._vectors.close()

    # --- searching ----------------------------------------------------------------------------------------------------

    async def search(self, tenant_id: str, query: Query) -> SearchResult:
        """Finds every event that any replica accepted before the call, unless the index cannot catch up in time.

        Then `is_complete` is false. Raises `StorageUnavailable`.
        """
        is_complete, vector = await asyncio.gather(self._try_catch_up(tenant_id), self._embed_query(query.text))
        hits = await self._index.search(tenant_id, query, vector)
        return SearchResult(tuple(hits), is_complete, used_vectors=vector is not None)

    async def catch_up(self, tenant_id: str, *, in_background: bool = False) -> int:
        """Indexes all entries of the tenant's log that are not indexed yet. Returns their number.

        `in_background` pauses for as long as each batch takes: splitting text into terms holds the interpreter lock,
        which the runs need too. Raises `StorageUnavailable`.
        """
        await self._open()
        lock, loop = self._catching_up.setdefault(tenant_id, asyncio.Lock()), asyncio.get_running_loop()
        count = 0
        while True:
            async with lock:  # for one batch only, so that a search need not wait until the whole log is indexed
                started_at = loop.time()
                after = await self._index.position(tenant_id)
                entries = await self.events.read(tenant_id, after, _BATCH)
                if not entries:
                    break
                await self._index.apply(tenant_id, after, entries)
            count += len(entries)
            await asyncio.sleep(loop.time() - started_at if in_background else 0)
        await self._index.delete_before(tenant_id, await self.events.first_position(tenant_id))
        return count

    async def _try_catch_up(self, tenant_id: str) -> bool:
        try:
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                await self.catch_up(tenant_id)
            return True
        except (TimeoutError, StorageUnavailable) as error:
            log.warning("knowledge.catch_up_failed", cause=type(error).__name__)
            return False

    async def _embed_query(self, text: str) -> bytes | None:
        return await self._vectors.embed_query(text) if self._vectors is not None else None

    async def _open(self) -> None:
        async with self._opening:
            if self._generation is None:
                generation = await self.events.generation()
                await self._index.open(generation)
                self._generation = generation

    # --- receiving ----------------------------------------------------------------------------------------------------

    def _on_message(self, message: bytes | None) -> None:
        if message is None:
            return  # missed messages are lost unless another replica received them: `_on_log_grown` has the log checked
        if len(self._inbox) >= _INBOX_MESSAGES or self._inbox_bytes + len(message) > INBOX_BYTES:
            if not self.counts["overflowed"]:
                log.warning("knowledge.inbox_overflowed", messages=len(self._inbox), bytes=self._inbox_bytes)
            self.counts["overflowed"] += 1
            return
        self._inbox.append(message)
        self._inbox_bytes += len(message)
        self._woken.set()

    def _on_log_grown(self, tenant_id: str | None) -> None:
        if tenant_id is not None:
            self._grown_tenants.add(tenant_id)
        else:
            self._must_check_all = True
        self._woken.set()

    async def _consume(self) -> None:
        await self.events.subscribe(self._on_message, self._on_log_grown)
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                while self._inbox:
                    await self._accept_batch()
                await self._index_grown_logs()
                if self._is_delayed:
                    log.info("knowledge.resumed")
                    self._is_delayed = False
            except AuraError as error:
                if not self._is_delayed:
                    log.warning("knowledge.delayed", cause=error.log_cause)
                    self._is_delayed = True
                self._woken.set()
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - one bad message must not stop the subscription
                log.warning("knowledge.failed", cause=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def _accept_batch(self) -> None:
        """Appends the oldest messages to the log. They stay in the inbox until that succeeds, as it is idempotent."""
        messages = [self._inbox[index] for index in range(min(len(self._inbox), _BATCH))]
        events, malformed = _parse_all(messages)
        accepted = await self.events.accept(events) if events else []
        if malformed:
            await self.events.count_malformed(malformed)
        for _ in messages:
            self._inbox_bytes -= len(self._inbox.popleft())
        self.counts["accepted"] += sum(accepted)
        self.counts["repeated"] += len(accepted) - sum(accepted)
        for reason, _ in malformed:
            if not self.counts[f"malformed:{reason}"]:
                log.warning("knowledge.message_rejected", reason=reason)
            self.counts[f"malformed:{reason}"] += 1

    async def _index_grown_logs(self) -> None:
        """Indexes the new entries of all logs; returns early, to be called again, when messages have arrived."""
        if self._must_check_all:
            await self._check_all()
        while self._grown_tenants:
            tenant_id = self._grown_tenants.pop()
            try:
                await self.catch_up(tenant_id, in_background=True)
            except BaseException:
                self._grown_tenants.add(tenant_id)
                raise
            if self._inbox:
                self._woken.set()
                return
        if self._vectors is not None and self._generation is not None:
            self._vectors.wake()

    async def _check_all(self) -> None:
        """Marks every tenant's log as grown, and the index to be rebuilt if the log has a new generation.

        Needed after the start and after a lost subscription, when notifications may have been missed.
        """
        if self._generation is not None and await self.events.generation() != self._generation:
            self._generation = None
        self._grown_tenants.update(await self.events.list_tenants())
        self._must_check_all = False


def _parse_all(messages: Sequence[bytes]) -> tuple[list[WorkspaceEvent], list[tuple[str, str]]]:
    """Returns the events, and the reason and digest of each malformed message."""
    events: list[WorkspaceEvent] = []
    malformed: list[tuple[str, str]] = []
    for message in messages:
        try:
            events.append(parse(message))
        except MalformedMessage as error:
            malformed.append((error.reason, hashlib.sha256(message).hexdigest()[:32]))
    return events, malformed
