"""The event log and the checkpoints of all runs, in Redis: `ports.journal.Journal`.

An event is stored before any reader is notified of it (CONTRACT §3).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from app.errors import QuotaExceeded, RunDamaged, RunExists, RunLost
from app.ports.journal import Idempotency, LogEntry, RunLock, Tail
from app.ports.quotas import Quotas
from app.ports.tasks import TaskTicket
from app.redis import keys, scripts, tasks
from app.redis.archive import RedisArchiveOutbox
from app.redis.checkpoints import Checkpoints
from app.redis.commit_queue import CommitQueue
from app.redis.feeds import Feeds
from app.redis.log_entries import first_id, log_entries
from app.redis.nodes import RedisNodes
from app.redis.quotas import RedisTenants, expiry_bucket, user_exceeded
from app.redis.run_index import RedisRunIndex, idempotent_session
from app.redis.wake_ups import WakeUps
from app.redis.wire.acknowledgements import Acknowledgements
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from app.redis.wire.script import Command
from statemachine.checkpoint import Checkpoint
from statemachine.frames import DONE_BODY
from statemachine.packed_frames import pack
from statemachine.views.summary import Summary

_PAGE_ENTRIES = 200


class RedisJournal(RedisRunIndex):
    """Fenced, idempotent writes, and readers that are cursors."""

    def __init__(
        self,
        connection: Connection,
        pubsub: PubSub,
        nodes: RedisNodes,
        checkpoints: Checkpoints,
        tenants: RedisTenants,
        quotas: Quotas,
        acknowledgements: Acknowledgements,
        archive: RedisArchiveOutbox | None = None,
    ) -> None:
        """With `archive` each run is listed there, so that it is archived when it has ended."""
        super().__init__(connection, checkpoints, retention_seconds=tenants.retention_seconds)
        self._nodes = nodes
        self._tenants = tenants
        self._quotas = quotas
        self._acknowledgements = acknowledgements
        self._archive = archive
        self._user_limits = {
            "max_runs": quotas.runs_per_user,
            "max_per_minute": quotas.runs_per_minute_user,
            "max_stored": quotas.stored_bytes_user,
        }
        self._create = connection.register(scripts.CREATE)
        self._commit = connection.register(scripts.COMMIT)
        self._prevent = connection.register(scripts.PREVENT)
        self._wake_ups = WakeUps(connection, pubsub)
        self._feeds = Feeds(connection, self._wake_ups)
        self._queue = CommitQueue(connection)

    async def start(self) -> None:
        await self._tenants.start()

    async def stop(self) -> None:
        await self._queue.stop()
        await self._tenants.stop()

    def drain(self) -> None:
        """End every reader without the end marker (CONTRACT §2.3)."""
        self._feeds.drain()

    @property
    def feed_count(self) -> int:
        """The number of runs that are read in this process."""
        return self._feeds.count

    @property
    def reader_count(self) -> int:
        """The number of open tails."""
        return self._feeds.reader_count

    # --- writing ------------------------------------------------------------------------------------------------------

    async def create(
        self,
        checkpoint: Checkpoint,
        bodies: Sequence[bytes],
        *,
        prompt_digest: str,
        idempotency: Idempotency | None,
        thread_id: str | None,
        ticket: TaskTicket | None = None,
    ) -> RunLock | str:
        request, created_at = checkpoint.request, checkpoint.created_at
        session_id, tenant_id, saved = request.session_id, request.tenant_id, await self._checkpoints.seal(checkpoint)
        try:
            listing = await self._tenants.list_run(tenant_id, session_id, int(created_at * 1000))
        except QuotaExceeded:
            existing = await self._find_existing(checkpoint, idempotency)
            if existing is None:
                raise
            return existing
        entry = _entry_arguments(bodies)
        create = self._create_command(checkpoint, saved, entry, prompt_digest, idempotency, thread_id, ticket)
        lists = [
            *self._nodes.list_run(session_id, created_at),
            *([] if ticket is None else [tasks.list_run(session_id, ticket)]),
            *([] if self._archive is None else [self._archive.list_run(session_id, created_at)]),
            *([] if listing is None else [listing]),
        ]
        lock, node_id, failovers = RunLock(session_id, 1, created_at), self._nodes.node_id, self._connection.failovers
        try:
            earlier, reply = await _list_and_create(self._connection, lists, create)
        finally:  # also without an answer: the run may exist all the same
            self._nodes.lists.doubt_since(failovers, node_id, lock)
        if listing is not None:
            self._tenants.note_listed(tenant_id, earlier[-1])
        if reply[0] == b"OK":
            self._feeds.create(session_id, _entries(int(reply[1]), bodies))
            size = len(saved) + len(entry["entry"])
            self._tenants.add_stored(tenant_id, expiry_bucket(created_at, self._retention_seconds), size)
            return lock
        return await self._not_created(tenant_id, session_id, reply, idempotency)

    async def _not_created(
        self, tenant_id: str, session_id: str, reply: list[bytes], idempotency: Idempotency | None
    ) -> str:
        """Return the run that the idempotency key created before, or raise why there is none."""
        # The results do not matter: a run that is listed and does not exist is removed by a takeover.
        await self._connection.pipeline_results(
            [
                self._nodes.unlist_run(session_id),
                self._tenants.unlist_run(tenant_id, session_id),
                *([] if self._archive is None else [self._archive.unlist_run(session_id)]),
            ]
        )
        match reply[0]:
            case b"SAME" if idempotency is not None:
                return idempotent_session(reply[1], idempotency)
            case b"FULL":
                raise user_exceeded(reply[1].decode(), int(reply[2]), self._quotas)
            case _:
                raise RunExists(session_id)

    async def _find_existing(self, checkpoint: Checkpoint, idempotency: Idempotency | None) -> str | None:
        """Return the session that the idempotency key created before, or None: a repetition is no new run."""
        if idempotency is None:
            return None
        request = checkpoint.request
        return await self.find_by_idempotency_key(request.tenant_id, request.user_id, idempotency)

    def _create_command(
        self,
        checkpoint: Checkpoint,
        saved: bytes,
        entry: dict[str, Any],
        prompt_digest: str,
        idempotency: Idempotency | None,
        thread_id: str | None,
        ticket: TaskTicket | None,
    ) -> Command:
        request, now_ms = checkpoint.request, int(checkpoint.created_at * 1000)
        session_id, user = request.session_id, (request.tenant_id, request.user_id)
        encrypted_token, ticket_ttl_ms = tasks.ticket_arguments(ticket, checkpoint.created_at)
        return self._create.command(
            **names_of_run(session_id),
            **_user_keys(checkpoint),
            idempotency_key=keys.idempotency(*user, idempotency.key if idempotency else ""),
            thread_key=keys.thread(*user, thread_id or ""),
            ticket_key=keys.ticket(session_id),
            token=secrets.token_hex(8),
            session_id=session_id,
            now_ms=now_ms,
            ttl=self._retention_seconds,
            **entry,
            checkpoint=saved,
            summary=Summary.of(checkpoint).to_json(),
            stored_until=self._stored_until(checkpoint.created_at),
            owner=self._nodes.node_id,
            user_id=request.user_id,
            tenant_id=request.tenant_id,
            prompt_digest=prompt_digest,
            request_digest=idempotency.digest if idempotency else "",
            idempotency_ttl=_idempotency_ttl(idempotency, self._retention_seconds),
            **self._user_limits,
            oldest_ms=now_ms - 2000 * self._retention_seconds,
            wake_command=self._wake_ups.command,
            is_in_thread=int(thread_id is not None),
            ticket=encrypted_token,
            ticket_ttl_ms=ticket_ttl_ms,
        )

    def _stored_until(self, now: float) -> int | str:
        """Return the argument of the scripts: when bytes that are written now expire, '' if they are not counted."""
        return expiry_bucket(now, self._retention_seconds) if self._quotas.counts_bytes else ""

    async def commit(self, lock: RunLock, bodies: Sequence[bytes], checkpoint: Checkpoint | None, now: float) -> None:
        session_id = lock.session_id
        is_final = bool(bodies) and bodies[-1] == DONE_BODY
        stored_until = self._stored_until(now)
        command = self._commit.command(
            **names_of_run(session_id),
            **_user_keys(checkpoint),
            epoch=lock.epoch,
            sequence=lock.sequence + 1,
            now_ms=int(now * 1000),
            ttl=self._retention_seconds,
            **_entry_arguments(bodies),
            checkpoint=await self._checkpoints.seal(checkpoint) if checkpoint is not None else "",
            summary=Summary.of(checkpoint).to_json() if checkpoint is not None else "",
            is_final=int(is_final),
            waits_until=_waits_until_ms(checkpoint),
            stored_until=stored_until,
            session_id=session_id,
            wake_command=self._wake_ups.command,
        )
        if is_final and self._archive is not None:  # were it lost, the run is due later all the same
            self._queue.write_later(self._archive.note_end(session_id, now))
        reply = await self._write(lock, command)
        lock.sequence += 1
        run_key, sequence = keys.run(session_id), str(lock.sequence)
        while _must_survive(checkpoint) and not await self._acknowledgements.has(run_key, sequence, field="seq"):
            # A no-op with a short reply, unless the master is another server and lacks the commit.
            reply = max(reply, await self._write(lock, command), key=len)
        if len(reply) > 2 and reply[2]:
            lock.cancelled_by = reply[2].decode()
        if len(reply) > 3 and checkpoint is not None:
            tenant_id, former_expiry, former, size = checkpoint.request.tenant_id, *map(int, reply[3:6])
            self._tenants.add_stored(tenant_id, former_expiry, -former)
            self._tenants.add_stored(tenant_id, int(stored_until), size)
        if is_final:
            self._queue.write_later(self._nodes.unlist_run(session_id))
        self._feeds.publish(session_id, _entries(int(reply[1]), bodies))

    async def _write(self, lock: RunLock, command: Command) -> list[Any]:
        """Write a commit and return its reply. Raises `RunLost` and `RunDamaged` as `commit` does."""
        reply: list[Any] = await self._queue.write(command)
        if reply[0] == b"BEHIND":
            lock.sequence = int(reply[1])
            raise RunDamaged(lock.session_id)
        if reply[0] != b"OK":
            self.release(lock.session_id)
            cause = "another node took it over" if reply[0] == b"FENCED" else "its data is gone from Redis"
            raise RunLost(lock.session_id, cause)
        return reply

    async def prevent_creation(self, session_id: str) -> bool:
        command = self._prevent.command(run_key=keys.run(session_id), ttl=scripts.PREVENTION_SECONDS)
        return bool(await self._queue.write(command))

    def adopt(self, session_id: str) -> None:
        self._feeds.adopt(session_id)

    def release(self, session_id: str) -> None:
        self._feeds.release(session_id)

    # --- reading ------------------------------------------------------------------------------------------------------

    def tail(self, session_id: str, last_event_id: int, on_news: Callable[[], None]) -> Tail:
        return self._feeds.tail(session_id, last_event_id, on_news)

    async def read_bodies(self, session_id: str) -> AsyncIterator[bytes]:
        start = "-"
        while True:
            raw = await self._connection.execute("XRANGE", keys.events(session_id), start, "+", "COUNT", _PAGE_ENTRIES)
            for entry in log_entries(raw):
                yield entry.body
            if raw:
                start = f"({first_id(raw[-1])}"
            if len(raw) < _PAGE_ENTRIES:
                return

    async def ping(self) -> None:
        await self._connection.execute("PING")


async def _list_and_create(connection: Connection, lists: Sequence[Command], create: Command) -> tuple[list[Any], Any]:
    """List a run, then create it: a run that no list names would never be taken over.

    One server executes them in this order. The masters of a cluster do not wait for each other: there, the run is
    created only after the lists are known to have it.
    """
    if connection.stats().is_cluster:
        earlier = await connection.pipeline(lists)
        return earlier, (await connection.pipeline([create]))[0]
    *earlier, reply = await connection.pipeline([*lists, create])
    return earlier, reply


@lru_cache(maxsize=1024)  # every commit needs them
def names_of_run(session_id: str) -> Mapping[str, str]:
    """Return the keys of a run that the scripts write, and the channel that wakes its readers."""
    return {
        "run_key": keys.run(session_id),
        "events_key": keys.events(session_id),
        "checkpoint_key": keys.checkpoint(session_id),
        "summary_key": keys.summary(session_id),
        "ids_key": keys.event_ids(session_id),
        "wake_channel": keys.wake(session_id),
    }


def _entry_arguments(bodies: Sequence[bytes]) -> dict[str, Any]:
    """Return the arguments of the scripts for the events of a commit."""
    return {"event_count": len(bodies), "entry": pack(bodies)}


_NO_USER_KEYS: Mapping[str, None] = {"runs_key": None, "active_key": None, "stored_key": None}


def _user_keys(checkpoint: Checkpoint | None) -> Mapping[str, str | None]:
    """Return the keys of the user that the scripts write: none for streamed text (no checkpoint)."""
    if checkpoint is None:
        return _NO_USER_KEYS
    user = (checkpoint.request.tenant_id, checkpoint.request.user_id)
    return {
        "runs_key": keys.runs_of(*user),
        "active_key": keys.active_of(*user),
        "stored_key": keys.stored_of(*user),
    }


def _idempotency_ttl(idempotency: Idempotency | None, retention_seconds: int) -> int:
    """Return for how many seconds a repetition of the request finds the run; 0 where it has no key."""
    if idempotency is None:
        return 0
    return retention_seconds if idempotency.seconds is None else idempotency.seconds


def _must_survive(checkpoint: Checkpoint | None) -> bool:
    """Return whether losing a commit could let something happen twice: a call runs that must not be repeated."""
    return checkpoint is not None and any(not call.idempotent for call in checkpoint.running)


def _waits_until_ms(checkpoint: Checkpoint | None) -> int:
    """Return until when a run waits for a person, or is about to: then its own deadline. 0 for any other run."""
    if checkpoint is None or not checkpoint.pending_approvals:
        return 0
    return int(1000 * (checkpoint.deadline_at or checkpoint.run_deadline_at))


def _entries(first_id: int, bodies: Sequence[bytes]) -> list[LogEntry]:
    return [LogEntry(first_id + i, body) for i, body in enumerate(bodies)]
