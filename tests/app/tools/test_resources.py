"""The resources of tools: their order, their failures at the start and at the stop, and needs that cannot be met."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self

import pytest
from pydantic import BaseModel

from app.errors import ConfigurationError
from app.ports.clock import Clock
from app.ports.tools import ToolContext
from app.tools import resource, resources, tool
from app.tools.definitions import DefinitionInvalid
from app.tools.loading import plug_in
from tests.harness.logged import Written, entries
from tests.harness.tools import NoteTool

CONTEXT = ToolContext(session_id="s1", tenant_id="t1", user_id="kim", idempotency_key="s1:c1")


class Pool:
    """A resource of tests."""

    def __init__(self, size: int = 1) -> None:
        self.size = size


class Session(BaseModel):
    """A resource that pydantic could read as an argument, too: the resource wins."""

    pool_size: int


async def test_resources_start_in_the_order_of_their_needs_and_end_in_the_reverse() -> None:
    steps: list[str] = []

    @resource
    async def session(pool: Pool, clock: Clock) -> AsyncIterator[Session]:
        steps.append(f"session of {pool.size} at {clock.now():g}")
        yield Session(pool_size=pool.size)
        steps.append("session ended")

    @resource
    async def pool() -> AsyncIterator[Pool]:
        steps.append("pool")
        yield Pool(7)
        steps.append("pool ended")

    @resource
    async def unused() -> AsyncIterator[int]:
        steps.append("unused")
        yield 1

    @tool()
    async def count(session: Session) -> int:
        return session.pool_size

    class FixedClock:
        def now(self) -> float:
            return 5

    plugged_in = plug_in([session, unused, pool, count], {Clock: FixedClock()})
    await plugged_in.resources.start()
    (counting,) = plugged_in.tools
    assert await counting.run(counting.arguments(), CONTEXT) == 7
    await plugged_in.resources.stop()
    assert steps == ["pool", "session of 7 at 5", "session ended", "pool ended"]


async def test_a_resource_that_does_not_start_ends_the_start_and_is_named() -> None:
    ended: list[str] = []

    @resource
    async def pool() -> AsyncIterator[Pool]:
        yield Pool()
        ended.append("pool")

    @resource
    async def session(pool: Pool) -> AsyncIterator[Session]:
        raise ConnectionError("refused")
        yield Session(pool_size=pool.size)

    @tool()
    async def count(session: Session) -> int:
        return session.pool_size

    plugged_in = plug_in([pool, session, count], {})
    with pytest.raises(
        ConfigurationError, match=r"session \(.* line \d+\): it did not start: ConnectionError: refused"
    ):
        await plugged_in.resources.start()
    assert ended == ["pool"]
    await plugged_in.resources.stop()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(1), BaseExceptionGroup("two", [SystemExit(1)])])
async def test_a_resource_that_raises_what_is_no_exception_ends_the_start_and_is_named(error: BaseException) -> None:
    @resource
    async def pool() -> AsyncIterator[Pool]:
        raise error
        yield Pool()

    @tool()
    async def count(pool: Pool) -> int:
        return pool.size

    plugged_in = plug_in([pool, count], {})
    with pytest.raises(ConfigurationError, match=rf"pool \(.*\): it did not start: {type(error).__name__}"):
        await plugged_in.resources.start()
    await plugged_in.resources.stop()


async def test_a_resource_that_goes_on_although_it_is_cancelled_does_not_hold_up_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resources, "_START_SECONDS", 0.01)
    monkeypatch.setattr(resources, "_STOP_SECONDS", 0.01)
    may_end = asyncio.Event()

    async def refuse_to_end() -> None:
        while not may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await may_end.wait()

    @resource
    async def slow_start() -> AsyncIterator[Pool]:
        await refuse_to_end()
        yield Pool()

    @resource
    async def slow_end() -> AsyncIterator[Pool]:
        yield Pool()
        await refuse_to_end()

    @tool()
    async def count(pool: Pool) -> int:
        return pool.size

    never_started, never_ended = plug_in([slow_start, count], {}).resources, plug_in([slow_end, count], {}).resources
    with pytest.raises(ConfigurationError, match="goes on although it is cancelled"):
        await never_started.start()
    await never_ended.start()
    await never_ended.stop()
    may_end.set()
    await never_started.stop()


async def test_a_tool_that_is_a_context_manager_is_entered_and_left() -> None:
    steps: list[str] = []

    class Connected(NoteTool):
        async def __aenter__(self) -> Self:
            steps.append("in")
            return self

        async def __aexit__(self, *_: object) -> None:
            steps.append("out")
            raise RuntimeError("it is broken, which is only logged")

    plugged_in = plug_in([Connected()], {})
    await plugged_in.resources.start()
    await plugged_in.resources.stop()
    assert steps == ["in", "out"]


def test_resources_whose_needs_cannot_be_met_are_named() -> None:
    @resource
    async def first(_second: Session) -> AsyncIterator[Pool]:
        yield Pool()

    @resource
    async def second(_first: Pool) -> AsyncIterator[Session]:
        yield Session(pool_size=1)

    @resource
    async def third() -> AsyncIterator[Pool]:
        yield Pool()

    @resource
    async def untyped():  # type: ignore[no-untyped-def]
        yield 1

    with pytest.raises(DefinitionInvalid, match="Pool needs itself, through other resources"):
        plug_in([first, second], {})
    with pytest.raises(DefinitionInvalid, match="no resource provides its parameter `_second`: add one to AURA_TOOLS"):
        plug_in([first], {})
    with pytest.raises(DefinitionInvalid, match="provides Pool already: remove one of them"):
        plug_in([third, first], {})
    with pytest.raises(DefinitionInvalid, match=r"its return type must name what it provides"):
        plug_in([untyped], {})


async def test_a_resource_that_is_cancelled_while_the_service_runs_is_logged(written: Written) -> None:
    owners: list[asyncio.Task[None] | None] = []

    @resource
    async def pool() -> AsyncIterator[Pool]:
        owners.append(asyncio.current_task())
        yield Pool()

    @tool()
    async def count(pool: Pool) -> int:
        return pool.size

    plugged_in = plug_in([pool, count], {})
    await plugged_in.resources.start()
    (owner,) = owners
    assert owner is not None
    owner.cancel()
    await asyncio.wait([owner])
    (line,) = entries(written, "resource.failed")
    assert "was cancelled while the service runs" in line["cause"]
    await plugged_in.resources.stop()
