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
