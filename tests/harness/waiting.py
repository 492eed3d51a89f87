"""Waits for a condition that must be polled, with a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.01


async def eventually(probe: Callable[[], T], seconds: float = 30) -> T:
    """Poll `probe()` until its value is true, and return the value. Raises `AssertionError` after `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (value := probe()):
        assert loop.time() < deadline, f"the condition was not met within {seconds} s; last value: {value!r}"
        await asyncio.sleep(_POLL_SECONDS)
    return value
