"""Fixtures of the tests with the Java neighbours. Each test process starts a program when the first test needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from app.dev.demo.redis import RedisServer
from app.settings import Settings
from tests.harness.process import free_port
from tests.harness.service import NO_LIMITS, Aura, running
from tests.harness.spring import Browser, CannotBuild, JavaProgram, build, main_service, spring_gateway

Start = Callable[..., AbstractAsyncContextManager[tuple[Aura, Browser]]]


@pytest.fixture(scope="session")
def jars() -> None:
    try:
        build()
    except CannotBuild as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def aura_port() -> int:
    """The port on which the gateway expects Aura."""
    return free_port()


@pytest.fixture(scope="session")
def java_main(jars: None, redis_server: RedisServer) -> Iterator[JavaProgram]:
    """The Main Service as it is deployed: it refuses `planSteps`."""
    with main_service(redis_server.url) as program:
        yield program


@pytest.fixture(scope="session")
def accepting_main(jars: None, redis_server: RedisServer) -> Iterator[JavaProgram]:
    """A Main Service that knows `planSteps`."""
    with main_service(redis_server.url, accepts_plan_steps=True) as program:
        yield program


@pytest.fixture(scope="session")
def gateway(java_main: JavaProgram, aura_port: int) -> Iterator[JavaProgram]:
    with spring_gateway(aura_port, java_main.url) as program:
        yield program


@pytest.fixture
def start(gateway: JavaProgram, aura_port: int, settings: Callable[..., Settings]) -> Start:
    """A function that runs Aura behind the gateway; keyword arguments are settings, and `tools`."""

    @asynccontextmanager
    async def start_behind(
        before: JavaProgram = gateway, *, tools: object = None, **overrides: object
    ) -> AsyncIterator[tuple[Aura, Browser]]:
        made = settings(**{**NO_LIMITS, **overrides})
        browser = Browser(before.url)
        async with (
            running(made, tools=tools, port=aura_port) as aura,  # type: ignore[arg-type]
            browser.client,
        ):
            yield aura, browser

    return start_behind
