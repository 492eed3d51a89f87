"""The resources of tools while the service runs: they start in the order of their dependencies and end in the reverse.

All are entered and left in one task, because a resource may hold what must be left where it was entered (the cancel
scopes of anyio, the task groups of asyncio).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import structlog

from app.errors import ConfigurationError
from app.tools.definitions import DefinitionInvalid, ResourceDefinition, place_of
from app.tools.functions import Dependencies, parameter_types, provided_type

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_ENDED = "a resource was cancelled while the service runs; its tools go on without it"

log = structlog.get_logger(__name__)


class ToolResources:
    """Starts and stops resources, and the tools that are asynchronous context managers themselves."""

    def __init__(self, resources: Dependencies) -> None:
        """`resources` gets the value of each resource when it has started."""
        self._resources = resources
        self._definitions: list[tuple[type, ResourceDefinition[..., Any]]] = []
        self._managers: list[AbstractAsyncContextManager[Any]] = []
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, definitions: Sequence[ResourceDefinition[..., Any]]) -> None:
        """Add resources. Raises `DefinitionInvalid` where two provide the same type, or a dependency is missing."""
        known: dict[type, ResourceDefinition[..., Any]] = {}
        for definition in definitions:
            kind = provided_type(definition)
            if known.setdefault(kind, definition) is not definition:
                cause = f"{place_of(known[kind].function)} provides {kind.__name__} already: remove one of them"
                raise DefinitionInvalid(definition.function, cause)
            self._resources.declare(kind)
        self._definitions = [(kind, known[kind]) for kind in self._in_order(known)]

    def _in_order(self, known: dict[type, ResourceDefinition[..., Any]]) -> list[type]:
        """Return the types with each after those that it needs. Raises `DefinitionInvalid`."""
        ordered: list[type] = []

        def visit(kind: type, needed_by: tuple[type, ...]) -> None:
            function = known[kind].function
            if kind in needed_by:
                raise DefinitionInvalid(function, f"{kind.__name__} needs itself, through other resources")
            for name, needed in parameter_types(function).items():
                if not self._resources.provides(needed):
                    raise DefinitionInvalid(
                        function, f"no resource provides its parameter `{name}`: add one to AURA_TOOLS"
                    )
                if needed in known:
                    visit(needed, (*needed_by, kind))
            if kind not in ordered:
                ordered.append(kind)

        for kind in known:
            visit(kind, ())
        return ordered

    def keep(self, needed: set[type]) -> None:
        """Start only the resources of these types, and those that they need in turn."""
        kept = set(needed)
        for kind, definition in reversed(self._definitions):
            if kind in kept:
                kept |= set(parameter_types(definition.function).values())
        self._definitions = [(kind, definition) for kind, definition in self._definitions if kind in kept]

    def add_manager(self, manager: AbstractAsyncContextManager[Any]) -> None:
        """Add a tool that is entered at the start, and left when the service stops."""
        self._managers.append(manager)

    async def start(self) -> None:
        """Start everything. Raises `ConfigurationError`, which names the resource, and leaves what was entered."""
        if not self._definitions and not self._managers:
            return
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(started))
        seconds = _START_SECONDS * (len(self._definitions) + len(self._managers)) + _STOP_SECONDS
        done, _ = await asyncio.wait({started}, timeout=seconds)
        if not done:
            raise ConfigurationError(
                "a resource of the tools did not start in time, and goes on although it is cancelled"
            )
        started.result()

    async def _hold(self, started: asyncio.Future[None]) -> None:
        """Enter everything, wait for the stop, and leave everything."""
        try:
            async with AsyncExitStack() as stack:
                try:
                    await self._enter_all(stack)
                except ConfigurationError as error:  # those that have started end as they do at a stop
                    started.set_exception(error)
                    return
                started.set_result(None)
                await self._stopping.wait()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                log.error("resource.failed", cause=_ENDED)  # noqa: TRY400 - one line
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - of other people's code, at its end
            log.error("resource.failed", cause=f"{type(error).__name__}: {error}")  # noqa: TRY400 - one line

    async def _enter_all(self, stack: AsyncExitStack) -> None:
        for kind, definition in self._definitions:
            context = asynccontextmanager(definition.function)(**self._dependencies(definition))
            self._resources.put(kind, await _enter(stack, context, place_of(definition.function)))
        for manager in self._managers:
            await _enter(stack, manager, place_of(type(manager)))

    def _dependencies(self, definition: ResourceDefinition[..., Any]) -> dict[str, Any]:
        return {name: self._resources.get(kind) for name, kind in parameter_types(definition.function).items()}

    async def stop(self) -> None:
        """Leave everything, in the reverse order. One that does not end in time is cancelled."""
        if self._task is None:
            return
        self._stopping.set()
        await asyncio.wait([self._task], timeout=_STOP_SECONDS)
        if not self._task.done():
            log.error("resource.failed", cause=f"it did not end within {_STOP_SECONDS:g} s, and was cancelled")
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_STOP_SECONDS)  # one that goes on must not hold up the stop


async def _enter(stack: AsyncExitStack, context: AbstractAsyncContextManager[Any], place: str) -> Any:
    try:
        async with asyncio.timeout(_START_SECONDS):
            return await stack.enter_async_context(context)
    except TimeoutError:
        raise ConfigurationError(f"{place}: it did not start within {_START_SECONDS:g} s") from None
    except BaseException as error:  # also SystemExit and cancellations of its own: nobody else would learn of them
        task = asyncio.current_task()
        if isinstance(error, KeyboardInterrupt) or (task is not None and task.cancelling()):
            raise
        raise ConfigurationError(f"{place}: it did not start: {type(error).__name__}: {error}") from error
