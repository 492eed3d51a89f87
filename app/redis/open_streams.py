"""The open streams of each user, over all nodes (`ports.quotas.StreamQuota`).

A node counts its own streams in memory, and writes a user's number to Redis when it has been open for a moment: most
streams are not. A user with few streams on this node is not checked against the others. A number of a node without a
lease counts no longer, so nothing must be cleaned up after a crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import structlog

from app.errors import QuotaExceeded, StorageUnavailable
from app.redis import keys, scripts
from app.redis.wire.connection import Connection
from app.redis.wire.script import Command

_REPORT_SECONDS = 1.0
_RETRY_AFTER_SECONDS = 5
_KEY_SECONDS = 24 * 3600
_UNCHECKED_SHARE = 8
"""A user with less than this part of its streams on one node opens another one without a round trip."""

_UNKNOWN = -1

_User = tuple[str, str]

log = structlog.get_logger(__name__)


class RedisStreamQuota:
    """Counts the streams of this node, which `node_id` names; `max_streams` is the limit of a user, 0 for none."""

    def __init__(self, connection: Connection, node_id: Callable[[], str], max_streams: int) -> None:
        self._connection = connection
        self._node_id = node_id
        self._max_streams = max_streams
        self._dead = connection.register(scripts.DEAD)
        self._open: dict[_User, int] = {}
        self._reported: dict[_User, int] = {}
        self._changed: set[_User] = set()
        self._reported_as = ""
        self._reporter: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._max_streams:
            self._reporter = asyncio.create_task(self._report_regularly())

    async def stop(self) -> None:
        """Stop reporting. The numbers of this node end with its lease."""
        if self._reporter is not None:
            self._reporter.cancel()
            await asyncio.gather(self._reporter, return_exceptions=True)

    async def open(self, tenant_id: str, user_id: str) -> None:
        if not self._max_streams:
            return
        user = (tenant_id, user_id)
        count = self._change(user, +1)
        if count * _UNCHECKED_SHARE <= self._max_streams:
            return
        try:
            total = count if count > self._max_streams else count + await self._count_elsewhere(user)
        except BaseException:
            self._change(user, -1)
            raise
        if total > self._max_streams:
            self._change(user, -1)
            if count <= self._max_streams:  # Redis has been told of this stream
                await self._send([user])
            cause = f"this user may have {self._max_streams} streams open"
            raise QuotaExceeded("AURA_MAX_STREAMS_PER_USER", cause, _RETRY_AFTER_SECONDS, is_timed=False)

    def close(self, tenant_id: str, user_id: str) -> None:
        if self._max_streams:
            self._change((tenant_id, user_id), -1)

    def _change(self, user: _User, difference: int) -> int:
        """Change the number of a user's streams on this node, and return it."""
        count = self._open.get(user, 0) + difference
        if count:
            self._open[user] = count
        else:
            self._open.pop(user, None)
        self._changed.add(user)
        return count

    async def _count_elsewhere(self, user: _User) -> int:
        """Write the number of this node, and return the sum of those of the other nodes that are alive."""
        own, key = self._node_id(), keys.streams_of(*user)
        *_, raw, nodes, ended = await self._send(
            [user],
            ("HGETALL", key),
            ("ZRANGE", keys.NODES, 0, -1),
            self._dead.command(nodes_key=keys.NODES),
        )
        alive, counts = {node.decode("utf-8", "replace") for node in {*nodes} - {*ended}} | {own}, _pairs(raw)
        gone = [node for node in counts if node not in alive]
        if gone:
            await self._connection.execute("HDEL", key, *gone)
        return sum(count for node, count in counts.items() if node in alive and node != own)

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            if self._reported_as != self._node_id():  # after the loss of its lease a node continues under a new id
                self._reported_as = self._node_id()
                self._reported.clear()
                self._changed |= set(self._open)
            changed, self._changed = self._changed, set()
            try:
                await self._send(changed)
            except StorageUnavailable as error:
                log.warning("quota.not_reported", cause=error.cause)

    async def _send(self, users: Collection[_User], *more: Command) -> list[Any]:
        """Write the numbers of users, with further commands. Returns the replies. Raises `StorageUnavailable`."""
        try:
            return await self._connection.pipeline([*(it for user in users for it in self._write(user)), *more])
        except StorageUnavailable:
            self._changed.update(users)
            self._reported.update(dict.fromkeys(users, _UNKNOWN))
            raise

    def _write(self, user: _User) -> list[Command]:
        """Return the writes of a user's number; none where Redis has it."""
        count, key, node = self._open.get(user, 0), keys.streams_of(*user), self._node_id()
        if count == self._reported.get(user, 0):
            return []
        if not count:
            self._reported.pop(user, None)
            return [("HDEL", key, node)]
        self._reported[user] = count
        return [("HSET", key, node, count), ("EXPIRE", key, _KEY_SECONDS)]


def _pairs(raw: object) -> dict[str, int]:
    """Return the numbers of the nodes: RESP 2 gives them flat, RESP 3 as a dict."""
    found = dict(raw) if isinstance(raw, dict) else dict(zip(raw[::2], raw[1::2], strict=True))  # type: ignore[index]
    return {bytes(node).decode("utf-8", "replace"): int(count) for node, count in found.items()}
