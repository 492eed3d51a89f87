"""The delays of the stand-ins, before or after the effect of a request: a kill can leave its outcome unknown."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_SLOWEST_SECONDS = 1.5


def delay_of(text: str) -> tuple[float, float]:
    """Return for how long to wait before an effect, and for how long after it (s); one of them is 0.

    Both are computed from `text`, the content of the request, so they are the same in every repetition.
    """
    number = zlib.crc32(text.encode())
    seconds = (number >> 1) % 1000 / 1000 * _SLOWEST_SECONDS
    return (seconds, 0.0) if number & 1 else (0.0, seconds)


@asynccontextmanager
async def delayed(text: str) -> AsyncIterator[None]:
    """Wait before or after the effect, which is the body of the context."""
    before, after = delay_of(text)
    await asyncio.sleep(before)
    yield
    await asyncio.sleep(after)
