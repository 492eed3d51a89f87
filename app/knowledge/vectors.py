"""Embeddings of events, made in batches by one replica for all and retried until they succeed; and of queries.

The events without a vector are the work queue, so that no work is lost when a process ends.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import structlog

from app.errors import AuraError, ModelError
from app.ports.clock import Clock
from app.ports.knowledge import Embeddings, KnowledgeIndex, KnowledgeLog, MissingVector, Vector

LEASE_SECONDS = 30.0
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 60.0
_BATCH = 64
_QUERY_SECONDS = 3.0
_QUERY_PAUSE_SECONDS = 15.0

log = structlog.get_logger(__name__)


class Vectors:
    """Appends vectors to the log, from which every index reads them."""

    def __init__(self, embeddings: Embeddings, events: KnowledgeLog, index: KnowledgeIndex, clock: Clock) -> None:
        self._embeddings = embeddings
        self._log = events
        self._index = index
        self._clock = clock
        self._woken = asyncio.Event()
        self._queries_paused_until = 0.0

    def wake(self) -> None:
        """Notifies the background task that events were indexed."""
        self._woken.set()

    async def close(self) -> None:
        await self._embeddings.close()

    async def embed_query(self, text: str) -> bytes | None:
        """Returns the vector of a query's text, a signed byte for each dimension.

        None if the endpoint fails or is too slow, and for a while after that: then search without vectors.
        """
        if self._clock.now() < self._queries_paused_until:
            return None
        try:
            async with asyncio.timeout(_QUERY_SECONDS):
                (vector,) = await self._embeddings.embed([text])
            return vector
        except (ModelError, TimeoutError) as error:
            # Not every search shall wait for the timeout while the endpoint is unavailable.
            self._queries_paused_until = self._clock.now() + _QUERY_PAUSE_SECONDS
            log.warning("knowledge.query_embedding_failed", cause=str(error) or type(error).__name__)
            return None

    async def run(self, catch_up: Callable[[str], Awaitable[object]]) -> None:
        """Embeds events until it is cancelled. `catch_up` indexes the new entries of a tenant's log."""
        pause = 0.0
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                while await self._embed_batch(catch_up):
                    pause = 0.0
            except AuraError as error:
                pause = min(max(MIN_PAUSE_SECONDS, pause * 2), MAX_PAUSE_SECONDS)
                log.warning("knowledge.embedding_failed", cause=error.log_cause, retryInSeconds=pause)
                await self._retry_after(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
            except Exception as error:  # noqa: BLE001 - no error may stop the task that makes all vectors
                log.warning("knowledge.embedding_failed", cause=type(error).__name__, retryInSeconds=MAX_PAUSE_SECONDS)
                await self._retry_after(MAX_PAUSE_SECONDS)

    async def _retry_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._woken.set()

    async def _embed_batch(self, catch_up: Callable[[str], Awaitable[object]]) -> bool:
        """Embeds one batch of events. Returns False if no event needs a vector, or if another process embeds them."""
        missing = await self._index.list_missing_vectors(_BATCH)
        if not missing:
            return False
        if not await self._log.acquire_leadership(LEASE_SECONDS):
            await self._retry_after(LEASE_SECONDS / 4)  # another process takes over if the leader ends
            return False
        embedded = await self._embed(missing)
        by_tenant: defaultdict[str, list[Vector]] = defaultdict(list)
        for event, values in zip(missing, embedded, strict=True):
            by_tenant[event.tenant_id].append(Vector(event.event_id, self._embeddings.model, values))
        for tenant_id, vectors in by_tenant.items():
            await self._log.save_vectors(tenant_id, vectors)
            await catch_up(tenant_id)
        return True

    async def _embed(self, events: Sequence[MissingVector]) -> list[bytes]:
        """Returns a vector for each event; an empty one for a text that the model refuses, so that others get theirs.

        Raises `ModelError` if a retry may succeed.
        """
        try:
            return await self._embeddings.embed([event.embedding_text for event in events])
        except ModelError as error:
            if error.kind != "refused":
                raise
        if len(events) == 1:
            log.warning("knowledge.text_refused", eventId=events[0].event_id)
            return [b""]
        return [vector for event in events for vector in await self._embed([event])]
