"""What Redis holds of a person's runs: `ports.erasure.PersonalRuns`.

All keys of a user's runs have the same hash tag, but other tenants may have a user of that name. So each key is
checked: it belongs to the person if its run does, or if its name is made of the person's ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.ports.erasure import Counts
from app.redis import keys
from app.redis.wire.connection import Connection
from app.redis.wire.errors import is_wrong_type
from app.redis.wire.script import Command
from statemachine.foreign_json import ForeignJsonInvalid, parse_object
from statemachine.sessions import is_session_id, key_safe_user_id

_AT_ONCE = 500
_OF_RUNS = {"run": "runs", "events": "event logs", "summary": "summaries", "ticket": "tokens for the Main Service"}
"""The kinds of keys that end with a session id, and their names for people."""


@dataclass(slots=True)
class _Found:
    """The keys of a person by kind, its runs, and those of them that have not ended."""

    keys: dict[str, set[str]] = field(default_factory=dict)
    sessions: set[str] = field(default_factory=set)
    active: set[str] = field(default_factory=set)
    has_namesake: bool = False

    def add(self, kind: str, names: Iterable[str]) -> None:
        self.keys.setdefault(kind, set()).update(names)

    @property
    def counts(self) -> Counts:
        return {kind: len(names) for kind, names in self.keys.items() if names}


class RedisRunData:
    """Finds and removes the keys. It reads the names of all keys, which takes time in a large database."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def active_runs(self, tenant_id: str, user_id: str) -> list[str]:
        names = await self._names(f"aura:{{{key_safe_user_id(user_id)}}}:run:*")
        found = _Found()
        await self._find_sessions(tenant_id, user_id, names, found)
        return sorted(found.active)

    async def count(self, tenant_id: str, user_id: str) -> Counts:
        return (await self._find(tenant_id, user_id)).counts

    async def erase(self, tenant_id: str, user_id: str) -> Counts:
        found = await self._find(tenant_id, user_id)
        # The lists of others come first: no process looks up a run there whose keys are gone.
        sessions = sorted(found.sessions)
        lists = [keys.ARCHIVE, keys.TASKS, keys.tenant_runs(tenant_id), *await self._names(keys.runs_on("*"))]
        for part in _parts(sessions):
            await self._connection.pipeline([("ZREM", name, *part) for name in lists])
        names = sorted(name for kind in found.keys.values() for name in kind)
        if not found.has_namesake:
            names.append(f"aura:{{{key_safe_user_id(user_id)}}}:ids")
        for part in _parts(names):
            await self._connection.pipeline([("DEL", name) for name in part])
        return found.counts

    # --- finding ------------------------------------------------------------------------------------------------------

    async def _find(self, tenant_id: str, user_id: str) -> _Found:
        tag = key_safe_user_id(user_id)
        prefix, saved = f"aura:{{{tag}}}:", f"checkpoint:{{{tag}}}:"
        names = [*await self._names(f"{prefix}*"), *await self._names(f"{saved}*")]
        found = _Found()
        await self._find_sessions(tenant_id, user_id, names, found)
        found.add(
            "checkpoints", (name for name in names if name.startswith(saved) and _session(name) in found.sessions)
        )
        for kind, title in _OF_RUNS.items():
            start = f"{prefix}{kind}:"
            found.add(title, (it for it in names if it.startswith(start) and _session(it) in found.sessions))
        owner = (tenant_id, user_id)
        own = {keys.runs_of(*owner), keys.active_of(*owner), keys.stored_of(*owner), keys.streams_of(*owner)}
        found.add("lists and counters", own & set(names))
        await self._find_by_content(names, prefix, found)
        await self._find_approvals(tenant_id, user_id, found)
        return found

    async def _find_sessions(self, tenant_id: str, user_id: str, names: Sequence[str], found: _Found) -> None:
        """Find the runs of the person: by their records, by its list of runs, and by saved checkpoints alone."""
        sessions = sorted({session for name in names if (session := _session(name)) is not None})
        records = await self._replies([("HMGET", keys.run(id), "tenant", "user", "final") for id in sessions])
        unknown = []
        for session_id, record in zip(sessions, records, strict=True):
            if not isinstance(record, list) or record[0] is None:
                unknown.append(session_id)
            elif (_text(record[0]), _text(record[1])) == (tenant_id, user_id):
                found.sessions.add(session_id)
                if record[2] != b"1":
                    found.active.add(session_id)
            else:
                found.has_namesake = True
        listed = await self._replies([("ZRANGE", keys.runs_of(tenant_id, user_id), 0, -1)])
        found.sessions.update(keys.sessions(listed[0]) if isinstance(listed[0], list) else ())
        # The history of a thread is kept for longer than the other keys of its runs.
        for session_id, raw in zip(
            unknown, await self._replies([("GET", keys.checkpoint(id)) for id in unknown]), strict=True
        ):
            request = _object(raw).get("request")
            if isinstance(request, dict) and (request.get("tenant_id"), request.get("user_id")) == (tenant_id, user_id):
                found.sessions.add(session_id)

    async def _find_by_content(self, names: Sequence[str], prefix: str, found: _Found) -> None:
        """Find the keys whose names have a digest, by the runs that they name."""
        threads = [name for name in names if name.startswith(f"{prefix}thread:")]
        members = await self._replies([("ZRANGE", name, 0, -1) for name in threads])
        found.add(
            "threads",
            (
                name
                for name, listed in zip(threads, members, strict=True)
                if isinstance(listed, list) and found.sessions.intersection(keys.sessions(listed))
            ),
        )
        repeated = [name for name in names if name.startswith(f"{prefix}idempotency:")]
        values = await self._replies([("GET", name) for name in repeated])
        found.add(
            "idempotency keys",
            (
                name
                for name, value in zip(repeated, values, strict=True)
                if isinstance(value, bytes) and _text(value).partition(" ")[0] in found.sessions
            ),
        )

    async def _find_approvals(self, tenant_id: str, user_id: str, found: _Found) -> None:
        """Find approval requests, what belongs to them, and the signals of the runs."""
        own = set()
        names = await self._names("hitl:request:*")
        for name, raw in zip(names, await self._replies([("GET", name) for name in names]), strict=True):
            request = _object(raw)
            owner, session = (str(request.get("tenantId")), str(request.get("userId"))), str(request.get("sessionId"))
            if session in found.sessions or (owner == (tenant_id, user_id) and is_session_id(session)):
                own.add(name)
        found.add("approval requests", own)
        tasks = await self._names("hitl:task:*")
        targets = await self._replies([("GET", name) for name in tasks])
        linked = {
            name
            for name, value in zip(tasks, targets, strict=True)
            if isinstance(value, bytes) and keys.hitl_request(_text(value)) in own
        }
        candidates = [key(id) for id in sorted(found.sessions) for key in (keys.hitl_session, keys.hitl_signal)]
        present = await self._replies([("EXISTS", name) for name in candidates])
        linked |= {name for name, exists in zip(candidates, present, strict=True) if exists == 1}
        found.add("signals and links of approval requests", linked)

    async def _names(self, pattern: str) -> list[str]:
        return sorted(_text(name) for name in await self._connection.find_keys(pattern))

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, None for a key that holds something else than it should. Raises `StorageUnavailable`."""
        found: list[Any] = []
        for part in _parts(commands):
            for reply in await self._connection.pipeline_results(part):
                if isinstance(reply, Exception) and not is_wrong_type(reply):
                    raise reply
                found.append(None if isinstance(reply, Exception) else reply)
        return found


def _parts(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))


def _session(name: str) -> str | None:
    """Return the session id with which a key ends, or None."""
    last = name.rpartition(":")[2]
    return last if is_session_id(last) else None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _object(raw: Any) -> dict[str, Any]:
    try:
        return parse_object(raw) if isinstance(raw, bytes) else {}
    except ForeignJsonInvalid:
        return {}
