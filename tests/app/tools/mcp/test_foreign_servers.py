"""MCP servers of others: one from the package index of Python, two from npm. `.ci/run` installs them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.ports.mcp_servers import McpServer
from tests.harness import mcp_sdk
from tests.harness.mcp import connected
from tests.harness.process import free_port
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
TIME_SERVER = ROOT / ".venv" / "mcp-servers" / "bin" / "mcp-server-time"
NODE_SERVERS = ROOT / ".venv" / "node" / "node_modules" / "@modelcontextprotocol"
NODE = shutil.which("node")
ENVIRONMENT = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "")}

needs_time_server = pytest.mark.skipif(
    not TIME_SERVER.exists(), reason="optional: mcp-server-time in .venv/mcp-servers"
)
needs_node_servers = pytest.mark.skipif(
    NODE is None or not NODE_SERVERS.exists(), reason="optional: npm's MCP servers in .venv/node"
)


def node_server(package: str, *args: str, environment: dict[str, str] | None = None) -> McpServer:
    script = NODE_SERVERS / package / "dist" / "index.js"
    given = {**ENVIRONMENT, **(environment or {})}
    return McpServer(name="other", command=NODE, args=(str(script), *args), environment=given)


@asynccontextmanager
async def server_everything_over_http() -> AsyncIterator[str]:
    """Run npm's server on a free port, and yield its URL."""
    port = free_port()
    script = str(NODE_SERVERS / "server-everything" / "dist" / "index.js")
    environment = {**ENVIRONMENT, "PORT": str(port)}
    process = await asyncio.create_subprocess_exec(NODE or "", script, "streamableHttp", env=environment)
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        await process.wait()


async def test_the_sdk_s_own_server_as_a_program() -> None:
    root = {"PYTHONPATH": str(ROOT)}
    server = McpServer(
        name="notes", command=sys.executable, args=("-m", mcp_sdk.__name__), environment={**ENVIRONMENT, **root}
    )
    async with connected(server) as aura:
        assert (await aura.call("notes__add_note", text="hi"))["structured"] == {"result": "added hi"}
        assert (await aura.call("notes__list_notes"))["structured"] == {"count": 1, "notes": ["hi"]}
        await aura.call("notes__grow")
        await eventually(lambda: "notes__grown" in aura.names)


@needs_time_server
async def test_mcp_server_time() -> None:
    server = McpServer(
        name="time",
        command=str(TIME_SERVER),
        args=("--local-timezone", "UTC"),
        environment=ENVIRONMENT,
        trusted=True,
    )
    async with connected(server) as aura:
        (current,) = [tool for tool in aura.registry.select() if tool.name == "time__get_current_time"]
        assert not current.needs_approval, "it is marked read-only, and its server is trusted"
        result = await aura.call("time__get_current_time", timezone="Europe/Berlin")
        assert "Europe/Berlin" in json.dumps(result)


@needs_node_servers
async def test_server_memory_from_npm(tmp_path: Path) -> None:
    file = tmp_path / "memory.jsonl"
    async with connected(node_server("server-memory", environment={"MEMORY_FILE_PATH": str(file)})) as aura:
        entity = {"name": "Aura", "entityType": "service", "observations": ["runs agents"]}
        await aura.call("other__create_entities", entities=[entity])
        assert "runs agents" in json.dumps(await aura.call("other__read_graph"))


@needs_node_servers
async def test_server_everything_from_npm() -> None:
    async with connected(node_server("server-everything", "stdio")) as aura:
        assert (await aura.call("other__echo", message="hello"))["text"] == "Echo: hello"
        assert "image/png" in (await aura.call("other__get-tiny-image"))["text"]
        assert "structured" in await aura.call("other__get-structured-content", location="New York")


@needs_node_servers
async def test_server_everything_over_http() -> None:
    async with server_everything_over_http() as url:
        async with connected(McpServer(name="other", url=url), start_seconds=0) as aura:
            await eventually(lambda: "other__echo" in aura.names)
            assert "5" in (await aura.call("other__get-sum", a=2, b=3))["text"]
