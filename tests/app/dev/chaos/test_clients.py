"""What a client of `aura chaos` records where the experiment is interrupted. No service is started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from app.dev.chaos.clients import RunClient
from app.dev.chaos.cluster import Cluster
from app.dev.chaos.plan import RunKind
from tests.harness.judged import run_plan


class NoNode:
    """A cluster of which no node takes requests; `asked` is set when a client looks for one."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def pick(self, _: Any) -> None:
        self.asked.set()


async def interrupted(cancel: Callable[[RunClient], Any]) -> RunClient:
    """Let a client do something that needs a node, and interrupt it meanwhile."""
    cluster, unused = NoNode(), cast("Any", None)
    client = RunClient(run_plan(RunKind.ANSWER), cast("Cluster", cluster), unused, unused, "a secret of a test" * 3)
    task = asyncio.create_task(cancel(client))
    await cluster.asked.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    return client


async def test_cancel_request_that_is_interrupted_counts_because_the_service_may_have_accepted_it() -> None:
    client = await interrupted(lambda client: client._cancel())  # noqa: SLF001 - its only caller needs a stream
    assert client.record.cancelled
