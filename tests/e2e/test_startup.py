"""An error at the start is reported in one line that names its cause, with an exit code other than 0."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import httpx2
import pytest

from app.dev.demo.redis import RedisServer
from tests.e2e.conftest import Nodes
from tests.harness.fork_server import ROOT
from tests.harness.process import free_port
from tests.harness.service import SECRET
from tests.harness.waiting import eventually


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"JWT_SECRET": ""}, "JWT_SECRET"),
        ({"JWT_SECRET": "too short"}, "JWT_SECRET"),
        ({"AURA_LEASE_SECOND": "3"}, "AURA_LEASE_SECOND"),
        ({"AURA_LEASE_SECONDS": "soon"}, "AURA_LEASE_SECONDS"),
        ({"AURA_APPROVAL_REQUIRED": "launch_rocket"}, "launch_rocket"),
        ({"REDIS_PORT": "70000"}, "REDIS_PORT"),
        ({"AURA_SYSTEM_PROMPT_FILE": "/nowhere/prompt.txt"}, "/nowhere/prompt.txt does not exist"),
        ({"REDIS_URL": "http://localhost"}, "REDIS_URL"),
        ({"SMTP_HOST": "localhost", "SMTP_FROM": "nobody"}, "SMTP_FROM"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
async def test_invalid_setting_stops_the_start(
    nodes: Nodes, wrong: dict[str, Any], named: str, arguments: tuple[str, ...]
) -> None:
    await expect_start_failure(nodes, named, *arguments, **wrong)


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
async def test_port_in_use_stops_the_start(nodes: Nodes, arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        await expect_start_failure(nodes, str(port), *arguments, port=port)


async def expect_start_failure(
    nodes: Nodes, named: str, *arguments: str, port: int | None = None, **environment: Any
) -> None:
    node = nodes.create(*arguments, port=port, **environment)
    node.start()
    try:
        assert await node.wait_for_exit() not in (0, None)
        lines = node.output.splitlines()
        assert len(lines) == 1, node.output
        assert named in lines[0]
    finally:
        await node.client.aclose()


async def test_node_starts_before_redis_and_becomes_ready_after_it(nodes: Nodes) -> None:
    """The node is alive but not ready, and becomes ready as soon as Redis is available."""
    with RedisServer() as server:
        server.kill()
        node = nodes.create(REDIS_URL=server.url)
        node.start()
        nodes.started.append(node)
        await nodes.stack.enter_async_context(node.client)
        nodes.stack.push_async_exit(node.__aexit__)

        def accepts_connections() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", node.port)) == 0

        await eventually(accepts_connections)
        assert (await node.client.get("/health")).status_code == 200
        assert (await node.client.get("/ready")).status_code == 503
        server.restart(keep_data=False)
        async with asyncio.timeout(30):
            await node.ready()


@pytest.mark.slow
async def test_command_runs_without_the_fork_server(redis_server: RedisServer) -> None:
    """`python -m app serve`, as in a container."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "JWT_SECRET": SECRET,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_server.port),
    }
    process = subprocess.Popen(  # noqa: ASYNC220 - starting a process is quick
        [sys.executable, "-m", "app", "serve", "--env-file", os.devnull, "--bind", f"127.0.0.1:{port}"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            async with asyncio.timeout(30):
                while True:
                    try:
                        assert (await client.get("/ready")).status_code == 200
                        break
                    except httpx2.HTTPError:
                        await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
    finally:
        process.kill()
