"""Reads values from Redis as the systems around Aura read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import redis

from app.crypto.purpose_keys import PurposeKeys
from app.ports.journal import LogEntry
from app.redis import keys
from app.redis.log_entries import RawEntry, log_entries
from app.redis.seals import CheckpointSeal, RequestSeal, Seals
from statemachine.packed_frames import pack
from tests.harness.service import SECRET


def read_json(client: redis.Redis, key: Any) -> Any:
    """The parsed JSON of a string key, which must exist."""
    raw = client.get(key)
    assert raw is not None, f"{key} does not exist"
    return json.loads(raw)


def checkpoint(client: redis.Redis, session_id: str = "") -> dict[str, Any]:
    """The only checkpoint in Redis whose key contains `session_id`."""
    (key,) = client.keys(f"checkpoint:*{session_id}*")
    value: dict[str, Any] = read_json(client, key)
    return value


def read_checkpoints(client: redis.Redis) -> list[dict[str, Any]]:
    """All checkpoints in Redis."""
    return [read_json(client, key) for key in client.keys("checkpoint:*")]


def raw_log(client: redis.Redis, session_id: str) -> list[RawEntry]:
    """The entries of the stream of a run, undecoded whatever the client."""
    read: Any = client.execute_command
    entries: list[RawEntry] = read("XRANGE", keys.events(session_id), "-", "+", NEVER_DECODE=True)
    return entries


def read_log(client: redis.Redis, session_id: str) -> list[LogEntry]:
    """The events in the log of a run."""
    return log_entries(raw_log(client, session_id))


def write_log(client: redis.Redis, session_id: str, events: Sequence[LogEntry], *, packed: bool = True) -> None:
    """Replace the log of a run as a program can that may write to it. Each event gets an entry of its own."""
    client.delete(keys.events(session_id))
    for id, body in events:
        client.xadd(keys.events(session_id), {"b": pack([body]) if packed else body}, id=f"{id}-0")


def everything_stored(client: redis.Redis) -> bytes:
    """Return the names and values of all keys, of a client that does not decode. Event logs are unpacked."""
    found = []
    for key in client.scan_iter(count=1000):
        match client.type(key):
            case b"string":
                value: Any = client.get(key)
            case b"hash":
                value = client.hgetall(key)
            case b"zset":
                value = client.zrange(key, 0, -1)
            case b"stream" if b":events:" in key:
                value = log_entries(client.xrange(key))  # type: ignore[arg-type]
            case b"stream":
                value = client.xrange(key)
            case b"set":
                value = client.smembers(key)
            case b"list":
                value = client.lrange(key, 0, -1)
            case kind:
                raise AssertionError(f"{key!r} has the type {kind!r}, which nothing here reads")
        found.append(key + b" " + (value if isinstance(value, bytes) else repr(value).encode()))
    return b"\n".join(found)


def seals(decision_key: str | None = None, *, secret: str = SECRET) -> Seals:
    """The seals of a service with this secret."""
    keys = PurposeKeys([secret])
    return Seals(
        CheckpointSeal(keys, accept_unsigned=False),
        RequestSeal(keys, accept_unsigned=False, decision_key=decision_key),
    )


def sealed(checkpoint: dict[str, Any]) -> bytes:
    """A checkpoint as the service stores it, with its MAC."""
    unsigned = {name: value for name, value in checkpoint.items() if name != "mac"}
    return seals().checkpoints.seal_text(json.dumps(unsigned).encode())
