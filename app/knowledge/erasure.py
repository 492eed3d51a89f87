"""Removes the domain events of a person from the log, and with it from every index."""

from __future__ import annotations

from app.ports.erasure import Counts
from app.ports.knowledge import START, KnowledgeLog, LogPosition, Vector, person_name

_PAGE_ENTRIES = 500


class KnowledgeData:
    """The events whose user is the person (`ports.erasure.PersonalData`). Events of others that name it stay."""

    def __init__(self, events: KnowledgeLog) -> None:
        self._events = events

    async def count(self, tenant_id: str, user_id: str) -> Counts:
        return _named(len((await self._find(tenant_id, user_id))[0]))

    async def erase(self, tenant_id: str, user_id: str) -> Counts:
        """Indexes are built anew without the events; the vectors of the others are in the log."""
        event_ids, positions = await self._find(tenant_id, user_id)
        if event_ids:
            await self._events.remove(tenant_id, event_ids, positions)
            await self._events.start_generation()
        return _named(len(event_ids))

    async def _find(self, tenant_id: str, user_id: str) -> tuple[list[str], list[LogPosition]]:
        """Return the ids of the events, and the positions of all their entries. A vector follows its event."""
        name, event_ids = person_name(user_id), dict[str, None]()
        positions: list[LogPosition] = []
        after = START
        while page := await self._events.read(tenant_id, after, _PAGE_ENTRIES):
            after = page[-1].position
            for position, entry in ((it.position, it.entry) for it in page):
                if isinstance(entry, Vector):
                    is_own = entry.event_id in event_ids
                else:
                    is_own = bool(name) and person_name(entry.user_id) == name
                    if is_own:
                        event_ids[entry.id] = None
                if is_own:
                    positions.append(position)
        return list(event_ids), positions


def _named(count: int) -> Counts:
    return {"domain events": count} if count else {}
