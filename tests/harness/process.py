"""`aura` commands as separate processes: starts, calls, kills and suspends them, and reads their output.

Each process is forked by the fork server, and runs the command with the given arguments and environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import socket
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.harness.fork_server import ForkServer
from tests.harness.service import Client
from tests.harness.waiting import eventually

_START_SECONDS = 30.0
_POLL_SECONDS = 0.01


class Command:
    """One `aura` command; also an async context manager, which kills the process when it exits."""

    def __init__(
        self, fork_server: ForkServer, environment: Mapping[str, str], *arguments: str, in_terminal: bool = False
    ) -> None:
        self.arguments = arguments
        self.pid = 0
        self._fork_server = fork_server
        self._environment = environment
        self._log = Path()
        self._in_terminal = in_terminal
        self._terminal: int | None = None
        self._shown = b""

    def start(self) -> None:
        if not self._in_terminal:
            self.pid, self._log = self._fork_server.fork(self.arguments, self._environment)
            return
        self._terminal, child_terminal = pty.openpty()
        os.set_blocking(self._terminal, False)
        environment = {"TERM": "xterm", **self._environment}
        self.pid, self._log = self._fork_server.fork(self.arguments, environment, os.ttyname(child_terminal))
        self._child_terminal = child_terminal

    @property
    def code(self) -> int | None:
        """The exit code; None while the process runs; negative: the number of the signal that ended it."""
        path = self._log.with_suffix(".code")
        return int(path.read_text()) if path.exists() else None

    @property
    def output(self) -> str:
        """Everything that the process has written to stdout and stderr so far."""
        if not self._in_terminal:
            return self._log.read_text(errors="replace") if self._log.exists() else ""
        with contextlib.suppress(BlockingIOError):
            while self._terminal is not None and (piece := os.read(self._terminal, 65536)):
                self._shown += piece
        return self._shown.decode(errors="replace")

    async def wait_for_output(self, text: str, *, times: int = 1) -> str:
        """Wait until the output contains `text` this many times, and return the whole output."""
        await eventually(lambda: self.output.count(text) >= times or self.code is not None, 60)
        assert self.output.count(text) >= times, self.output
        return self.output

    def type(self, text: str) -> None:
        assert self._terminal is not None
        os.write(self._terminal, text.encode())

    def set_line_mode(self) -> None:
        """Give the terminal the modes that a shell sets for itself: a line is sent when Enter is pressed."""
        modes = termios.tcgetattr(self._child_terminal)
        modes[3] |= termios.ICANON | termios.ECHO
        termios.tcsetattr(self._child_terminal, termios.TCSANOW, modes)

    def hang_up(self) -> None:
        """Close the terminal, as closing its window does."""
        assert self._terminal is not None
        os.close(self._child_terminal)
        os.close(self._terminal)
        self._terminal = None

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def wait_for_exit(self, seconds: float = 60) -> int:
        """Wait until the process exits, and return its exit code. Raises `TimeoutError`."""
        async with asyncio.timeout(seconds):
            while (code := self.code) is None:
                _ = self.output  # the process would block on a terminal whose buffer is full
                await asyncio.sleep(_POLL_SECONDS)
            return code

    async def close(self) -> None:
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await self.wait_for_exit()
        if self._terminal is not None:
            _ = self.output
            os.close(self._terminal)
            os.close(self._child_terminal)
            self._terminal = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class ServeProcess(Command, Client):
    """One `aura serve`; its async context manager waits until it is ready."""

    def __init__(
        self, fork_server: ForkServer, environment: Mapping[str, str], *arguments: str, port: int | None = None
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        options = ("--env-file", os.devnull, "--bind", f"127.0.0.1:{self.port}")
        super().__init__(fork_server, environment, "serve", *options, *arguments)

    def start(self) -> None:
        super().start()
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        self.client = httpx2.AsyncClient(base_url=self.url, timeout=httpx2.Timeout(30, pool=None), limits=limits)

    async def ready(self) -> Self:
        """Wait until `/ready` answers 200."""
        async with asyncio.timeout(_START_SECONDS):
            while True:
                with contextlib.suppress(httpx2.HTTPError):
                    if (await self.client.get("/ready")).status_code == 200:
                        return self
                assert self.code is None, self.output
                await asyncio.sleep(_POLL_SECONDS)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The parsed log lines."""
        lines = self.output.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event and fields.items() <= line.items()]

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    async def __aenter__(self) -> Self:
        self.start()
        return await self.ready()

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
