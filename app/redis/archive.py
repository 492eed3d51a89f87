"""The runs that are not in the archive yet, in Redis: `ports.archive.ArchiveOutbox`.

A run is listed in the round trip that creates it, or else in the one that ends it, and removed when it is archived; so
a run that has ended is found whatever happens to its process. Each write of the list touches one small entry: one when
a run begins, one when it ends, and two when it is copied. That is a hundredth of what the run itself writes, so one key
serves a whole cluster.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from app.ports.journal import RunRecord
from app.redis import keys, scripts
from app.redis.run_index import read_records
from app.redis.wire.connection import Connection
from app.redis.wire.script import Command

_SETTLE_SECONDS = 1.0
"""For how long a run is left alone after its end: its task of the Main Service may become known in that time."""
_CHECKS_PER_RETENTION = 4
"""A run whose end was not noted is found after a part of the retention time, so that it is copied before it expires."""


class RedisArchiveOutbox:
    """A sorted set of session ids, scored by the time at which they are due (ms)."""

    def __init__(self, connection: Connection, *, retention_seconds: int) -> None:
        self._connection = connection
        self.check_seconds = retention_seconds / _CHECKS_PER_RETENTION
        self._claim_due = connection.register(scripts.CLAIM_DUE)

    def list_run(self, session_id: str, now: float) -> Command:
        """Return the write that lists a new run. Send it before the run is created."""
        return ("ZADD", keys.ARCHIVE, int((now + self.check_seconds) * 1000), session_id)

    def unlist_run(self, session_id: str) -> Command:
        """Return the write that removes a run that was not created."""
        return ("ZREM", keys.ARCHIVE, session_id)

    def note_end(self, session_id: str, now: float) -> Command:
        """Return the write that makes a run due which is about to end. It lists one that began without an archive."""
        return ("ZADD", keys.ARCHIVE, int((now + _SETTLE_SECONDS) * 1000), session_id)

    async def claim_due(self, now: float, until: float, limit: int) -> list[str]:
        due = await self._connection.run_script(
            self._claim_due,
            tasks_key=keys.ARCHIVE,
            now_ms=int(now * 1000),
            held_until_ms=int(until * 1000),
            max_count=limit,
        )
        sessions = keys.sessions(due)
        if len(sessions) < len(due):  # others have written something else there
            known = set(sessions)
            foreign = [raw for raw in due if raw.decode("utf-8", "replace") not in known]
            await self._connection.execute("ZREM", keys.ARCHIVE, *foreign)
        return sessions

    async def postpone(self, session_ids: Sequence[str], until: float) -> None:
        if session_ids:
            scored = [part for session_id in session_ids for part in (int(until * 1000), session_id)]
            await self._connection.execute("ZADD", keys.ARCHIVE, "XX", *scored)

    async def stored_runs(self) -> AsyncIterator[list[RunRecord]]:
        """Iterate over the runs of all users, by the names of their keys."""
        async for names in self._connection.scan(keys.ANY_RUN):
            session_ids = keys.sessions(name.rpartition(b":")[2] for name in names)
            if session_ids:
                records = await read_records(self._connection, session_ids)
                yield [record for record in records if record is not None]

    async def add(self, session_ids: Sequence[str], due_at: float) -> int:
        if not session_ids:
            return 0
        scored = [part for session_id in session_ids for part in (int(due_at * 1000), session_id)]
        return int(await self._connection.execute("ZADD", keys.ARCHIVE, "NX", *scored))

    async def remove(self, session_ids: Sequence[str]) -> None:
        if session_ids:
            await self._connection.execute("ZREM", keys.ARCHIVE, *session_ids)

    async def count_due(self, now: float) -> int:
        return int(await self._connection.execute("ZCOUNT", keys.ARCHIVE, "-inf", int(now * 1000)))
