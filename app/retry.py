"""Retrying while storage is unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.errors import StorageUnavailable

T = TypeVar("T")


async def retry_until_available(
    attempt: Callable[[], Awaitable[T]],
    *,
    pause_seconds: Callable[[int], float] = lambda _: 0.5,
    on_unavailable: Callable[[StorageUnavailable], None] = lambda _: None,
) -> T:
    """Call `attempt` until it no longer raises `StorageUnavailable`, and return its result.

    `pause_seconds` maps the number of failures so far to the pause before the next call; `on_unavailable` gets each
    error, for example to log it.
    """
    failures = 0
    while True:
        try:
            return await attempt()
        except StorageUnavailable as error:
            failures += 1
            on_unavailable(error)
            await asyncio.sleep(pause_seconds(failures))
