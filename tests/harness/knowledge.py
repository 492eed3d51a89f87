"""Domain events as the platform's services publish them, and the processes that hear them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import redis
from click.testing import Result

from app.ports.knowledge import KnowledgeIndex
from app.redis.keys import DOMAIN_CHANNELS
from tests.harness.service import Aura
from tests.harness.waiting import eventually

Publish = Callable[..., int]
Opened = Callable[..., Awaitable[KnowledgeIndex]]
"""Opens the index as one more process: `(generation=0, model=MODEL)`."""
Knowing = Callable[..., Result]
MODEL = "hashing"


def mail(number: int = 1, **changes: Any) -> dict[str, Any]:
    fields = {
        "eventId": f"evt-{number}",
        "timestamp": "2024-01-16T12:00:00Z",
        "userId": "user9",
        "tenantId": "tenant1",
        "eventType": "mail.received",
        "subject": f"서버 견적서 {number}호",
        "body": "한빛정보 김철수입니다. 합계는 1,200만원입니다.",
    }
    return {**fields, **changes}


async def listening(client: redis.Redis, nodes: int = 1) -> None:
    """Until that many processes are subscribed to the platform's channels."""
    await eventually(lambda: all(count == nodes for _, count in client.pubsub_numsub(*DOMAIN_CHANNELS)))


async def counted(aura: Aura, **counts: int) -> None:
    """Until this process has counted so many messages, by what became of them."""
    knowledge = aura.service.knowledge
    assert knowledge is not None
    wanted = {name.replace("__", ":"): count for name, count in counts.items()}
    await eventually(lambda: all(knowledge.counts[name] == count for name, count in wanted.items()))


async def in_thread(knowing: Knowing, *arguments: str, **environment: str) -> str:
    """The command's own event loop beside the service's."""
    result = await asyncio.to_thread(knowing, *arguments, **environment)
    assert result.exit_code == 0, result.output
    return result.output
