"""One node of an experiment: `aura serve` in its own process, with its own proxied ways to Redis (`Links`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx2

import app
from app.dev.chaos.link import Links
from app.server.parent import exit_with_parent

_START_SECONDS = 60.0
_STOP_SECONDS = 25.0
_POLL_SECONDS = 0.05


class Node:
    """One node. Its process is started again whenever it has ended."""

    def __init__(self, index: int, environment: Mapping[str, str], links: Links, folder: Path) -> None:
        self.index = index
        self.port = free_port()
        self.links = links
        self.log_path = folder / f"node-{index}.log"
        self.up_since: float | None = None
        """When the node became ready (event loop time, s); None while it is down, starting, or has a fault."""
        self.takes_requests = False
        """Whether clients may choose the node: it has been ready, and is not known to be down."""
        self.problems: list[str] = []
        """Unexpected behaviour, as texts: exits that were not caused by a fault, slow starts, exit codes."""
        self._environment = {**environment, "REDIS_URL": links.url}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def start(self) -> None:
        """Start the process and wait until it is ready. A process that exits meanwhile is started again."""
        try:
            async with asyncio.timeout(_START_SECONDS), httpx2.AsyncClient(timeout=2, trust_env=False) as http:
                while True:
                    if await self._is_ready(http):
                        break
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            self.problems.append(f"was not ready after {_START_SECONDS:g} s")
            return
        self.takes_requests = True
        self.up_since = asyncio.get_running_loop().time()

    async def _is_ready(self, http: httpx2.AsyncClient) -> bool:
        if self._process is None or self._process.poll() is not None:
            if self._process is not None:
                self.problems.append(f"ended by itself with {self._process.returncode}")
            self._launch()
        with contextlib.suppress(httpx2.HTTPError):
            return bool((await http.get(f"{self.url}/ready")).status_code == 200)
        return False

    def _launch(self) -> None:
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve", "--env-file", os.devnull, "--bind", f"127.0.0.1:{self.port}"],
                cwd=Path(app.__file__).parents[1],
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C must reach only this process, which then stops the nodes in order
                preexec_fn=exit_with_parent(),  # noqa: PLW1509 - two system calls, no lock taken
            )

    def mark_down(self) -> None:
        self.up_since, self.takes_requests = None, False

    async def wait_for_exit(self) -> int:
        """Wait until the process exits and return its exit code. It is killed after `_STOP_SECONDS`."""
        if self._process is None:
            raise RuntimeError("the node is not running")
        until = asyncio.get_running_loop().time() + _STOP_SECONDS
        while self._process.poll() is None:
            if asyncio.get_running_loop().time() > until:
                self._process.kill()
            await asyncio.sleep(_POLL_SECONDS)
        code, self._process = self._process.returncode, None
        return code

    async def terminate(self) -> None:
        self.signal(signal.SIGTERM)
        code = await self.wait_for_exit()
        if code:
            self.problems.append(f"ended with {code} at SIGTERM")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
