"""Decisions that nobody can read: a sender whose Redis client puts a Java header before its names and values (§5).

Such a mistake looks like approvals that do nothing, so it is told to whoever operates the service.
"""

from __future__ import annotations

import structlog

from app.errors import StorageUnavailable
from app.ports.clock import Clock
from app.redis.wire.connection import Connection
from statemachine.decisions import JAVA_HEADER, JAVA_REMEDY

_NAMES = JAVA_HEADER + b"t*hitl:*"
"""How the names look that a `RedisTemplate` with its default key serialiser writes: header, type `t`, length, text."""

_PAGE = 1000
_MOST_PAGES = 100
_SHOWN_SECONDS = 3600.0

log = structlog.get_logger(__name__)


class SenderDiagnostics:
    """What is wrong with the decisions that arrive, in words for an operator."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._seen: dict[str, float] = {}

    @property
    def hints(self) -> list[str]:
        """What was noticed within the last hour: a sender that was put right is forgotten."""
        now = self._clock.now()
        return [f"{what} {JAVA_REMEDY}" for what, at in self._seen.items() if now - at < _SHOWN_SECONDS]

    def notice(self, raw: bytes, what: str) -> None:
        """Look at the first bytes of something that was written for us; logged once, not with every signal."""
        if raw.startswith(JAVA_HEADER):
            self._note(f"{what} begins with a Java serialisation header (AC ED 00 05).")

    def _note(self, what: str) -> None:
        now = self._clock.now()
        if now - self._seen.get(what, 0.0) >= _SHOWN_SECONDS:
            log.warning("sender.misconfigured", cause=what, remedy=JAVA_REMEDY)
        self._seen[what] = now

    async def load(self) -> None:
        """At the start: keys under names that nobody looks up. Some 100,000 keys at most, a page at a time."""
        cursor = 0
        try:
            for _ in range(_MOST_PAGES):
                answered, found = await self._connection.execute("SCAN", cursor, "MATCH", _NAMES, "COUNT", _PAGE)
                if found:
                    self._note("The name of a key in Redis begins with a Java serialisation header (AC ED 00 05).")
                cursor = int(answered)
                if found or not cursor:
                    return
        except (StorageUnavailable, TypeError, ValueError):  # a cluster has no such walk over all its nodes
            return
