"""Which runs' tasks still have to be told of something, in Redis (§6): `ports.Outbox`.

What to tell is not stored: it follows from the checkpoint. A run is listed with its creation and taken off the list
when its task has been told of its end, so what a node leaves undone another one finds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from app.errors import StorageUnavailable
from app.ports.tasks import TaskRecord, TaskTicket
from app.redis import keys, scripts
from app.redis.wire.connection import Command, Connection
from statemachine.checkpoint import Checkpoint
from statemachine.frames import compact_json

TASK_TTL_SECONDS = 60 * 60
_ATTEMPTS = 5


def listing(session_id: str, ticket: TaskTicket) -> Command:
    """The write that lists a run; like its node's, before the run's own. A leftover is dropped when it is due."""
    return ("ZADD", keys.TASKS, int(ticket.first_due_at * 1000), session_id)


def ticket_arguments(ticket: TaskTicket | None, now: float) -> tuple[str, int]:
    """For `scripts.CREATE`: never kept longer than the token is good."""
    return ("", 0) if ticket is None else (ticket.encrypted_token, max(1, int((ticket.expires_at - now) * 1000)))


def link_command(task_id: str, request_id: str) -> Command:
    return ("SET", keys.hitl_task(task_id), request_id, "EX", TASK_TTL_SECONDS)


class RedisTaskOutbox:
    """Nothing here is on a run's path."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._note = connection.register(scripts.NOTE)
        self._due = connection.register(scripts.DUE)
        self._swap = connection.register(scripts.SWAP)

    async def load(self, session_id: str) -> TaskRecord | None:
        checkpoint, run, encrypted_token, score = await self._many(
            ("GET", keys.checkpoint(session_id)),
            ("HMGET", keys.run(session_id), "final", "task", "task_started"),
            ("GET", keys.ticket(session_id)),
            ("ZSCORE", keys.TASKS, session_id),
        )
        if checkpoint is None or run[0] is None:
            return None
        return TaskRecord(
            checkpoint=Checkpoint.from_json(checkpoint),
            is_final=run[0] == b"1",
            task_id=run[1].decode() if run[1] is not None else None,
            is_started=run[2] is not None,
            is_listed=score is not None,
            encrypted_token=encrypted_token.decode() if encrypted_token is not None else None,
        )

    async def save_task_id(self, session_id: str, task_id: str) -> str:
        kept = await self._connection.run_script(self._note, [keys.run(session_id)], ["task", task_id])
        return str(kept, "utf-8")

    async def mark_started(self, session_id: str) -> None:
        await self._connection.run_script(self._note, [keys.run(session_id)], ["task_started", "1"])

    async def link_request(self, task_id: str, request_id: str) -> None:
        """By compare-and-set, and only while it is pending: a decision is never touched."""
        await self._connection.execute(*link_command(task_id, request_id))
        key = keys.hitl_request(request_id)
        for _ in range(_ATTEMPTS):
            raw = await self._connection.execute("GET", key)
            stored = _object(raw)
            if stored is None or stored.get("status") != "pending" or stored.get("taskId") == task_id:
                return
            wanted = compact_json({**stored, "taskId": task_id}).encode()
            if await self._connection.run_script(self._swap, [key], [raw, wanted]) == wanted:
                return

    async def reserve(self, session_ids: Sequence[str], until: float) -> None:
        if session_ids:
            scored = [part for session_id in session_ids for part in (int(until * 1000), session_id)]
            await self._connection.execute("ZADD", keys.TASKS, "XX", *scored)

    async def claim_due(self, now: float, until: float, limit: int) -> list[str]:
        found = await self._connection.run_script(self._due, [keys.TASKS], [int(now * 1000), int(until * 1000), limit])
        return [raw.decode() for raw in found]

    async def remove(self, session_id: str) -> None:
        await self._many(("DEL", keys.ticket(session_id)), ("ZREM", keys.TASKS, session_id))

    async def _many(self, *commands: Command) -> list[Any]:
        answers = await self._connection.pipeline_results(commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise StorageUnavailable(str(answer)) from answer
        return answers


def _object(raw: bytes | None) -> dict[str, Any] | None:
    try:
        stored = json.loads(raw or b"null")
    except ValueError:
        return None
    return stored if isinstance(stored, dict) else None
