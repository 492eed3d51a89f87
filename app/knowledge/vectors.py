"""Embeddings of events, made by one replica for all, in batches, again and again until they succeed; and of questions.

The events without a vector are the queue: it survives whatever happens to the process that works on it.
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

_BATCH = 64
_LEASE_SECONDS = 30.0
_LEAST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 1.0, 60.0
_QUERY_SECONDS = 3.0
_SPARED_SECONDS = 15.0

log = structlog.get_logger(__name__)


class Vectors:
    """Gives vectors to the log, from where every index gets them."""

    def __init__(self, embeddings: Embeddings, events: KnowledgeLog, index: KnowledgeIndex, clock: Clock) -> None:
        self._embeddings = embeddings
        self._log = events
        self._index = index
        self._clock = clock
        self._woken = asyncio.Event()
        self._spared_until = 0.0

    def wake(self) -> None:
        """The index has grown."""
        self._woken.set()

    async def close(self) -> None:
        await self._embeddings.close()

    async def of_query(self, text: str) -> bytes | None:
        """The vector of a question; None where there is none in time: then the words alone decide."""
        if self._clock.now() < self._spared_until:
            return None
        try:
            async with asyncio.timeout(_QUERY_SECONDS):
                (vector,) = await self._embeddings.embed([text])
            return vector
        except (ModelError, TimeoutError) as error:
            # nobody shall wait three seconds each time while the endpoint is away
            self._spared_until = self._clock.now() + _SPARED_SECONDS
            log.warning("knowledge.query_not_embedded", cause=str(error) or type(error).__name__)
            return None

    async def run(self, follow: Callable[[str], Awaitable[object]]) -> None:
        """`follow` lets the index have what was given to a tenant's log."""
        pause = 0.0
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                while await self._make(follow):
                    pause = 0.0
            except AuraError as error:
                pause = min(max(_LEAST_PAUSE_SECONDS, pause * 2), _MOST_PAUSE_SECONDS)
                log.warning("knowledge.not_embedded", cause=error.cause, again_in_seconds=pause)
                await self._again(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads the replicas, hides nothing
            except Exception as error:  # noqa: BLE001 - whatever it was must not be the last of all vectors
                log.warning("knowledge.failed", cause=type(error).__name__)
                await self._again(_MOST_PAUSE_SECONDS)

    async def _again(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._woken.set()

    async def _make(self, follow: Callable[[str], Awaitable[object]]) -> bool:
        """One batch; whether there was anything to do."""
        waiting = await self._index.list_missing_vectors(_BATCH)
        if not waiting:
            return False
        if not await self._log.acquire_leadership(_LEASE_SECONDS):
            await self._again(_LEASE_SECONDS / 4)  # should the one that does it die, another goes on
            return False
        made = await self._embedded(waiting)
        by_tenant: defaultdict[str, list[Vector]] = defaultdict(list)
        for event, values in zip(waiting, made, strict=True):
            by_tenant[event.tenant_id].append(Vector(event.event_id, self._embeddings.model, values))
        for tenant_id, vectors in by_tenant.items():
            await self._log.save_vectors(tenant_id, vectors)
            await follow(tenant_id)
        return True

    async def _embedded(self, events: Sequence[MissingVector]) -> list[bytes]:
        """A vector for each; none for a text that the model will never take, so that it does not hold up the others."""
        try:
            return await self._embeddings.embed([event.embedding_text for event in events])
        except ModelError as error:
            if error.kind != "refused":
                raise
        if len(events) == 1:
            log.warning("knowledge.text_refused", event_id=events[0].event_id)
            return [b""]
        return [vector for event in events for vector in await self._embedded([event])]
