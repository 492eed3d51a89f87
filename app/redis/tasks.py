"""The runs whose tasks have not been informed of everything yet, in Redis (CONTRACT §6): `ports.tasks.TaskOutbox`.

What to report is not stored: it follows from the checkpoint. A run is listed when it is created, and removed when the
end of its task has been reported; so another node reports what this node does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.ports.tasks import TaskRecord, TaskTicket
from app.redis import keys, scripts
from app.redis.checkpoints import Checkpoints
from app.redis.wire.connection import Connection
from app.redis.wire.script import Command
from statemachine.foreign_json import ForeignJsonInvalid, parse_object
from statemachine.frames import compact_json

TASK_TTL_SECONDS = 60 * 60
_ATTEMPTS = 5


def list_run(session_id: str, ticket: TaskTicket) -> Command:
    """Return the write that lists a run. Send it before the run is created; the entry of a run that does not exist is
    removed when it is due."""
    return ("ZADD", keys.TASKS, int(ticket.first_due_at * 1000), session_id)


def ticket_arguments(ticket: TaskTicket | None, now: float) -> tuple[str, int]:
    """Return `ticket` and `ticket_ttl_ms` of `scripts.CREATE`: a token is not kept for longer than it is valid."""
    return ("", 0) if ticket is None else (ticket.encrypted_token, max(1, int((ticket.expires_at - now) * 1000)))


def link_command(task_id: str, request_id: str) -> Command:
    """Return the write by which the approval request of a task can be found."""
    return ("SET", keys.hitl_task(task_id), request_id, "EX", TASK_TTL_SECONDS)


class RedisTaskOutbox:
    """The sorted set of listed runs, and the task fields of the runs. No run waits for it."""

    def __init__(self, connection: Connection, checkpoints: Checkpoints) -> None:
        self._connection = connection
        self._checkpoints = checkpoints
        self._set_once = connection.register(scripts.SET_ONCE)
        self._claim_due = connection.register(scripts.CLAIM_DUE)
        self._swap = connection.register(scripts.SWAP)

    async def load(self, session_id: str) -> TaskRecord | None:
        (checkpoint,), run, encrypted_token, score = await self._connection.pipeline(
            [
                ("MGET", keys.checkpoint(session_id)),  # unlike GET it is no error where another type is stored
                ("HMGET", keys.run(session_id), "final", "task", "task_started"),
                ("GET", keys.ticket(session_id)),
                ("ZSCORE", keys.TASKS, session_id),
            ]
        )
        if checkpoint is None or run[0] is None:
            return None
        return TaskRecord(
            checkpoint=await self._checkpoints.open(session_id, checkpoint),
            is_final=run[0] == b"1",
            task_id=run[1].decode() if run[1] is not None else None,
            is_started=run[2] is not None,
            is_listed=score is not None,
            encrypted_token=encrypted_token.decode() if encrypted_token is not None else None,
        )

    async def save_task_id(self, session_id: str, task_id: str) -> str:
        return str(await self._set(session_id, "task", task_id), "utf-8")

    async def mark_started(self, session_id: str) -> None:
        await self._set(session_id, "task_started", "1")

    async def _set(self, session_id: str, field: str, value: str) -> bytes:
        """Set a field of a run unless it is set already. Returns the value that is stored then."""
        stored = await self._connection.run_script(
            self._set_once, run_key=keys.run(session_id), field=field, value=value
        )
        return bytes(stored)

    async def link_request(self, task_id: str, request_id: str) -> None:
        """The request is changed by compare-and-set, and only while it is pending: a decision is never overwritten."""
        await self._connection.execute(*link_command(task_id, request_id))
        key = keys.hitl_request(request_id)
        for _ in range(_ATTEMPTS):
            (raw,) = await self._connection.get_many([key])
            stored = _object(raw)
            if stored is None or stored.get("status") != "pending" or stored.get("taskId") == task_id:
                return
            wanted = compact_json({**stored, "taskId": task_id}).encode("utf-8", "replace")
            if await self._connection.run_script(self._swap, value_key=key, expected=raw, wanted=wanted) == wanted:
                return

    async def reserve(self, session_ids: Sequence[str], until: float) -> None:
        if session_ids:
            scored = [part for session_id in session_ids for part in (int(until * 1000), session_id)]
            await self._connection.execute("ZADD", keys.TASKS, "XX", *scored)

    async def claim_due(self, now: float, until: float, limit: int) -> list[str]:
        due = await self._connection.run_script(
            self._claim_due,
            tasks_key=keys.TASKS,
            now_ms=int(now * 1000),
            held_until_ms=int(until * 1000),
            max_count=limit,
        )
        return keys.sessions(due)

    async def remove(self, session_id: str) -> None:
        await self._connection.pipeline([("DEL", keys.ticket(session_id)), ("ZREM", keys.TASKS, session_id)])


def _object(raw: bytes | None) -> dict[str, Any] | None:
    try:
        return None if raw is None else parse_object(raw)
    except ForeignJsonInvalid:
        return None
