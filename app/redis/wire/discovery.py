"""Which of the servers of an address answers, and whether it is a node of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.exceptions import ResponseError

from app.errors import StorageUnavailable
from app.redis.wire.errors import unavailable
from app.redis.wire.pipeline import Pipeline


async def find_server(pipelines: Sequence[Pipeline]) -> tuple[Pipeline, bool]:
    """Query all servers at once. Return the first that answers, and whether it belongs to a cluster; close the others.

    Raises `StorageUnavailable` where none answers; all are closed then.
    """
    queried = {asyncio.create_task(_is_of_cluster(pipeline)): pipeline for pipeline in pipelines}
    waiting, failure = set(queried), StorageUnavailable("Redis cannot be reached")
    found: tuple[Pipeline, bool] | None = None
    try:
        while waiting and found is None:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    found = queried[task], task.result()
                else:
                    failure = error if isinstance(error, StorageUnavailable) else unavailable(error)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.gather(*(it.close() for it in pipelines if found is None or it is not found[0]))
    if found is None:
        raise failure
    return found


async def _is_of_cluster(pipeline: Pipeline) -> bool:
    (info,) = await pipeline.submit([("INFO", "cluster")])
    if isinstance(info, Exception) and not isinstance(info, ResponseError):
        raise info
    return isinstance(info, bytes) and b"cluster_enabled:1" in info  # a `ResponseError`: INFO is not allowed
