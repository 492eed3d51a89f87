"""Finds runs in the outbox whose task is not up to date because their node stopped."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from app.errors import StorageUnavailable
from app.ports.clock import Clock
from app.ports.tasks import TaskOutbox
from statemachine.checkpoint import Checkpoint
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable

_PAGE_SIZE = 200

log = structlog.get_logger(__name__)


class OutboxPoller:
    """Claims due runs from time to time and passes those that have ended to `adopt`."""

    def __init__(
        self,
        outbox: TaskOutbox,
        clock: Clock,
        *,
        reservation_seconds: float,
        free_slots: Callable[[], int],
        is_tracked: Callable[[str], bool],
        adopt: Callable[[Checkpoint], None],
    ) -> None:
        """`free_slots` returns how many runs can be adopted now; the others stay in the outbox.

        `is_tracked` returns whether this process reports a session already. `reservation_seconds` is the time for which
        nodes reserve a run that they report.
        """
        self._outbox = outbox
        self._clock = clock
        self._reservation_seconds = reservation_seconds
        self._free_slots = free_slots
        self._is_tracked = is_tracked
        self._adopt = adopt
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._poll())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._reservation_seconds / 4 * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            try:
                while await self._adopt_due():
                    pass
            except StorageUnavailable as error:
                log.info("task.poll_failed", cause=error.log_cause)

    async def _adopt_due(self) -> bool:
        """Adopt one page of due runs. Return whether there may be more.

        A run that has not ended stays claimed for a while, because the node that owns it reports it.
        """
        now, limit = self._clock.now(), min(_PAGE_SIZE, self._free_slots())
        session_ids = await self._outbox.claim_due(now, now + 3 * self._reservation_seconds, limit) if limit > 0 else []
        for session_id in session_ids:
            if self._is_tracked(session_id):
                continue
            try:
                record = await self._outbox.load(session_id)
            except (CheckpointTooNew, CheckpointUnreadable):
                continue  # a node with a newer release can load it
            if record is None:
                await self._outbox.remove(session_id)
            elif record.is_final:
                request = record.checkpoint.request
                log.info("task.adopted", sessionId=session_id, traceId=request.trace_id, tenantId=request.tenant_id)
                self._adopt(record.checkpoint)
        return len(session_ids) == _PAGE_SIZE
