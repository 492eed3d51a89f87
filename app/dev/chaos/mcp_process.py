"""The process of the MCP server (`mcp_server`): it is started, killed in the middle of a write, and started again."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Self

import app
from app.dev.chaos import mcp_journal
from app.dev.chaos.node import free_port
from app.dev.chaos.plan import MCP_SERVER
from app.server.parent import exit_with_parent

_START_SECONDS = 60.0
_WRITE_SECONDS = 5.0
"""How long a kill waits for a write that it can interrupt (s)."""
_POLL_SECONDS = 0.02


def is_sdk_installed() -> bool:
    """Whether the SDK of MCP is installed, an extra of this service."""
    return importlib.util.find_spec("mcp") is not None


class McpServerProcess:
    """The server on a port of 127.0.0.1, which it keeps; also an async context manager."""

    def __init__(self, folder: Path) -> None:
        self.problems: list[str] = []
        """Unexpected behaviour, as texts."""
        self._port = free_port()
        self._journal = folder / "mcp-journal.jsonl"
        self._log = folder / "mcp-server.log"
        self._started_at = 0  # the length of the journal when the process was started (bytes)
        self._process: subprocess.Popen[bytes] | None = None

    def node_variables(self) -> dict[str, str]:
        """Environment variables with which a node uses the server. It is not trusted, so its tools need approvals."""
        servers = {MCP_SERVER: {"url": f"http://127.0.0.1:{self._port}/mcp"}}
        return {"AURA_MCP_SERVERS": json.dumps(servers)}

    def notes(self) -> Counter[str]:
        """How many notes were written for each reference."""
        return mcp_journal.notes(self._read())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()

    async def start(self) -> None:
        """Start the process and wait until it accepts connections. One that exits meanwhile is started again."""
        self._launch()
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await self._accepts_connections():
                    if self._process is not None and self._process.poll() is not None:
                        self._launch()  # another program may have got the port for a moment
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            self.problems.append(f"the MCP server was not ready after {_START_SECONDS:g} s")

    async def wait_for_write(self) -> None:
        """Wait until a call is under way, but not for long."""
        until = asyncio.get_running_loop().time() + _WRITE_SECONDS
        while asyncio.get_running_loop().time() < until:
            if self._under_way():
                return
            await asyncio.sleep(_POLL_SECONDS)

    def kill(self) -> int:
        """Kill the process, and return how many calls were under way."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        return self._under_way()

    def _under_way(self) -> int:
        return mcp_journal.under_way(self._read()[self._started_at :])

    def _read(self) -> bytes:
        return self._journal.read_bytes() if self._journal.exists() else b""

    def _launch(self) -> None:
        self._started_at = len(self._read())
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.dev.chaos.mcp_server", str(self._port), str(self._journal)],
                cwd=Path(app.__file__).parents[1],
                env={},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # as for a node: Ctrl-C must reach only this process
                preexec_fn=exit_with_parent(),  # noqa: PLW1509 - two system calls, no lock taken
            )

    async def _accepts_connections(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True
