"""What Redis holds, read as the systems around Aura read it."""

from __future__ import annotations

import json
from typing import Any

import redis


def read_json(client: redis.Redis, key: Any) -> Any:
    """The parsed JSON of a string key; it must be there."""
    raw = client.get(key)
    assert raw is not None, f"{key} is not there"
    return json.loads(raw)


def checkpoint(client: redis.Redis, session_id: str = "") -> dict[str, Any]:
    """The one checkpoint that there is (of a session)."""
    (key,) = client.keys(f"checkpoint:*{session_id}*")
    value: dict[str, Any] = read_json(client, key)
    return value


def read_checkpoints(client: redis.Redis) -> list[dict[str, Any]]:
    """All of them."""
    return [read_json(client, key) for key in client.keys("checkpoint:*")]
