"""Reads values from Redis as the systems around Aura read them."""

from __future__ import annotations

import json
from typing import Any

import redis


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


def everything_stored(client: redis.Redis) -> bytes:
    """Return the names and values of all keys, of a client that does not decode."""
    found = []
    for key in client.scan_iter(count=1000):
        match client.type(key):
            case b"string":
                value: Any = client.get(key)
            case b"hash":
                value = client.hgetall(key)
            case b"zset":
                value = client.zrange(key, 0, -1)
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
