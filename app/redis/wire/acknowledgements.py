"""Waits until replicas have what a master has written, before anything happens outside (`AURA_REDIS_REPLICAS`).

`WAIT` speaks for the writes of its own connection only, and blocks it. So each master gets a connection for this alone,
which first checks that the write is there and writes a marker: replication keeps the order, so a replica that has the
marker has the write, too. All that wait at the same time share one `WAIT`.
"""

from __future__ import annotations

import asyncio
import contextvars

import structlog
from redis.exceptions import NoScriptError

from app.errors import StorageUnavailable
from app.redis.wire.connection import Connection
from app.redis.wire.pipeline import Pipeline
from app.redis.wire.script import Command, Script

_MAX_WAIT_SECONDS = 1.0
"""How long one `WAIT` waits for the replicas; less where the service expects faster replies of Redis."""
_MARKER_TTL_SECONDS = 60
_PAUSE_SECONDS = 0.1
"""A caller that gets False tries again."""

# Returns 1 and writes the marker where the key (a string, or a field of a hash) has this value; else 0.
_MARK = Script(
    """
local found
if field == '' then found = redis.call('GET', key) else found = redis.call('HGET', key, field) end
if found ~= value then return 0 end
redis.call('SET', marker_key, 1, 'EX', ttl)
return 1
""",
    keys=("key", "marker_key"),
    args=("field", "value", "ttl"),
)

log = structlog.get_logger(__name__)


class Acknowledgements:
    """Waits for replicas of the masters. With `replicas` 0 nothing is sent, and everything counts as acknowledged."""

    def __init__(self, connection: Connection, replicas: int) -> None:
        self._connection = connection
        self._replicas = replicas
        self._wait: Command = ("WAIT", replicas, int(1000 * min(_MAX_WAIT_SECONDS, connection.timeout_seconds / 2)))
        self._groups: dict[Pipeline, _Group] = {}
        connection.register(_MARK)

    async def has(self, key: str, value: str, *, field: str = "") -> bool:
        """Return whether enough replicas have a write, after which a key or a field of it has this value.

        False, after a short pause, where the value is another one now: the master may be another server, which lacks
        the write. False also where the master cannot be queried.
        """
        if not self._replicas:
            return True
        try:
            is_acknowledged = await self._wait_for(key, field, value)
        except (NoScriptError, StorageUnavailable):
            is_acknowledged = False
        if not is_acknowledged:
            log.warning("redis.not_acknowledged", replicas=self._replicas)
            await asyncio.sleep(_PAUSE_SECONDS)
        return is_acknowledged

    async def _wait_for(self, key: str, field: str, value: str) -> bool:
        marker_key = f"aura:{{{_slot_part(key)}}}:acknowledged"
        arguments = {"key": key, "marker_key": marker_key, "field": field, "value": value, "ttl": _MARKER_TTL_SECONDS}
        mark, group = _MARK.command(**arguments), self._group(await self._connection.separate_pipeline(key))
        try:
            return await group.wait(mark)
        except NoScriptError:
            await self._connection.run_script(_MARK, **arguments)  # which loads it
            return await group.wait(mark)

    def _group(self, pipeline: Pipeline) -> _Group:
        found = self._groups.get(pipeline)
        if found is None:
            found = self._groups[pipeline] = _Group(pipeline, self._wait)
        return found


class _Group:
    """What waits for the replicas of one master: while one `WAIT` is under way, others gather for the next one."""

    def __init__(self, pipeline: Pipeline, wait: Command) -> None:
        self._pipeline = pipeline
        self._wait = wait
        self._waiting: list[tuple[Command, asyncio.Future[bool]]] = []
        self._task: asyncio.Task[None] | None = None

    def wait(self, mark: Command) -> asyncio.Future[bool]:
        """Return the future of the answer. Raises `NoScriptError` where the master does not know the script."""
        result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((mark, result))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), context=contextvars.Context())
        return result

    async def _run(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting, []
            try:
                *marked, count = await self._pipeline.submit([*(mark for mark, _ in together), self._wait])
            except StorageUnavailable:
                marked, count = [0] * len(together), 0
            is_enough = isinstance(count, int) and count >= self._wait[1]
            for (_, result), reply in zip(together, marked, strict=True):
                if result.done():
                    continue
                if isinstance(reply, NoScriptError):
                    result.set_exception(reply)
                else:
                    result.set_result(is_enough and reply == 1)
        self._task = None


def _slot_part(key: str) -> str:
    """Return the part of a key that selects its slot in a cluster."""
    return key.partition("{")[2].partition("}")[0] or key
