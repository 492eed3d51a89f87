"""Taking over the runs of dead nodes: those whose lease has ended, and runs that a node has released."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from app.errors import AuraError, StorageUnavailable
from app.ports.journal import RunLock
from app.ports.nodes import RunOwner
from app.redis import keys, scripts
from app.redis.run_lists import RunLists, list_runs
from app.redis.wire.acknowledgements import Acknowledgements
from app.redis.wire.connection import Connection
from app.redis.wire.errors import is_refusal
from statemachine.sessions import is_session_id

_MAX_LOGGED = 1000

log = structlog.get_logger(__name__)


class Takeover:
    """Offers the runs of dead nodes to the owner of this process's runs. `node_id` returns the current id of this node;
    at most `limit` runs are taken over at the same time."""

    def __init__(
        self,
        connection: Connection,
        node_id: Callable[[], str],
        lists: RunLists,
        acknowledgements: Acknowledgements,
        *,
        limit: int,
    ) -> None:
        self._connection = connection
        self._lists = lists
        self._acknowledgements = acknowledgements
        self._node_id = node_id
        self._limit = limit
        self._dead = connection.register(scripts.DEAD)
        self._claim = connection.register(scripts.CLAIM)
        self._skipped: set[bytes] = set()

    async def run(self, owner: RunOwner) -> None:
        """Take over what the owner accepts. While Redis is unavailable it ends early, with a log line."""
        try:
            dead_nodes = await self._connection.run_script(self._dead, nodes_key=keys.NODES)
            random.shuffle(dead_nodes)  # so that the living nodes share the work
            for raw in dead_nodes:
                # A node that is dead itself notices that later; a run that it took from itself would not be listed.
                if raw != self._node_id().encode():
                    await self._adopt_what_can_be_read(raw, owner)
        except StorageUnavailable as error:
            log.warning("takeover.paused", cause=error.log_cause)

    async def _adopt_what_can_be_read(self, dead: bytes, owner: RunOwner) -> None:
        """Adopt the runs of a dead node. Where others have written another name or list, the next node has its turn.

        Raises `StorageUnavailable`.
        """
        try:
            await self._adopt_runs_of(dead.decode(), owner)
        except (StorageUnavailable, UnicodeDecodeError) as error:
            self._skip(dead, error)

    def _skip(self, what: bytes, error: Exception) -> None:
        """Log once that a node or a run cannot be taken over, as what is stored about it cannot be used.

        Raises `StorageUnavailable` where that is not the cause.
        """
        if isinstance(error, StorageUnavailable) and not is_refusal(error):
            raise error
        if what not in self._skipped and len(self._skipped) < _MAX_LOGGED:
            self._skipped.add(what)
            cause = error.log_cause if isinstance(error, AuraError) else f"{type(error).__name__}: {error}"
            log.warning("takeover.skipped", skipped=what.decode("utf-8", "replace"), cause=cause)

    async def _adopt_runs_of(self, dead: str, owner: RunOwner) -> None:
        """Adopt the runs of a dead node, the oldest first, some at a time.

        The node is deregistered when its last run has been adopted.
        """
        own, listed_runs = self._node_id(), keys.runs_on(dead)
        skipped = 0  # runs that this node does not take: it is full, or a newer release wrote them
        while self._node_id() == own:
            last = skipped + self._limit - 1
            sessions = await self._connection.execute("ZRANGE", listed_runs, skipped, last, "WITHSCORES")
            if not sessions:
                if not skipped:
                    await self._deregister(dead)
                return
            # At the same time: each takes several round trips, and the last run must not wait for all the others.
            results = await asyncio.gather(
                *(self._adopt(owner, own, dead, raw, score) for raw, score in _with_scores(sessions)),
                return_exceptions=True,
            )
            for (raw, _), result in zip(_with_scores(sessions), results, strict=True):
                if isinstance(result, Exception):
                    self._skip(raw, result)
                elif isinstance(result, BaseException):
                    raise result
                skipped += result is not True

    async def _adopt(self, owner: RunOwner, own: str, dead: str, listed: bytes, score: Any) -> bool:
        """Offer a run to the owner. Returns whether the run is no longer listed with the dead node."""
        session_id = listed.decode("utf-8", "replace")
        if not is_session_id(session_id):  # others have written it
            await self._connection.execute("ZREM", keys.runs_on(dead), listed)
            return True
        claims: list[RunLock | None] = []
        await owner.take_over(session_id, partial(self._try_claim, own, dead, session_id, score, claims))
        if any(claims):  # only after the run continues here: a takeover that fails before is repeated
            await self._connection.execute("ZREM", keys.runs_on(dead), session_id)
        return bool(claims)

    async def _deregister(self, dead: str) -> None:
        """Remove a dead node, unless one of its last writes has listed a run with it just now."""
        await self._connection.execute("ZREM", keys.NODES, dead)
        if await self._connection.execute("ZCARD", keys.runs_on(dead)):  # after that: another master may have this key
            await self._connection.execute("ZADD", keys.NODES, "NX", 0, dead)

    async def _try_claim(
        self, own: str, dead: str, session_id: str, score: Any, claims: list[RunLock | None]
    ) -> RunLock | None:
        """Change the owner of a run by compare-and-set, and append the result to `claims`.

        The run is listed with this node first, so that it is always listed.
        """
        failovers = self._connection.failovers
        await self._connection.pipeline(list_runs(own, [(score, session_id)]))
        key = keys.run(session_id)
        claim = partial(
            self._connection.run_script,
            self._claim,
            run_key=key,
            dead_owner=dead,
            releasing_owner=keys.real_node(dead),
            new_owner=own,
            prevention_ttl=scripts.PREVENTION_SECONDS,
        )
        reply = await claim()
        while reply[0] == b"OK" and not await self._acknowledgements.has(key, own, field="owner"):
            reply = await claim()  # a no-op, unless the master is another server and lacks the claim
        if reply[0] == b"BARRED":
            await self._connection.execute("ZREM", keys.runs_on(own), session_id)
            return None
        if reply[0] != b"OK":
            await self._connection.pipeline(
                [("ZREM", keys.runs_on(dead), session_id), ("ZREM", keys.runs_on(own), session_id)]
            )
            claims.append(None)
            return None
        log.info("run.taken_over", sessionId=session_id, fromNode=keys.real_node(dead))
        cancelled_by = reply[3].decode("utf-8", "replace") if len(reply) > 3 and reply[3] else None
        created_ms = float(score) if math.isfinite(float(score)) else 0.0
        lock = RunLock(session_id, int(reply[1]), created_ms / 1000, int(reply[2]), cancelled_by)
        claims.append(lock)
        self._lists.doubt_since(failovers, own, lock)
        return lock


def _with_scores(sessions: list[Any]) -> list[tuple[bytes, Any]]:
    """Return the members and scores of a reply: RESP 2 gives them flat, RESP 3 in pairs."""
    if sessions and isinstance(sessions[0], (list, tuple)):
        return [tuple(pair) for pair in sessions]
    return list(zip(sessions[::2], sessions[1::2], strict=True))
