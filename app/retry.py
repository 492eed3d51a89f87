"""Retrying while storage is unavailable."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.errors import StorageUnavailable

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0
"""An outage costs little, and its end is noticed soon."""


def growing_pause(failures: int, *, first_seconds: float = FIRST_PAUSE_SECONDS) -> float:
    """Return how long to wait after so many failures in a row (s): twice as long after each, up to the maximum.

    Up to half of it is left out at random, so that processes do not come back at the same moment.
    """
    pause: float = min(MAX_PAUSE_SECONDS, first_seconds * 2 ** min(max(0, failures - 1), 10))
    return pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


async def retry_until_available(
    attempt: Callable[[], Awaitable[T]],
    *,
    pause_seconds: Callable[[int], float] = growing_pause,
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
