"""Domain events for the demo: the labelled ones of `fixtures/knowledge`, published as the platform's services do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from redis.asyncio import Redis

_CHANNELS = {"mail": "dwp:events:mail", "approval": "dwp:events:approval"}
_MAX_WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.02


async def publish(redis_url: str, events: Sequence[str]) -> int:
    """Publish JSON events once somebody listens; how many were heard. What is published before is lost."""
    async with Redis.from_url(redis_url) as client:
        try:
            async with asyncio.timeout(_MAX_WAIT_SECONDS):
                while not all(  # noqa: ASYNC110 - another process's subscription, only to be asked for
                    count for _, count in await client.pubsub_numsub(*_CHANNELS.values())
                ):
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            return 0
        pipeline = client.pipeline(transaction=False)
        for line in events:
            pipeline.publish(_CHANNELS[json.loads(line)["eventType"].partition(".")[0]], line)
        return sum(await pipeline.execute())
