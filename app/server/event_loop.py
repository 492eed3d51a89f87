"""The event loop that the service runs on: uvloop where it is installed, else asyncio's own."""

from __future__ import annotations

import asyncio
from typing import Any, Self

try:
    from app.server.accept import UvloopEventLoop
except ImportError:  # uvloop is not installed
    UvloopEventLoop = None  # type: ignore[assignment, misc]


def create_event_loop() -> asyncio.AbstractEventLoop:
    """Create a loop whose servers do not wait for their connections when they are closed."""
    return AsyncioEventLoop() if UvloopEventLoop is None else UvloopEventLoop()


class AsyncioEventLoop(asyncio.SelectorEventLoop):
    """Asyncio's loop, with servers that end as those of Python 3.11 and of uvloop do.

    From Python 3.12.1 on `Server.wait_closed()` waits until every connection is closed. Hypercorn calls it without a
    timeout before it closes any connection, so one client that does not read would keep the process from its exit.
    """

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        return _Server(await super().create_server(*arguments, **options))


class _Server:
    """An `asyncio.Server` whose `wait_closed` returns at once."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def wait_closed(self) -> None:
        """Return at once: Hypercorn closes the connections itself, after its graceful timeout at the latest."""
