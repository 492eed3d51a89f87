"""Finding the run that a reader means, and the event to continue after (CONTRACT §3). It never starts a run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from app.errors import EventsGone, NotFound
from app.ports.identity import Principal
from app.ports.journal import RunIndex, RunRecord
from app.runs.access import AccessPolicy, Owner
from statemachine.checkpoint import Checkpoint

_MAX_MILLISECONDS = 10**14
_MAX_MICROSECONDS = 10**17


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """A run, and the id of the last event of it that the reader has; 0 for none."""

    session_id: str
    last_event_id: int


class RunLocator:
    """Finds runs for readers, within what they may see."""

    def __init__(self, journal: RunIndex, access: AccessPolicy) -> None:
        self._journal = journal
        self._access = access

    async def find(
        self,
        principal: Principal,
        *,
        session_id: str | None,
        last_event_id: str | None,
        prompt_digests: Collection[str] | None = None,
    ) -> StreamPosition | None:
        """Return where the reader continues, or None where there is no such run in the caller's tenant.

        If `session_id` is given, the run is that session. Otherwise it is the caller's run whose log contains the event
        `last_event_id`. If no run contains it, because the gateway has made the id, the run is the caller's newest one,
        whose prompt has one of the digests where these are given; the reader continues after the time in the id.
        Raises `PermissionDenied`, and `EventsGone` where storage has lost the event of a run under way.
        """
        event_id = _as_milliseconds(last_event_id)
        is_own = event_id > 0 and (last_event_id or "").strip() == str(event_id)  # the gateway makes microseconds
        if session_id:
            record = await self._journal.get_record(session_id)
            if record is None or not self._access.exists(principal, _owner(record)):
                return None
            self._access.check(principal, _owner(record))
            if is_own and await self._journal.ends_before(session_id, event_id):
                raise EventsGone(session_id)
            return StreamPosition(session_id, event_id)
        if is_own:
            held = await self._journal.find_by_event_id(principal.tenant_id, principal.user_id, event_id)
            if held is not None:
                return StreamPosition(held.session_id, event_id)
        newest = await self._journal.find_newest(principal.tenant_id, principal.user_id, prompt_digests)
        return None if newest is None else StreamPosition(newest.session_id, event_id)

    async def is_end(self, position: StreamPosition) -> bool:
        """Return whether the reader has everything: its last event is the end marker of an ended run."""
        return position.last_event_id > 0 and await self._journal.end_id(position.session_id) == position.last_event_id

    async def get_record(self, principal: Principal, session_id: str) -> RunRecord:
        """Return the record of a run that the caller may see. Raises `NotFound`, `PermissionDenied`."""
        record, unknown = await self._journal.get_record(session_id), f"there is no run {session_id[:120]}"
        if record is None:
            raise NotFound(unknown)
        self._access.check(principal, _owner(record), unknown)
        return record

    async def load(self, principal: Principal, session_id: str) -> tuple[RunRecord, Checkpoint]:
        """Return a run that the caller may see, as it was last saved. Raises `NotFound`, `PermissionDenied`."""
        record = await self.get_record(principal, session_id)
        checkpoint = await self._journal.load(session_id)
        if checkpoint is None:
            raise NotFound(f"the run {session_id} is no longer kept")
        return record, checkpoint


def _owner(record: RunRecord) -> Owner:
    return record.tenant_id, record.user_id


def _as_milliseconds(last_event_id: str | None) -> int:
    """Return an event id in milliseconds; 0 where it is not a number.

    Ids of this service are milliseconds; ids that the gateway inserts are microseconds.
    """
    text = (last_event_id or "").strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        return 0
    number = int(text)
    if number < _MAX_MILLISECONDS:
        return number
    return number // 1000 if number < _MAX_MICROSECONDS else number // 1_000_000
