"""What stops the start says so in one line that names it, and the exit code is not 0. The command itself runs."""

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
        ({"REDIS_URL": "http://localhost"}, "REDIS_URL"),
        ({"SMTP_HOST": "localhost", "SMTP_FROM": "nobody"}, "SMTP_FROM"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
async def test_a_wrong_setting(nodes: Nodes, wrong: dict[str, Any], named: str, arguments: tuple[str, ...]) -> None:
    await refuses(nodes, named, *arguments, **wrong)


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
async def test_a_taken_port(nodes: Nodes, arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        await refuses(nodes, str(port), *arguments, port=port)


async def refuses(nodes: Nodes, named: str, *arguments: str, port: int | None = None, **environment: Any) -> None:
    node = nodes.prepare(*arguments, port=port, **environment)
    node.start()
    try:
        assert await node.wait_for_exit() not in (0, None)
        lines = node.output.splitlines()
        assert len(lines) == 1, node.output
        assert named in lines[0]
    finally:
        await node.client.aclose()


async def test_it_starts_before_redis_does(nodes: Nodes) -> None:
    """It lives, is not ready, and takes runs as soon as Redis is there."""
    with RedisServer() as server:
        server.kill()
        node = nodes.prepare(REDIS_URL=server.url)
        node.start()
        nodes.started.append(node)
        await nodes.stack.enter_async_context(node.client)
        nodes.stack.push_async_exit(node.__aexit__)

        def lives() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", node.port)) == 0

        await eventually(lives)
        assert (await node.client.get("/health")).status_code == 200
        assert (await node.client.get("/ready")).status_code == 503
        server.restart(keep_data=False)
        async with asyncio.timeout(30):
            await node.ready()


async def test_the_command_itself(redis_server: RedisServer) -> None:
    """Not forked: `python -m app serve`, as in a container."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "JWT_SECRET": "x" * 32,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_server.port),
    }
    process = subprocess.Popen(  # noqa: ASYNC220 - it only starts it
        [sys.executable, "-m", "app", "serve", "--bind", f"127.0.0.1:{port}"],
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
