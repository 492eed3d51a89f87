"""Which run a reader means, and from which event on (§3). Never starts one."""

from __future__ import annotations

from dataclasses import dataclass

from app.errors import NotFound, PermissionDenied
from app.ports.identity import Principal
from app.ports.journal import Journal, RunRecord
from statemachine.checkpoint import Checkpoint

_MILLISECONDS_BELOW = 10**14
_MICROSECONDS_BELOW = 10**17


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """A run and the last event of it that the reader has (0: none)."""

    session_id: str
    after: int


class RunLocator:
    """Finds the run of a reader who comes back."""

    def __init__(self, journal: Journal, approver_roles: frozenset[str]) -> None:
        self._journal = journal
        self._approver_roles = approver_roles

    async def find(
        self,
        principal: Principal,
        *,
        session_id: str | None,
        last_event_id: str | None,
        prompt_digest: str | None = None,
    ) -> StreamPosition | None:
        """The position, or None: there is no such run.

        Named session first; else the caller's run that holds the id; else, as the gateway made the id up, his newest
        (with the same prompt and context, where there is one), from that time on. Raises `PermissionDenied`.
        """
        time_ms = _as_milliseconds(last_event_id)
        if session_id:
            return await self._named(principal, session_id, time_ms)
        if last_event_id and last_event_id.strip() == str(time_ms):
            held = await self._journal.find_by_event_id(principal.tenant_id, principal.user_id, time_ms)
            if held is not None:
                return StreamPosition(held.session_id, time_ms)
        newest = await self._journal.find_newest(principal.tenant_id, principal.user_id, prompt_digest)
        return None if newest is None else StreamPosition(newest.session_id, time_ms)

    async def _named(self, principal: Principal, session_id: str, after: int) -> StreamPosition | None:
        record = await self._journal.get_record(session_id)
        if record is None:
            return None
        self.allow(principal, record)
        return StreamPosition(session_id, after)

    def allow(self, principal: Principal, record: RunRecord) -> None:
        """A run is for its owner, and for approvers of its tenant. Raises `PermissionDenied`."""
        if record.tenant_id != principal.tenant_id:
            raise PermissionDenied("the run belongs to another tenant")
        if record.user_id != principal.user_id and principal.role not in self._approver_roles:
            raise PermissionDenied("the run belongs to another user")

    async def visible(self, principal: Principal, session_id: str) -> RunRecord:
        """The record of a run that the caller may see. Raises `NotFound`, `PermissionDenied`."""
        record = await self._journal.get_record(session_id)
        if record is None:
            raise NotFound(f"there is no run {session_id[:120]}")
        self.allow(principal, record)
        return record

    async def run(self, principal: Principal, session_id: str) -> tuple[RunRecord, Checkpoint]:
        """A run that the caller may see, as it was last saved. Raises `NotFound`, `PermissionDenied`."""
        record = await self.visible(principal, session_id)
        checkpoint = await self._journal.load(session_id)
        if checkpoint is None:
            raise NotFound(f"the run {session_id} is no longer kept")
        return record, checkpoint


def _as_milliseconds(last_event_id: str | None) -> int:
    """An id read as a time: ours are milliseconds, the gateway's are microseconds; 0 for what is no number."""
    text = (last_event_id or "").strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        return 0
    number = int(text)
    if number < _MILLISECONDS_BELOW:
        return number
    return number // 1000 if number < _MICROSECONDS_BELOW else number // 1_000_000
