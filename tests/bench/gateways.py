"""The first event through each gateway of `fixtures/gateway/`, beside the same request without one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.bench.environment import Environment
from tests.bench.load import percentile
from tests.harness.gateways import find_program, run_proxy
from tests.harness.service import STREAM
from tests.harness.spring import CannotBuild, main_service, numbered, spring_gateway

_PROMPT = "bench chat 20 0"
_RUNS = 200
_WARM_UP_RUNS = 200
"""The just-in-time compiler of Java needs some hundred requests."""
_DIRECT = "no gateway"


@dataclass(frozen=True, slots=True)
class FirstEvent:
    """How long clients of one gateway waited for the first event of a run, in milliseconds."""

    gateway: str
    p50_ms: float
    p90_ms: float

    def describe(self, direct: FirstEvent) -> str:
        more = "" if self is direct else f", {self.p50_ms - direct.p50_ms:+.1f} ms ({self.p50_ms / direct.p50_ms:.2f}×)"
        return f"{self.gateway}: first event p50 {self.p50_ms:.1f} ms, p90 {self.p90_ms:.1f} ms{more}"


async def measure_gateways(
    environment: Environment, *, runs: int = _RUNS, warm_up: int = _WARM_UP_RUNS
) -> tuple[list[FirstEvent], list[str]]:
    """Return the times of the gateways that this machine has, and why the others are missing.

    One client sends one run at a time, to each gateway in turn, so all meet the same state of the machine.
    """
    async with AsyncExitStack() as stack:
        clients, missing = await _connect(environment, stack)
        times: dict[str, list[float]] = {name: [] for name in clients}
        for number in range(warm_up + runs):
            for name, client in clients.items():
                seconds = await _first_event_seconds(client)
                if number >= warm_up:
                    times[name].append(1000 * seconds)
    ordered = {name: sorted(values) for name, values in times.items()}
    return [FirstEvent(name, percentile(it, 0.5), percentile(it, 0.9)) for name, it in ordered.items()], missing


def describe(found: list[FirstEvent], missing: list[str]) -> list[str]:
    return [*(each.describe(found[0]) for each in found), *(f"left out: {reason}" for reason in missing)]


async def _connect(environment: Environment, stack: AsyncExitStack) -> tuple[dict[str, httpx2.AsyncClient], list[str]]:
    direct = httpx2.AsyncClient(base_url=environment.url, timeout=30)
    clients, missing = {_DIRECT: await stack.enter_async_context(direct)}, list[str]()
    for kind in ("nginx", "haproxy"):
        if find_program(kind) is None:
            missing.append(f"{kind} is not installed")
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            clients[kind] = (await stack.enter_async_context(run_proxy(kind, environment.url, folder))).client
    try:
        spring = _spring_gateway(environment)
        clients["Spring Cloud Gateway"] = await stack.enter_async_context(spring)
    except CannotBuild as reason:
        missing.append(f"Spring Cloud Gateway: {reason}")
    return clients, missing


@asynccontextmanager
async def _spring_gateway(environment: Environment) -> AsyncIterator[httpx2.AsyncClient]:
    with main_service(environment.redis_url) as main, spring_gateway(environment.port, main.url) as gateway:
        async with httpx2.AsyncClient(base_url=f"{gateway.url}/api", timeout=30) as client:
            yield client


async def _first_event_seconds(client: httpx2.AsyncClient) -> float:
    """Execute one run to its end. Returns after how many seconds its first bytes were there."""
    started, first, body = time.perf_counter(), 0.0, b""
    async with client.stream("POST", STREAM, json={"prompt": _PROMPT}, headers=numbered()) as response:
        async for data in response.aiter_raw():
            first = first or time.perf_counter() - started
            body += data
    if response.status_code != 200 or not body.endswith(b"data: [DONE]\n\n"):
        raise AssertionError(f"status {response.status_code}, the stream ends in {body[-200:]!r}")
    return first
