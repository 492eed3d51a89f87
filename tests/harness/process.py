"""`aura serve` as processes of their own: started, asked, killed, paused, their logs read.

Every process is a fork of one that has imported everything: a node is up in a tenth of a second, not in three. Apart
from that it is `aura serve` with the arguments and the environment given.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx2
import openai

import app.server  # noqa: F401 - all that a fork should find imported
from app.cli import main
from tests.harness.service import Client

ROOT = Path(__file__).parents[2]
_START_SECONDS = 20.0
_POLL_SECONDS = 0.01
_PR_SET_PDEATHSIG = 1


class Nursery:
    """Forks serve processes; all of them end with it, and it with this process."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aura-nodes-"))
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.process"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "AURA_NURSERY": "1"},
        )

    def fork(self, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, Path]:
        """A process that runs `aura` with these arguments and nothing else in its environment: its id, its output.

        When it has ended, its exit code stands in the file beside the output (`.code`).
        """
        self._count += 1
        log = self.folder / f"node-{self._count}.log"
        order = {"argv": list(arguments), "env": {"PATH": os.environ["PATH"], **environment}, "log": str(log)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), log

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class ServeProcess(Client):
    """One `aura serve`, also an async context manager: up when it is entered, gone when it is left."""

    def __init__(
        self, nursery: Nursery, environment: Mapping[str, str], *arguments: str, port: int | None = None
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._nursery = nursery
        self._environment = environment
        self._arguments = arguments
        self.pid = 0
        self._log = Path()

    def start(self) -> None:
        bind = ("--bind", f"127.0.0.1:{self.port}")
        self.pid, self._log = self._nursery.fork(["serve", *bind, *self._arguments], self._environment)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        self.client = httpx2.AsyncClient(base_url=self.url, timeout=httpx2.Timeout(30, pool=None), limits=limits)

    async def ready(self) -> Self:
        """Wait until it takes runs."""
        async with asyncio.timeout(_START_SECONDS):
            while True:
                with contextlib.suppress(httpx2.HTTPError):
                    if (await self.client.get("/ready")).status_code == 200:
                        return self
                assert self.code is None, self.output
                await asyncio.sleep(_POLL_SECONDS)

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs. Negative: the signal that ended it."""
        path = self._log.with_suffix(".code")
        return int(path.read_text()) if path.exists() else None

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def log(self) -> list[dict[str, Any]]:
        """What it logged, as JSON."""
        lines = self.output.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event and fields.items() <= line.items()]

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    async def ended(self, seconds: float = 10) -> int:
        """Its exit code, once it has one."""
        async with asyncio.timeout(seconds):
            while (code := self.code) is None:  # noqa: ASYNC110 - a file is looked for
                await asyncio.sleep(_POLL_SECONDS)
            return code

    async def __aenter__(self) -> Self:
        self.start()
        return await self.ready()

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await self.ended()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# --- the process that forks -------------------------------------------------------------------------------------------


def _nurse() -> None:
    """One order a line on stdin, the new process's id a line on stdout."""
    importlib.import_module("uvloop")
    openai.AsyncOpenAI(api_key="-", base_url="http://127.0.0.1:1").chat.completions  # noqa: B018 - late imports
    logs: dict[int, Path] = {}
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGCHLD, lambda *_: _reap(logs))
    for line in sys.stdin:
        order = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            _become(order)
        logs[pid] = Path(order["log"])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        print(pid, flush=True)
    for pid in list(logs):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _reap(logs: dict[int, Path]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            log = logs.pop(pid, None)
            if log is not None:
                code = log.with_suffix(".tmp")
                code.write_text(str(os.waitstatus_to_exitcode(status)))
                code.rename(log.with_suffix(".code"))


def _become(order: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(order["env"])
    code = 70
    try:
        main(order["argv"], prog_name="aura")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _nurse()
