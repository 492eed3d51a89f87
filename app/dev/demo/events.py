"""Publishes the domain events of `fixtures/knowledge` for the demo, as the platform's services do (CONTRACT §7)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from redis.asyncio import Redis

_CHANNELS = {"mail": "dwp:events:mail", "approval": "dwp:events:approval"}
_MAX_WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.02


async def publish(redis_url: str, events: Sequence[str]) -> int:
    """Wait for subscribers, publish the JSON events, and return how many deliveries were made.

    Returns 0 where there is no subscriber on each channel within `_MAX_WAIT_SECONDS`: events without one are lost.
    """
    async with Redis.from_url(redis_url) as client:
        try:
            async with asyncio.timeout(_MAX_WAIT_SECONDS):
                while not all(  # noqa: ASYNC110 - Redis does not notify about the subscriptions of another process
                    count for _, count in await client.pubsub_numsub(*_CHANNELS.values())
                ):
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            return 0
        pipeline = client.pipeline(transaction=False)
        for line in events:
            pipeline.publish(_CHANNELS[json.loads(line)["eventType"].partition(".")[0]], line)
        return sum(await pipeline.execute())
