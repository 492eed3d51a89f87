"""The event log and the checkpoints of all runs, in Redis: `ports.Journal`.

Commits of all runs that come while a write is under way go out together in the next (group commit). An event is stored
before any reader is told of it (§3).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import structlog

from app.errors import FieldInvalid, RunDamaged, RunExists, RunLost, StorageUnavailable, TooManyRuns
from app.ports.journal import CheckpointPage, LogEntry, RunLock, RunRecord, Tail
from app.ports.tasks import TaskTicket
from app.redis import keys, scripts, tasks
from app.redis.feeds import Feeds, pairs
from app.redis.nodes import RedisNodes
from app.redis.wire.connection import Command, Connection
from app.redis.wire.pubsub import PubSub
from statemachine.checkpoint import Checkpoint
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable
from statemachine.frames import DONE_BODY
from statemachine.sessions import is_session_id

_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
_PAGE = 200
_NEWEST = 100
_TURNS = 20
_FORBID_SECONDS = 600

log = structlog.get_logger(__name__)


class RedisJournal:
    """Fenced, idempotent writes; readers that are cursors."""

    def __init__(
        self,
        connection: Connection,
        pubsub: PubSub,
        nodes: RedisNodes,
        *,
        retention_seconds: int,
        most_runs_per_user: int = 0,
    ) -> None:
        self._connection = connection
        self._nodes = nodes
        self._retention_seconds = retention_seconds
        self._most_runs_per_user = most_runs_per_user
        self._create = connection.register(scripts.CREATE)
        self._commit = connection.register(scripts.COMMIT)
        self._forbid = connection.register(scripts.FORBID)
        self._feeds = Feeds(connection, pubsub)
        self._queue: list[tuple[Command, asyncio.Future[Any]]] = []
        self._queued = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._writer = asyncio.create_task(self._write())

    async def stop(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    def drain(self) -> None:
        """Let every reader end without the end marker (§2.3)."""
        self._feeds.drain()

    # --- writing ------------------------------------------------------------------------------------------------------

    async def create(
        self,
        checkpoint: Checkpoint,
        bodies: Sequence[bytes],
        *,
        prompt_digest: str,
        idempotency_key: str | None,
        thread_id: str | None,
        ticket: TaskTicket | None = None,
    ) -> RunLock | str:
        request = checkpoint.request
        session_id, now_ms = request.session_id, int(checkpoint.created_at * 1000)
        owner = (request.tenant_id, request.user_id)
        create = self._create.command(
            [
                keys.run(session_id),
                keys.events(session_id),
                keys.checkpoint(session_id),
                keys.event_ids(session_id),
                keys.runs_of(*owner),
                keys.active_of(*owner),
                keys.idempotency(*owner, idempotency_key or ""),
                keys.thread(*owner, thread_id or ""),
                keys.ticket(session_id),
            ],
            [
                secrets.token_hex(8),
                session_id,
                now_ms,
                self._retention_seconds,
                checkpoint.to_json(),
                self._nodes.node_id,
                request.user_id,
                request.tenant_id,
                prompt_digest,
                int(idempotency_key is not None),
                self._most_runs_per_user,
                now_ms - 2000 * self._retention_seconds,
                keys.wake(session_id),
                int(thread_id is not None),
                *tasks.ticket_arguments(ticket, checkpoint.created_at),
                *bodies,
            ],
        )
        tenant = keys.tenant_runs(request.tenant_id)
        (*listed, answer) = await self._connection.pipeline_results(
            [
                *self._nodes.enlist(session_id, checkpoint.created_at),
                ("ZADD", tenant, now_ms, session_id),
                ("ZREMRANGEBYSCORE", tenant, "-inf", now_ms - 2000 * self._retention_seconds),
                ("EXPIRE", tenant, 2 * self._retention_seconds),
                *([] if ticket is None else [tasks.listing(session_id, ticket)]),
                create,
            ]
        )
        for each in (answer, *listed):  # what is not listed with a node nobody would take over
            if isinstance(each, Exception):
                raise each
        if answer[0] != b"OK":
            await self._connection.pipeline_results([self._nodes.delist(session_id), ("ZREM", tenant, session_id)])
        match answer[0]:
            case b"OK":
                self._feeds.begin(session_id, _entries(int(answer[1]), bodies))
                return RunLock(session_id, 1, checkpoint.created_at)
            case b"SAME":
                return _first_opened(answer[1], prompt_digest)
            case b"FULL":
                raise TooManyRuns(f"at most {self._most_runs_per_user} runs of one user at a time")
            case _:
                raise RunExists(session_id)

    async def find_by_idempotency_key(
        self, tenant_id: str, user_id: str, idempotency_key: str, prompt_digest: str
    ) -> str | None:
        raw = await self._connection.execute("GET", keys.idempotency(tenant_id, user_id, idempotency_key))
        return None if raw is None else _first_opened(raw, prompt_digest)

    async def commit(self, lock: RunLock, bodies: Sequence[bytes], checkpoint: Checkpoint | None, now: float) -> None:
        session_id = lock.session_id
        is_final = bool(bodies) and bodies[-1] == DONE_BODY
        owner = self._owner_keys(checkpoint)
        command = self._commit.command(
            [
                keys.run(session_id),
                keys.events(session_id),
                keys.checkpoint(session_id),
                keys.event_ids(session_id),
                *owner,
            ],
            [
                lock.epoch,
                lock.sequence + 1,
                int(now * 1000),
                self._retention_seconds,
                checkpoint.to_json() if checkpoint is not None else "",
                int(is_final),
                session_id,
                keys.wake(session_id),
                *bodies,
            ],
        )
        answer = await self._enqueue(command)
        if answer[0] == b"BEHIND":
            lock.sequence = int(answer[1])
            raise RunDamaged(session_id)
        if answer[0] != b"OK":
            self.release(session_id)
            cause = "another node took it over" if answer[0] == b"FENCED" else "its data is gone from Redis"
            raise RunLost(session_id, cause)
        lock.sequence += 1
        if len(answer) > 2 and answer[2]:
            lock.cancelled_by = answer[2].decode()
        if is_final:
            self._queue.append((self._nodes.delist(session_id), asyncio.get_running_loop().create_future()))
        self._feeds.publish(session_id, _entries(int(answer[1]), bodies))

    async def prevent_creation(self, session_id: str) -> bool:
        return bool(await self._enqueue(self._forbid.command([keys.run(session_id)], [_FORBID_SECONDS])))

    def _owner_keys(self, checkpoint: Checkpoint | None) -> tuple[str, ...]:
        """The user's index and active set; streamed text (no checkpoint) touches neither."""
        if checkpoint is None:
            return ()
        owner = (checkpoint.request.tenant_id, checkpoint.request.user_id)
        return keys.runs_of(*owner), keys.active_of(*owner)

    def adopt(self, session_id: str) -> None:
        """This node writes the run from now on: its readers here are woken by its commits."""
        self._feeds.open(session_id)

    def release(self, session_id: str) -> None:
        """This node writes the run no more; readers here go on by Pub/Sub."""
        self._feeds.close(session_id)

    async def _enqueue(self, command: Command) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((command, future))
        self._queued.set()
        return await future

    async def _write(self) -> None:
        """One pipeline at a time; what comes meanwhile makes the next. Away storage only makes it wait."""
        failures = 0
        while True:
            await self._queued.wait()
            self._queued.clear()
            batch, self._queue = self._queue, []
            answers = await self._answers([command for command, _ in batch])
            again = []
            for (command, future), answer in zip(batch, answers, strict=True):
                if isinstance(answer, StorageUnavailable):
                    if not future.cancelled():
                        again.append((command, future))
                elif future.cancelled():
                    continue
                elif isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
            if not again:
                failures = 0
                continue
            if failures == 0:
                log.warning("journal.paused", commits=len(again))
            self._queue = again + self._queue
            self._queued.set()
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1

    async def _answers(self, commands: Sequence[Command]) -> list[Any]:
        """Whatever became of each; commits may be repeated. The writer of all runs must outlive every error."""
        try:
            return await self._connection.pipeline_results(commands)
        except StorageUnavailable as error:
            return [error] * len(commands)
        except Exception as error:  # noqa: BLE001 - one that cannot be said to Redis is no other run's trouble
            if len(commands) == 1:
                return [error]
            return [one for (one,) in await asyncio.gather(*(self._answers([command]) for command in commands))]

    # --- looking up ---------------------------------------------------------------------------------------------------

    async def load(self, session_id: str) -> Checkpoint | None:
        raw = await self._connection.execute("GET", keys.checkpoint(session_id))
        return None if raw is None else Checkpoint.from_json(raw)

    async def get_record(self, session_id: str) -> RunRecord | None:
        if not is_session_id(session_id):
            return None
        (record,) = await self._records([session_id])
        return record

    async def find_newest(self, tenant_id: str, user_id: str, prompt_digest: str | None = None) -> RunRecord | None:
        sessions = await self._connection.execute(
            "ZREVRANGE", keys.runs_of(tenant_id, user_id), 0, _NEWEST - 1 if prompt_digest else 0
        )
        for record in await self._records([raw.decode() for raw in sessions]):
            if record is not None and prompt_digest in (None, record.prompt_digest):
                return record
        return None

    async def find_by_event_id(self, tenant_id: str, user_id: str, event_id: int) -> RunRecord | None:
        index = keys.runs_of(tenant_id, user_id)
        sessions = await self._connection.execute("ZREVRANGEBYSCORE", index, event_id, "-inf", "LIMIT", 0, _NEWEST)
        if not sessions:
            return None
        found = await self._connection.pipeline_results(
            [("XRANGE", keys.events(raw.decode()), event_id, event_id, "COUNT", 1) for raw in sessions]
        )
        for raw, entries in zip(sessions, found, strict=True):
            if isinstance(entries, Exception):
                raise entries
            if entries:
                return await self.get_record(raw.decode())
        return None

    async def load_thread(self, tenant_id: str, user_id: str, thread_id: str) -> list[Checkpoint]:
        index = keys.thread(tenant_id, user_id, thread_id)
        sessions = [raw.decode() for raw in await self._connection.execute("ZREVRANGE", index, 0, _TURNS - 1)]
        if sessions:
            kept = [keys.checkpoint(id) for id in sessions]
            await self._connection.pipeline_results([("EXPIRE", key, self._retention_seconds) for key in kept])
        turns = await self._checkpoints(sessions)
        return [turn for turn in reversed(turns) if turn is not None]

    async def list_runs(self, tenant_id: str, user_id: str | None, offset: int, limit: int) -> CheckpointPage:
        index = keys.tenant_runs(tenant_id) if user_id is None else keys.runs_of(tenant_id, user_id)
        sessions = await self._connection.execute("ZREVRANGE", index, offset, offset + limit)
        checkpoints = await self._checkpoints([raw.decode() for raw in sessions[:limit]])
        return CheckpointPage(checkpoints, has_more=len(sessions) > limit)

    async def _checkpoints(self, session_ids: Sequence[str]) -> list[Checkpoint | None]:
        if not session_ids:
            return []
        found = await self._connection.pipeline_results([("GET", keys.checkpoint(id)) for id in session_ids])
        checkpoints: list[Checkpoint | None] = []
        for raw in found:
            if isinstance(raw, Exception):
                raise raw
            try:
                checkpoints.append(None if raw is None else Checkpoint.from_json(raw))
            except (CheckpointTooNew, CheckpointUnreadable):
                checkpoints.append(None)
        return checkpoints

    async def _records(self, session_ids: Sequence[str]) -> list[RunRecord | None]:
        if not session_ids:
            return []
        names = ("user", "tenant", "prompt", "owner", "epoch", "final", "task")
        found = await self._connection.pipeline_results([("HMGET", keys.run(id), *names) for id in session_ids])
        records: list[RunRecord | None] = []
        for session_id, fields in zip(session_ids, found, strict=True):
            if isinstance(fields, Exception):
                raise fields
            if fields[0] is None:
                records.append(None)
                continue
            user, tenant, prompt, owner, epoch, final = (field.decode() for field in fields[:-1])
            task_id = fields[-1].decode() if fields[-1] is not None else None
            records.append(RunRecord(session_id, user, tenant, prompt, owner, int(epoch), final == "1", task_id))
        return records

    async def load_streamed_text(self, session_id: str) -> str:
        said = ""
        async for body in self._all_bodies(session_id):
            event = _event(body)
            fields = event.get("data") or event
            if event.get("type") == "timeline_step_update" and fields["metadata"]["to"] == "content":
                said = ""
            elif event.get("type") == "content":
                said += fields["content"]
        return said

    async def ping(self) -> None:
        await self._connection.execute("PING")

    # --- reading ------------------------------------------------------------------------------------------------------

    def tail(self, session_id: str, after: int, woken: Callable[[], None]) -> Tail:
        return self._feeds.tail(session_id, after, woken)

    async def _all_bodies(self, session_id: str) -> AsyncIterator[bytes]:
        cursor = "-"
        while True:
            raw = await self._connection.execute("XRANGE", keys.events(session_id), cursor, "+", "COUNT", _PAGE)
            for id, fields in pairs(raw):
                cursor = f"({id.decode()}"
                yield fields[1]
            if len(raw) < _PAGE:
                return


def _first_opened(raw: bytes, prompt_digest: str) -> str:
    """The session of an idempotency key. Raises `FieldInvalid` where it was opened for something else."""
    first, _, first_digest = raw.decode().partition(" ")
    if first_digest != prompt_digest:
        raise FieldInvalid("Idempotency-Key: it was used for another prompt or context; use a new key")
    return first


def _entries(base: int, bodies: Sequence[bytes]) -> list[LogEntry]:
    return [LogEntry(base + i, body) for i, body in enumerate(bodies)]


def _event(body: bytes) -> dict[str, Any]:
    """The event in a frame's body; {} for the end marker."""
    data = body.partition(b"data: ")[2].rstrip(b"\n")
    return {} if data == b"[DONE]" else dict(json.loads(data))
