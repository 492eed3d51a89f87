"""Detects senders whose Redis client writes a Java header before keys and values (CONTRACT §5).

Decisions of such a sender cannot be read, and approvals seem to do nothing. So the operator gets the cause and the
remedy.
"""

from __future__ import annotations

import structlog

from app.errors import StorageUnavailable
from app.ports.clock import Clock
from app.redis.wire.connection import Connection
from statemachine.decisions import JAVA_HEADER, JAVA_REMEDY

_KEY_PATTERN = JAVA_HEADER + b"t*hitl:*"
"""Keys that a `RedisTemplate` with its default key serialiser writes: header, type `t`, length, text."""

_PAGE_KEYS = 1000
_MAX_PAGES = 100
_HINT_SECONDS = 3600.0

log = structlog.get_logger(__name__)


class SenderDiagnostics:
    """Collects what is wrong with received decisions, as hints for an operator."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._noticed_at: dict[str, float] = {}

    @property
    def hints(self) -> list[str]:
        """The problems of the last hour: a sender that was corrected is no longer reported."""
        now = self._clock.now()
        return [f"{problem} {JAVA_REMEDY}" for problem, at in self._noticed_at.items() if now - at < _HINT_SECONDS]

    def notice(self, raw: bytes, source: str) -> None:
        """Check the first bytes of a value that another program wrote. `source` names it at the start of a sentence.

        Each problem is logged once an hour, not with every signal.
        """
        if raw.startswith(JAVA_HEADER):
            self._record(f"{source} begins with a Java serialisation header (AC ED 00 05).")

    def _record(self, problem: str) -> None:
        now = self._clock.now()
        if now - self._noticed_at.get(problem, 0.0) >= _HINT_SECONDS:
            log.warning("sender.misconfigured", cause=problem, remedy=JAVA_REMEDY)
        self._noticed_at[problem] = now

    async def load(self) -> None:
        """Search the first 100,000 keys for names with a Java header, which no reader of decisions looks up."""
        cursor = 0
        try:
            for _ in range(_MAX_PAGES):
                next_cursor, found = await self._connection.execute(
                    "SCAN", cursor, "MATCH", _KEY_PATTERN, "COUNT", _PAGE_KEYS
                )
                if found:
                    self._record("The name of a key in Redis begins with a Java serialisation header (AC ED 00 05).")
                cursor = int(next_cursor)
                if found or not cursor:
                    return
        except (StorageUnavailable, TypeError, ValueError):  # a cluster does not support SCAN over all nodes like this
            return
