"""Removes what is stored of a person in all places. The record of decisions stays: it has no content.

The erasure itself is recorded there: before anything is removed, and afterwards with what was removed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from app.errors import RunsActive, StorageUnavailable
from app.ports.archive import Archive
from app.ports.audit import AuditEvent, AuditTrail, ErasureStarted, PersonErased
from app.ports.clock import Clock
from app.ports.erasure import Counts, PersonalData, PersonalRuns
from app.ports.nodes import Nodes

_CANCELLED_BY = "aura"
_CANCEL_SECONDS = 60.0
_POLL_SECONDS = 0.2
_RECORD_SECONDS = 10.0


class ArchivedData:
    """The archived runs of a person (`ports.erasure.PersonalData`)."""

    def __init__(self, archive: Archive, clock: Clock) -> None:
        self._archive = archive
        self._clock = clock

    async def count(self, tenant_id: str, user_id: str) -> Counts:
        return _named(await self._archive.count(tenant_id, user_id))

    async def erase(self, tenant_id: str, user_id: str) -> Counts:
        return _named(await self._archive.erase(tenant_id, user_id, self._clock.now()))


def _named(count: int) -> Counts:
    return {"archived runs": count} if count else {}


def _erased(user_id: str, removed: Counts, *, interrupted: bool = False) -> PersonErased:
    return PersonErased(user=user_id, removed=dict(removed), by="operator", via="cli", interrupted=interrupted)


class Erasure:
    """Removes a person's data: first the `runs`, then from the `others`, of which the archive is one.

    So a run that is being copied meanwhile is refused by the archive, or removed from it.
    """

    def __init__(self, runs: PersonalRuns, others: Sequence[PersonalData], nodes: Nodes, trail: AuditTrail) -> None:
        """`erase` needs a `trail` that has been started."""
        self._runs = runs
        self._others = others
        self._nodes = nodes
        self._trail = trail

    async def count(self, tenant_id: str, user_id: str) -> Counts:
        """Return what `erase` would remove. Raises `StorageUnavailable`."""
        found: Counter[str] = Counter()
        for place in (self._runs, *self._others):
            found.update(await place.count(tenant_id, user_id))
        return dict(found)

    async def active_runs(self, tenant_id: str, user_id: str) -> list[str]:
        """Return the runs that keep `erase` from starting. Raises `StorageUnavailable`."""
        return await self._runs.active_runs(tenant_id, user_id)

    async def erase(self, tenant_id: str, user_id: str, *, cancel: bool) -> Counts:
        """Remove everything, and return what was removed. With `cancel` runs that have not ended are cancelled before.

        Raises `RunsActive` where such runs are left, and `StorageUnavailable`; a second call continues where this one
        stopped. Nothing is removed and nothing cancelled before it is recorded who does it.
        """
        await self.count(tenant_id, user_id)  # where one place is not available, nothing is removed from the others
        if not cancel:
            await self._check_ended(tenant_id, user_id)
        await self._record(tenant_id, ErasureStarted(user=user_id, by="operator", via="cli", cancel=cancel))
        removed: Counter[str] = Counter()
        is_complete = False
        try:
            if cancel:
                await self._cancel(tenant_id, user_id)
                await self._check_ended(tenant_id, user_id)
            for place in (self._runs, *self._others):
                removed.update(await place.erase(tenant_id, user_id))
            is_complete = True
        finally:
            if not is_complete:  # as far as that is possible now
                self._trail.record(tenant_id, _erased(user_id, removed, interrupted=True))
        await self._record(tenant_id, _erased(user_id, removed))
        return dict(removed)

    async def _check_ended(self, tenant_id: str, user_id: str) -> None:
        active = await self.active_runs(tenant_id, user_id)
        if active:
            raise RunsActive(active)

    async def _record(self, tenant_id: str, event: AuditEvent) -> None:
        """Wait until an entry is stored. Raises `StorageUnavailable` where that takes too long."""
        try:
            async with asyncio.timeout(_RECORD_SECONDS):
                await self._trail.write(tenant_id, event)
        except TimeoutError:
            raise StorageUnavailable("the record of decisions cannot be written; repeat the command") from None

    async def _cancel(self, tenant_id: str, user_id: str) -> None:
        """Cancel the runs, and wait until their nodes have ended them."""
        requested: set[str] = set()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CANCEL_SECONDS
        while active := await self.active_runs(tenant_id, user_id):
            for session_id in set(active) - requested:
                await self._nodes.request_cancel(session_id, _CANCELLED_BY)
                requested.add(session_id)
            if loop.time() > deadline:
                return
            await asyncio.sleep(_POLL_SECONDS)
