"""Parts for the tests of knowledge."""

from __future__ import annotations

import json

import pytest
import redis

from tests.harness.knowledge import Publish


@pytest.fixture
def publish(redis_client: redis.Redis) -> Publish:
    """Publish an event on a channel; how many processes heard it."""

    def say(event: object, channel: str = "dwp:events:mail") -> int:
        raw = event if isinstance(event, bytes | str) else json.dumps(event, ensure_ascii=False)
        return int(redis_client.publish(channel, raw))

    return say
