"""The log of domain events (§7): a Redis Stream for each tenant, with every accepted event once and its vectors.

All replicas receive the same messages; the script that appends an event skips ids that are in the log already.
Retention belongs to the log: every index deletes what the log has deleted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from app.ports.clock import Clock
from app.ports.knowledge import KnowledgeEntry, LogPosition, LogSummary, Vector, WorkspaceEvent, person_name
from app.redis import keys, knowledge_scripts
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from app.redis.wire.script import Command

_MALFORMED_MARK_SECONDS = 60


class RedisKnowledgeLog:
    """The log in Redis (`ports.knowledge.KnowledgeLog`)."""

    def __init__(
        self,
        connection: Connection,
        pubsub: PubSub,
        node_id: str,
        clock: Clock,
        *,
        channels: Collection[str],
        retention_seconds: float,
        max_events: int,
        max_bytes: int,
    ) -> None:
        """`channels` are those of the domain events. The retention time and the limits apply to each tenant; the oldest
        events are deleted first."""
        self._connection = connection
        self._pubsub = pubsub
        self._node_id = node_id
        self._clock = clock
        self._channels = channels
        self._retention_ms = int(retention_seconds * 1000)
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._accept = connection.register(knowledge_scripts.ACCEPT)
        self._save_vectors = connection.register(knowledge_scripts.SAVE_VECTORS)
        self._count_malformed = connection.register(knowledge_scripts.COUNT_MALFORMED)
        self._acquire_leadership = connection.register(knowledge_scripts.ACQUIRE_LEADERSHIP)

    async def subscribe(
        self, on_message: Callable[[bytes | None], None], on_log_grown: Callable[[str | None], None]
    ) -> None:
        def notify(message: bytes | None) -> None:
            # empty: a new generation, which concerns all tenants
            on_log_grown(message.decode("utf-8", "replace") if message else None)

        listeners = [(channel, on_message) for channel in self._channels] + [(keys.KNOWLEDGE_CHANNEL, notify)]
        # A subscription that is not acknowledged in time is made after a reconnect, and its listener is notified then.
        await asyncio.gather(
            *(self._pubsub.subscribe(channel, listener) for channel, listener in listeners), return_exceptions=True
        )

    # --- writing ------------------------------------------------------------------------------------------------------

    async def accept(self, events: Sequence[WorkspaceEvent]) -> list[bool]:
        now_ms = int(self._clock.now() * 1000)
        # The tenant is registered first, so that other processes find its log even if this one stops after the append.
        scores = [part for tenant in {event.tenant_id for event in events} for part in (now_ms, tenant)]
        commands: list[Command] = [("ZADD", keys.KNOWLEDGE_TENANTS, "GT", *scores)]
        for event in events:
            tenant_id = event.tenant_id
            command = self._accept.command(
                log_key=keys.knowledge_log(tenant_id),
                seen_key=keys.knowledge_seen(tenant_id),
                event_id=event.id,
                event=_encode(event),
                audience=json.dumps(event.audience, ensure_ascii=False, separators=(",", ":")),
                max_events=self._max_events,
                retention_ms=self._retention_ms,
                channel=keys.KNOWLEDGE_CHANNEL,
                tenant_id=tenant_id,
                max_bytes=self._max_bytes,
            )
            commands.append(command)
        _, *replies = await self._connection.pipeline(commands)
        return [bool(reply) for reply in replies]

    async def save_vectors(self, tenant_id: str, vectors: Sequence[Vector]) -> None:
        for model, group in groupby(vectors, lambda vector: vector.model):
            pairs = [part for vector in group for part in (vector.event_id, vector.values)]
            await self._connection.run_script(
                self._save_vectors,
                pairs,
                log_key=keys.knowledge_log(tenant_id),
                seen_key=keys.knowledge_seen(tenant_id),
                channel=keys.KNOWLEDGE_CHANNEL,
                tenant_id=tenant_id,
                model=model,
            )

    async def remove(self, tenant_id: str, event_ids: Sequence[str], positions: Sequence[LogPosition]) -> None:
        log, seen = keys.knowledge_log(tenant_id), keys.knowledge_seen(tenant_id)
        removals: list[Command] = [("XDEL", log, f"{ms}-{sequence}") for ms, sequence in positions]
        await self._connection.pipeline([*removals, *(("ZREM", seen, event_id) for event_id in event_ids)])

    async def count_malformed(self, reasons: Sequence[tuple[str, str]]) -> None:
        commands = [
            self._count_malformed.command(
                counters_key=keys.KNOWLEDGE_REFUSED,
                mark_key=keys.knowledge_refusal(digest),
                reason=reason,
                mark_seconds=_MALFORMED_MARK_SECONDS,
            )
            for reason, digest in reasons
        ]
        await self._connection.pipeline(commands)

    async def acquire_leadership(self, seconds: float) -> bool:
        is_leader = await self._connection.run_script(
            self._acquire_leadership,
            leader_key=keys.KNOWLEDGE_LEADER,
            node_id=self._node_id,
            lease_ms=int(seconds * 1000),
        )
        return bool(is_leader)

    async def start_generation(self) -> int:
        await self._connection.execute("INCR", keys.KNOWLEDGE_GENERATION)
        return int(await self._connection.execute("PUBLISH", keys.KNOWLEDGE_CHANNEL, ""))

    # --- reading ------------------------------------------------------------------------------------------------------

    async def malformed_counts(self) -> dict[str, int]:
        found = await self._connection.execute("HGETALL", keys.KNOWLEDGE_REFUSED)
        return {_text(reason): int(count) for reason, count in dict(found).items()}

    async def list_tenants(self) -> list[str]:
        since = int(self._clock.now() * 1000) - self._retention_ms
        await self._connection.execute("ZREMRANGEBYSCORE", keys.KNOWLEDGE_TENANTS, "-inf", f"({since}")
        return [_text(tenant) for tenant in await self._connection.execute("ZRANGE", keys.KNOWLEDGE_TENANTS, 0, -1)]

    async def read(self, tenant_id: str, after: LogPosition, limit: int) -> list[KnowledgeEntry]:
        begin = f"({after[0]}-{after[1]}"
        rows = await self._connection.execute("XRANGE", keys.knowledge_log(tenant_id), begin, "+", "COUNT", limit)
        return [KnowledgeEntry(_parse_position(id), _decode(tenant_id, fields)) for id, fields in rows]

    async def first_position(self, tenant_id: str) -> LogPosition | None:
        rows = await self._connection.execute("XRANGE", keys.knowledge_log(tenant_id), "-", "+", "COUNT", 1)
        return _parse_position(rows[0][0]) if rows else None

    async def generation(self) -> int:
        return int(await self._connection.execute("GET", keys.KNOWLEDGE_GENERATION) or 0)

    async def summary(self, tenant_id: str) -> LogSummary:
        log, seen = keys.knowledge_log(tenant_id), keys.knowledge_seen(tenant_id)
        entries, events, first, last, *sizes = await self._connection.pipeline(
            [
                ("XLEN", log),
                ("ZCARD", seen),
                ("ZRANGE", seen, 0, 0, "WITHSCORES"),
                ("ZRANGE", seen, -1, -1, "WITHSCORES"),
                ("MEMORY", "USAGE", log),
                ("MEMORY", "USAGE", seen),
            ]
        )
        oldest, newest = (_score_seconds(reply) for reply in (first, last))
        size = sum(int(size or 0) for size in sizes)
        return LogSummary(tenant_id, events, max(0, entries - events), oldest, newest, size)


def _encode(event: WorkspaceEvent) -> str:
    fields = [event.id, event.type, event.topics, event.user_id, event.at, event.title, event.text]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _decode(tenant_id: str, pairs: Any) -> WorkspaceEvent | Vector:
    fields: Mapping[bytes, bytes] = (
        pairs if isinstance(pairs, Mapping) else dict(zip(pairs[::2], pairs[1::2], strict=True))
    )
    if b"v" in fields:
        return Vector(fields[b"v"].decode(), fields[b"m"].decode(), fields[b"b"])
    id, event_type, topics, user_id, at, title, text = json.loads(fields[b"e"])
    # An entry without an audience is from a release that had none: it belongs to the user of the event (§7).
    audience = tuple(json.loads(fields[b"a"])) if b"a" in fields else tuple(filter(None, [person_name(user_id)]))
    return WorkspaceEvent(id, tenant_id, event_type, tuple(topics), user_id, at, title, text, audience)


def _parse_position(id: bytes | str) -> LogPosition:
    ms, _, sequence = _text(id).partition("-")
    return int(ms), int(sequence)


def _score_seconds(reply: Any) -> float | None:
    """Returns the time (Unix s) of a ZRANGE WITHSCORES reply, which is flat in RESP2 and nested in RESP3."""
    flat = [part for item in reply for part in (item if isinstance(item, list | tuple) else [item])]
    return float(flat[1]) / 1000 if flat else None


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()
