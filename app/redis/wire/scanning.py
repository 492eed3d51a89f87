"""Iterates over the names of the keys of one server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from app.redis.wire.errors import raise_error_reply
from app.redis.wire.script import Command

_SCANNED_KEYS = 1000
"""How many keys the server examines for one reply."""


async def scan_keys(
    submit: Callable[[Sequence[Command]], Awaitable[list[Any]]], pattern: str
) -> AsyncIterator[list[bytes]]:
    """Yield the names of the keys that match a pattern, some at a time. A name may come twice.

    `submit` sends commands to the server. Raises `StorageUnavailable`.
    """
    cursor: int | None = None
    while cursor != 0:
        (reply,) = await submit([("SCAN", cursor or 0, "MATCH", pattern, "COUNT", _SCANNED_KEYS)])
        raise_error_reply(reply)
        cursor = int(reply[0])
        yield reply[1]
