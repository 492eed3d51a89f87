"""Waiting for what only storage or the system can show: bounded, never a bare sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.01


async def eventually(probe: Callable[[], T], seconds: float = 30) -> T:
    """The first truthy value of `probe()`. Raises `AssertionError` when the time is up."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not (seen := probe()):
        assert loop.time() < until, f"it did not come true in {seconds} s; last seen: {seen!r}"
        await asyncio.sleep(_POLL_SECONDS)
    return seen
