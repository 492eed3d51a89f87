"""The service of a test and its model, in the event loop of one thread. The service can crash and start again.

This module owns the thread, and the start and end of both. It knows nothing of runs.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, Literal, TypeVar

from app.bootstrap import create_app
from app.bootstrap.service import Service
from app.client import AuraClient, Credentials
from app.client.loop_thread import LoopThread
from app.dev.demo.model import ScriptedModelServer
from app.testing.clock import ClockAhead
from app.testing.model import ScriptedModel
from app.testing.serving import make_settings, make_token, serving
from app.tools.definitions import ResourceDefinition
from app.tools.functions import provided_type
from app.tools.loading import Loaded, resources_beside

T = TypeVar("T")
_BACKLOG = 128
_RETRY_SECONDS = 0.05

CrashPoint = tuple[Literal["before", "after"], str]
"""Before or after a tool, by name, runs."""


class ServiceProcess:
    """Stands for a process: what `crash` ends is lost, except for what is in Redis. Its address stays the same."""

    def __init__(self, redis_url: str, clock: ClockAhead) -> None:
        self.model = ScriptedModelServer(pace=0)
        self.clock = clock
        self.crash_point: CrashPoint | None = None
        """Where the process crashes next; None: nowhere."""
        self._redis_url = redis_url
        self._settings: dict[str, Any] = {}
        self._tools: Sequence[Loaded] | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._clients: dict[tuple[str | None, ...], AuraClient] = {}
        self._service: Service | None = None
        self._serving = AsyncExitStack()
        self._restart: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def is_started(self) -> bool:
        return self._service is not None

    async def start(self, tools: Sequence[Loaded] | None, settings: dict[str, Any]) -> None:
        """Start the model, then the service with these tools (None: those of the settings)."""
        await self.model.start()
        self._settings, self._tools = settings, tools
        await self._serve()

    async def stop(self) -> None:
        """Shut down in order, whatever has been started."""
        if self._restart is not None:
            await asyncio.gather(self._restart, return_exceptions=True)
        for client in self._clients.values():
            await client.__aexit__()
        await self._serving.aclose()
        self._service = None
        await self.model.stop()
        self._listener.close()

    async def crash(self) -> None:
        """End the service as SIGKILL would, and start another one, which takes over its runs. Raises as `start`."""
        if self._restart is None or self._restart.done():
            self._restart = asyncio.create_task(self._crash())
        await self.until_running()

    async def until_running(self) -> None:
        """Wait until the service that follows a crash has started. Raises as `start`."""
        if self._restart is not None:
            await asyncio.shield(self._restart)

    def client(self, **user: str | None) -> AuraClient:
        """Return the client of a user (`make_token`), which lives as long as the process."""
        key = tuple(user.get(name) for name in ("user", "tenant", "role", "email"))
        if key not in self._clients:
            credentials = Credentials.from_token(self.token(**user))
            self._clients[key] = AuraClient(self.url, credentials, retry_delay_seconds=_RETRY_SECONDS)
        return self._clients[key]

    def token(self, **user: str | None) -> str:
        given: dict[str, Any] = {name: value for name, value in user.items() if value is not None}
        return make_token(self.clock.now(), **given)

    async def _serve(self) -> None:
        settings = make_settings(redis_url=self._redis_url, model_url=self.model.base_url, **self._settings)
        app = create_app(settings, clock=self.clock, tools=self._tools)
        self._watch_calls(app.extensions["aura"])
        self._service = await self._serving.enter_async_context(serving(app, self._listener.dup()))

    def _watch_calls(self, service: Service) -> None:
        """Let the process crash where a tool runs, if the test requires it."""
        registry = service.tools.registry
        execute = registry.execute

        async def execute_or_crash(call: Any, context: Any) -> Any:
            if self.crash_point == ("before", call.name):
                await self._crash_here(service)
            finished = await execute(call, context)
            if self.crash_point == ("after", call.name):
                await self._crash_here(service)
            return finished

        registry.execute = execute_or_crash  # type: ignore[method-assign]

    async def _crash_here(self, service: Service) -> None:
        """Crash inside of a run's task, which never continues: from here on nothing of it is stored."""
        self.crash_point = None
        self._restart = asyncio.create_task(self._crash())
        service.runs.release_all()
        await asyncio.get_running_loop().create_future()

    async def _crash(self) -> None:
        if self._service is None:
            return
        self._service.runs.release_all()  # no task stores anything any more
        await self._service.stores.nodes.stop()  # the lease ends, as it would some seconds after the crash
        await self._serving.aclose()
        self._serving = AsyncExitStack()
        await self._serve()


class ServiceThread:
    """The thread in which the service and its model run, and in which each step of a test is performed."""

    def __init__(self, redis_url: str, timeout_seconds: float | None) -> None:
        """`timeout_seconds` limit each step of a run; None does not limit it."""
        self.timeout_seconds = timeout_seconds
        self.clock = ClockAhead()
        self.process = ServiceProcess(redis_url, self.clock)
        self.model = ScriptedModel(self.process.model)
        self._loop = LoopThread(at_end=self.process.stop)

    def perform(self, step: Coroutine[Any, Any, T]) -> T:
        """Perform a step, with what the test has written for the model so far. Returns or raises what the step does."""
        self.model.send_script()
        return self._loop.run(step)

    def close(self) -> None:
        """Stop the service and the model in order, then end the thread."""
        try:
            self._loop.run(self.process.stop())
        finally:
            self._loop.close()


def with_resources(tools: Sequence[Loaded]) -> list[Loaded]:
    """Return the tools with the resources of their modules, as `AURA_TOOLS` loads them.

    A resource among `tools` takes the place of those that provide the same type, so that a test can replace them.
    """
    given = {provided_type(item) for item in tools if isinstance(item, ResourceDefinition)}
    beside = [item for tool in tools for item in resources_beside(tool) if provided_type(item) not in given]
    return list({id(item): item for item in (*beside, *tools)}.values())
