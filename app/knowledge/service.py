"""Domain events in, answers out: hears the platform's channels, keeps the log, lets the index follow it (§7).

Nothing of it is on a run's path but a search that the agent asked for. A process that hears of no event does nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Sequence

import structlog

from app.errors import AuraError, StorageUnavailable
from app.knowledge.events import Malformed, parse
from app.knowledge.vectors import Vectors
from app.ports.knowledge import KnowledgeIndex, KnowledgeLog, Query, SearchResult, WorkspaceEvent

_INBOX = 10_000
_INBOX_BYTES = 32 * 1024 * 1024
_BATCH = 200
_RETRY_SECONDS = 1.0
_CATCH_UP_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Knowledge:
    """`counts` says what became of the messages that this process heard."""

    def __init__(self, events: KnowledgeLog, index: KnowledgeIndex, vectors: Vectors | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.events = events
        self._index = index
        self._vectors = vectors
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._grown: set[str] = set()
        self._look_at_all = False
        self._woken = asyncio.Event()
        self._catching_up: dict[str, asyncio.Lock] = {}
        self._opening = asyncio.Lock()
        self._generation: int | None = None
        self._is_delayed = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listens from the background: the service does not wait for it."""
        self._tasks = [asyncio.create_task(self._listen())]
        if self._vectors is not None:
            self._tasks.append(asyncio.create_task(self._vectors.run(self.catch_up)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._index.close()
        if self._vectors is not None:
            await self._vectors.close()

    # --- asked --------------------------------------------------------------------------------------------------------

    async def search(self, tenant_id: str, query: Query) -> SearchResult:
        """Sees whatever any replica had accepted when it began, if the index gets that far in time."""
        is_complete, vector = await asyncio.gather(self._caught_up(tenant_id), self._meaning(query.text))
        hits = await self._index.search(tenant_id, query, vector)
        return SearchResult(tuple(hits), is_complete, used_vectors=vector is not None)

    async def catch_up(self, tenant_id: str, *, gently: bool = False) -> int:
        """Let the index have all that the tenant's log has; how many entries that were.

        `gently` leaves half of the time to the runs: making terms holds the interpreter.
        """
        await self._open()
        lock, clock = self._catching_up.setdefault(tenant_id, asyncio.Lock()), asyncio.get_running_loop()
        count = 0
        while True:
            async with lock:  # for one batch: a search must not wait for a whole index
                began = clock.time()
                after = await self._index.position(tenant_id)
                entries = await self.events.read(tenant_id, after, _BATCH)
                if not entries:
                    break
                await self._index.apply(tenant_id, after, entries)
            count += len(entries)
            await asyncio.sleep(clock.time() - began if gently else 0)
        await self._index.delete_before(tenant_id, await self.events.first_position(tenant_id))
        return count

    async def _caught_up(self, tenant_id: str) -> bool:
        try:
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                await self.catch_up(tenant_id)
            return True
        except (TimeoutError, StorageUnavailable) as error:
            log.warning("knowledge.behind", cause=type(error).__name__)
            return False

    async def _meaning(self, text: str) -> bytes | None:
        return await self._vectors.of_query(text) if self._vectors is not None else None

    async def _open(self) -> None:
        async with self._opening:
            if self._generation is None:
                generation = await self.events.generation()
                await self._index.open(generation)
                self._generation = generation

    # --- heard --------------------------------------------------------------------------------------------------------

    def _heard(self, message: bytes | None) -> None:
        if message is None:
            return  # what was said meanwhile may be lost, unless another replica heard it: `_changed` looks
        if len(self._inbox) >= _INBOX or self._inbox_bytes + len(message) > _INBOX_BYTES:
            if not self.counts["overflowed"]:
                log.warning("knowledge.overflowed", messages=len(self._inbox), bytes=self._inbox_bytes)
            self.counts["overflowed"] += 1
            return
        self._inbox.append(message)
        self._inbox_bytes += len(message)
        self._woken.set()

    def _changed(self, tenant_id: str | None) -> None:
        if tenant_id:
            self._grown.add(tenant_id)
        else:
            self._look_at_all = True
        self._woken.set()

    async def _listen(self) -> None:
        await self.events.subscribe(self._heard, self._changed)
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                while self._inbox:
                    await self._take_in()
                await self._follow()
                if self._is_delayed:
                    log.info("knowledge.resumed")
                    self._is_delayed = False
            except AuraError as error:
                if not self._is_delayed:
                    log.warning("knowledge.delayed", cause=error.cause)
                    self._is_delayed = True
                self._woken.set()
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - one bad message must not deafen the process
                log.warning("knowledge.failed", cause=type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _take_in(self) -> None:
        """The oldest messages; they leave the inbox once they are kept. Accepting is safe to repeat."""
        messages = [self._inbox[at] for at in range(min(len(self._inbox), _BATCH))]
        events, refused = _sorted(messages)
        accepted = await self.events.accept(events) if events else []
        if refused:
            await self.events.count_malformed(refused)
        for _ in messages:
            self._inbox_bytes -= len(self._inbox.popleft())
        self.counts["accepted"] += sum(accepted)
        self.counts["repeated"] += len(accepted) - sum(accepted)
        for reason, _ in refused:
            if not self.counts[f"malformed:{reason}"]:
                log.warning("knowledge.malformed", reason=reason)
            self.counts[f"malformed:{reason}"] += 1

    async def _follow(self) -> None:
        if self._look_at_all:
            await self._look()
        while self._grown:
            tenant_id = self._grown.pop()
            try:
                await self.catch_up(tenant_id, gently=True)
            except BaseException:
                self._grown.add(tenant_id)
                raise
            if self._inbox:
                self._woken.set()
                return
        if self._vectors is not None and self._generation is not None:
            self._vectors.wake()

    async def _look(self) -> None:
        """Something may have been missed, or every index has to be made again."""
        if self._generation is not None and await self.events.generation() != self._generation:
            self._generation = None
        self._grown.update(await self.events.list_tenants())
        self._look_at_all = False


def _sorted(messages: Sequence[bytes]) -> tuple[list[WorkspaceEvent], list[tuple[str, str]]]:
    events: list[WorkspaceEvent] = []
    refused: list[tuple[str, str]] = []
    for message in messages:
        try:
            events.append(parse(message))
        except Malformed as error:
            refused.append((error.reason, hashlib.sha256(message).hexdigest()[:32]))
    return events, refused
