"""Looking up runs in Redis: `ports.journal.RunIndex`."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import structlog

from app.errors import FieldInvalid, RecordChanged
from app.ports.journal import Idempotency, ListedRun, ListEnd, RunList, RunRecord, Thread
from app.redis import keys
from app.redis.checkpoints import Checkpoints
from app.redis.log_entries import end_marker, last_id
from app.redis.wire.connection import Connection
from app.redis.wire.errors import is_wrong_type, raise_error_reply
from app.redis.wire.script import Command
from statemachine.checkpoint import Checkpoint
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable
from statemachine.sessions import is_session_id
from statemachine.views.summary import Summary

log = structlog.get_logger(__name__)

_NEWEST_RUNS = 100
"""How many of the newest runs of a user are searched."""
_THREAD_RUNS = 20
_THREAD_BYTES = 1024 * 1024
"""How much of the newest runs of a thread is loaded; a model gets far less of it."""
_MAX_SUMMARIZED = 10
"""How many runs of a list get the summary that they lack. The list ends there; the next page gets the others."""
_RECORD_FIELDS = ("user", "tenant", "prompt", "owner", "epoch", "final", "task")


class RedisRunIndex:
    """Reads checkpoints, run records and the sorted sets that list runs."""

    def __init__(self, connection: Connection, checkpoints: Checkpoints, *, retention_seconds: int) -> None:
        self._connection = connection
        self._checkpoints = checkpoints
        self._retention_seconds = retention_seconds

    async def load(self, session_id: str) -> Checkpoint | None:
        if not is_session_id(session_id):
            return None
        (raw,) = await self._connection.get_many([keys.checkpoint(session_id)])
        return None if raw is None else await self._checkpoints.open(session_id, raw)

    async def open_request_id(self, session_id: str) -> str | None:
        (raw,) = await self._connection.get_many([keys.summary(session_id)])
        summary = None if raw is None else Summary.from_json(raw)
        return None if summary is None else summary.request_id

    async def get_record(self, session_id: str) -> RunRecord | None:
        if not is_session_id(session_id):
            return None
        (record,) = await read_records(self._connection, [session_id])
        return record

    async def find_by_idempotency_key(self, tenant_id: str, user_id: str, idempotency: Idempotency) -> str | None:
        raw = await self._connection.execute("GET", keys.idempotency(tenant_id, user_id, idempotency.key))
        return None if raw is None else idempotent_session(raw, idempotency)

    async def find_newest(
        self, tenant_id: str, user_id: str, prompt_digests: Collection[str] | None = None
    ) -> RunRecord | None:
        last = 0 if prompt_digests is None else _NEWEST_RUNS - 1
        sessions = await self._connection.execute("ZREVRANGE", keys.runs_of(tenant_id, user_id), 0, last)
        for record in await read_records(self._connection, keys.sessions(sessions)):
            if record is not None and (prompt_digests is None or record.prompt_digest in prompt_digests):
                return record
        return None

    async def end_id(self, session_id: str) -> int | None:
        final, last = await self._connection.pipeline(_last_entry(session_id))
        end = end_marker(last) if final == b"1" else None  # a redirect can let `final` be newer than `last`
        return None if end is None else end.id

    async def ends_before(self, session_id: str, event_id: int) -> bool:
        final, last = await self._connection.pipeline(_last_entry(session_id))
        return final != b"1" and bool(last) and last_id(last[0]) < event_id

    async def find_by_event_id(self, tenant_id: str, user_id: str, event_id: int) -> RunRecord | None:
        index = keys.runs_of(tenant_id, user_id)
        listed = await self._connection.execute("ZREVRANGEBYSCORE", index, event_id, "-inf", "LIMIT", 0, _NEWEST_RUNS)
        sessions = keys.sessions(listed)
        found = await self._connection.pipeline(
            [("XREVRANGE", keys.events(id), event_id, "-", "COUNT", 1) for id in sessions]
        )
        for session_id, entries in zip(sessions, found, strict=True):
            if entries and event_id <= last_id(entries[0]):
                return await self.get_record(session_id)
        return None

    async def load_thread(self, tenant_id: str, user_id: str, thread_id: str) -> Thread:
        index = keys.thread(tenant_id, user_id, thread_id)
        newest, run_count = await self._connection.pipeline(
            [("ZREVRANGE", index, 0, _THREAD_RUNS - 1), ("ZCARD", index)]
        )
        sessions = await self._within(_THREAD_BYTES, keys.sessions(newest))
        found = [run for run in reversed(await self._load_many(sessions)) if run is not None]
        return Thread(found, not_loaded=run_count - len(found))

    async def _within(self, max_bytes: int, session_ids: Sequence[str]) -> list[str]:
        """Return the first of these runs whose checkpoints have about `max_bytes`, at least one of them, and all that
        wait for a person. Their retention time begins again."""
        kept: list[str] = []
        free = max_bytes
        # A failed write does not matter: a checkpoint that is not kept for longer can still be read now.
        replies = await self._connection.pipeline_results(
            [
                command
                for id in session_ids
                for command in (
                    ("STRLEN", keys.checkpoint(id)),
                    ("GET", keys.summary(id)),
                    ("EXPIRE", keys.checkpoint(id), self._retention_seconds),
                    ("EXPIRE", keys.summary(id), self._retention_seconds),
                )
            ]
        )
        for session_id, size, raw in zip(session_ids, replies[::4], replies[1::4], strict=True):
            raise_error_reply(size)
            summary = Summary.from_json(raw) if isinstance(raw, bytes) else None
            may_wait = summary is None or summary.request_id is not None
            if size and (not kept or free > size or may_wait):
                kept.append(session_id)
            free -= size
        return kept

    async def list_end(self, tenant_id: str, user_id: str | None) -> ListEnd:
        index = _index(tenant_id, user_id)
        count, oldest = await self._connection.pipeline([("ZCARD", index), ("ZRANGE", index, 0, 0, "WITHSCORES")])
        flat = [part for item in oldest for part in (item if isinstance(item, list | tuple) else [item])]
        if not flat or not math.isfinite(float(flat[1])):
            return ListEnd(count, None)
        return ListEnd(count, (int(float(flat[1])), flat[0].decode("utf-8", "replace")))

    async def list_runs(
        self,
        tenant_id: str,
        user_id: str | None,
        offset: int,
        limit: int,
        *,
        may_be_archived: bool = True,  # noqa: ARG002
    ) -> RunList:
        index = _index(tenant_id, user_id)
        raw = await self._connection.execute("ZREVRANGE", index, offset, offset + limit)
        sessions = [each.decode("utf-8", "replace") for each in raw]
        runs = [id for id in sessions[:limit] if is_session_id(id)]  # the others keep their places in the list
        found = await self._connection.get_many([keys.summary(id) for id in runs])
        summaries = {id: Summary.from_json(text) for id, text in zip(runs, found, strict=True) if text is not None}
        ended_at = await self._summarize([id for id in runs if id not in summaries], summaries)
        listed = sessions[:limit] if ended_at is None else sessions[: sessions.index(ended_at)]
        return RunList(
            [ListedRun(id, summaries.get(id)) for id in listed],
            has_more=len(sessions) > len(listed),
            is_cut=ended_at is not None,
        )

    async def _summarize(self, session_ids: Sequence[str], summaries: dict[str, Summary | None]) -> str | None:
        """Create the summaries of runs that an older release has written. One checkpoint is loaded at a time.

        Returns the first run that has not been looked at, because there are too many; None if there is none.
        """
        sizes = await self._connection.pipeline_results([("STRLEN", keys.checkpoint(id)) for id in session_ids])
        existing = [id for id, size in zip(session_ids, sizes, strict=True) if not is_wrong_type(size) and size]
        for size in sizes:
            if not is_wrong_type(size):
                raise_error_reply(size)
        for session_id in existing[:_MAX_SUMMARIZED]:
            (checkpoint,) = await self._load_many([session_id])
            if checkpoint is None:
                continue
            summary = summaries[session_id] = Summary.of(checkpoint)
            # `NX`: the run may have been written meanwhile, with its summary.
            key, text = keys.summary(session_id), summary.to_json()
            await self._connection.execute("SET", key, text, "NX", "EX", self._retention_seconds)
        return existing[_MAX_SUMMARIZED] if len(existing) > _MAX_SUMMARIZED else None

    async def _load_many(self, session_ids: Sequence[str]) -> list[Checkpoint | None]:
        """Return the checkpoints in order, None for one that has expired, cannot be read or was changed by others."""
        found = await self._connection.get_many([keys.checkpoint(id) for id in session_ids])
        checkpoints: list[Checkpoint | None] = []
        for session_id, raw in zip(session_ids, found, strict=True):
            try:
                checkpoints.append(None if raw is None else await self._checkpoints.open(session_id, raw))
            except (CheckpointTooNew, CheckpointUnreadable):
                checkpoints.append(None)
            except RecordChanged as error:
                log.warning("record.changed", sessionId=session_id, cause=error.cause)
                checkpoints.append(None)
        return checkpoints


async def read_records(connection: Connection, session_ids: Sequence[str]) -> list[RunRecord | None]:
    """Return the records in order, None for a run that does not exist. Raises `StorageUnavailable`."""
    found = await connection.pipeline_results([("HMGET", keys.run(id), *_RECORD_FIELDS) for id in session_ids])
    return [_record(session_id, fields) for session_id, fields in zip(session_ids, found, strict=True)]


def _last_entry(session_id: str) -> list[Command]:
    """Return the commands that read whether a run has ended, and the last entry of its log."""
    return [("HGET", keys.run(session_id), "final"), ("XREVRANGE", keys.events(session_id), "+", "-", "COUNT", 1)]


def _index(tenant_id: str, user_id: str | None) -> str:
    """Return the key of the list of a user's runs, or of a tenant's."""
    return keys.tenant_runs(tenant_id) if user_id is None else keys.runs_of(tenant_id, user_id)


def _record(session_id: str, fields: Any) -> RunRecord | None:
    """Return a record from its stored fields; None where there is none, or others have made it unreadable."""
    if is_wrong_type(fields):
        return None
    raise_error_reply(fields)
    *required, task_id = (None if field is None else field.decode("utf-8", "replace") for field in fields)
    if None in required or not str(required[4]).isdecimal():
        return None
    user, tenant, prompt, owner, epoch, final = map(str, required)
    return RunRecord(session_id, user, tenant, prompt, owner, int(epoch), final == "1", task_id)


def idempotent_session(raw: bytes, idempotency: Idempotency) -> str:
    """Return the session that an idempotency key created. Raises `FieldInvalid` where its request was another one."""
    session_id, _, first_digest = raw.decode().partition(" ")
    if first_digest != idempotency.digest:
        raise FieldInvalid("Idempotency-Key: it was used for another prompt or context; use a new key")
    return session_id
