"""Domain events as the platform's services publish them, and waiting until processes have received them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import redis
from click.testing import Result

from app.ports.knowledge import KnowledgeIndex
from app.settings.types import EVENT_CHANNELS
from tests.harness.service import Aura
from tests.harness.waiting import eventually

Publish = Callable[..., int]
OpenIndex = Callable[..., Awaitable[KnowledgeIndex]]
"""Opens the index as one more process does: `(generation=0, model=MODEL)`."""
KnowledgeCommand = Callable[..., Result]
MODEL = "hashing"


def mail(number: int = 1, **changes: Any) -> dict[str, Any]:
    fields = {
        "eventId": f"evt-{number}",
        "timestamp": "2024-01-16T12:00:00Z",
        "userId": "user1",
        "tenantId": "tenant1",
        "eventType": "mail.received",
        "subject": f"서버 견적서 {number}호",
        "body": "한빛정보 김철수입니다. 합계는 1,200만원입니다.",
    }
    return {**fields, **changes}


async def until_subscribed(client: redis.Redis, nodes: int = 1, channels: Collection[str] = EVENT_CHANNELS) -> None:
    """Waits until that many processes are subscribed to the platform's channels."""
    await eventually(lambda: all(count == nodes for _, count in client.pubsub_numsub(*channels)))


async def until_counted(aura: Aura, **counts: int) -> None:
    """Waits until this process has counted so many messages, by outcome; `__` in a name stands for `:`."""
    knowledge = aura.service.knowledge
    assert knowledge is not None
    expected = {name.replace("__", ":"): count for name, count in counts.items()}
    await eventually(lambda: all(knowledge.counts[name] == count for name, count in expected.items()))


async def run_in_thread(knowledge_command: KnowledgeCommand, *arguments: str, **environment: str) -> str:
    """Runs the command in a thread, because it has an event loop of its own. Returns its output."""
    result = await asyncio.to_thread(knowledge_command, *arguments, **environment)
    assert result.exit_code == 0, result.output
    return result.output
