"""The measured processes (the service, a Redis, the model stub), and their counters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

import redis

from app.dev.demo.redis import RedisServer
from app.dev.demo.redis_deployments import ClusterServers
from app.server.parent import exit_with_parent
from app.settings.quotas import NO_QUOTAS, QuotaSettings
from tests.harness.process import free_port
from tests.harness.service import SECRET

ROOT = Path(__file__).parents[2]
_START_SECONDS = 30.0
DEFAULT_QUOTAS = {name: str(QuotaSettings.model_fields[name.lower()].default) for name in NO_QUOTAS}


@dataclass(frozen=True, slots=True)
class RedisCount:
    """The counters of Redis since its start. A round trip is one read from a socket, so a pipeline counts as one."""

    commands: int
    round_trips: int
    cpu_seconds: float
    connections: int

    def since(self, before: RedisCount) -> RedisCount:
        return RedisCount(
            self.commands - before.commands,
            self.round_trips - before.round_trips,
            self.cpu_seconds - before.cpu_seconds,
            self.connections,
        )


class Environment:
    """Starts the processes when the context is entered, and stops them when it exits.

    `variables` are further environment variables of the service; `workers` is the number of its processes. Redis is a
    cluster of so many `masters`, without replicas, or a standalone server where it is 0.
    """

    def __init__(self, variables: Mapping[str, str] | None = None, *, workers: int = 1, masters: int = 0) -> None:
        self.port = free_port()
        self._workers = workers
        self._cluster = ClusterServers(masters, replicas=False) if masters else None
        self._servers = [RedisServer()] if self._cluster is None else self._cluster.servers
        self._redis_clients: list[redis.Redis] = []
        self._variables = dict(variables or {})
        self._folder = Path(tempfile.mkdtemp(prefix="aura-bench-"))
        self._model: subprocess.Popen[bytes] | None = None
        self._service: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            if self._cluster is None:
                self._servers[0].start()
            else:
                self._cluster.__enter__()
            self._redis_clients = [redis.Redis.from_url(server.url) for server in self._servers]
            self._model = self._launch("tests.bench.model_stub", {}, stdout=subprocess.PIPE)
            assert self._model.stdout is not None
            model_port = int(self._model.stdout.readline())
            variables = {
                "JWT_SECRET": SECRET,
                "REDIS_URL": self.redis_url,
                "OPENAI_API_KEY": "key-of-the-stub-0123456789",
                "OPENAI_BASE_URL": f"http://127.0.0.1:{model_port}/v1",
                "AURA_LEASE_SECONDS": "30",
                **NO_QUOTAS,
                **self._variables,
            }
            arguments = (
                "serve",
                "--env-file",
                os.devnull,
                "--bind",
                f"127.0.0.1:{self.port}",
                "--workers",
                str(self._workers),
            )
            self._service = self._launch("app", variables, *arguments)
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if kind is not None:
            lines = [line for line in self.log.splitlines() if '"level": "info"' not in line]
            print("\n".join(lines)[-4000:], file=sys.stderr)
        for process in (self._service, self._model):
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for server in self._servers:
            server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(
        self, module: str, variables: Mapping[str, str], *arguments: str, stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        with (self._folder / f"{module}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), **variables},
                stdin=subprocess.PIPE,
                stdout=stdout if stdout is not None else log,
                stderr=log,
                preexec_fn=exit_with_parent(),  # noqa: PLW1509 - two system calls, no lock taken
            )

    def _wait_until_ready(self) -> None:
        assert self._service is not None
        deadline, responses = time.monotonic() + _START_SECONDS, 0
        while responses < 4 * self._workers:  # so that each worker has probably responded
            if self._service.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start: {self.log[-2000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=1) as response:
                    responses += json.load(response)["status"] == "SUCCESS"
            except (OSError, ValueError):
                time.sleep(0.05)

    @property
    def log(self) -> str:
        """The log of the service so far."""
        return (self._folder / "app.log").read_text(errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def redis_port(self) -> int:
        """The port of the standalone server."""
        return self._servers[0].port

    @property
    def redis_url(self) -> str:
        return self._servers[0].url if self._cluster is None else self._cluster.url

    @property
    def pids(self) -> list[int]:
        """The ids of the serving processes; the supervisor of several workers is left out."""
        assert self._service is not None
        pid = self._service.pid
        return [pid] if self._workers == 1 else _children(pid)

    @property
    def all_pids(self) -> list[int]:
        """The ids of the serving processes, of Redis and of the model stub."""
        assert self._model is not None
        return [*self.pids, self._model.pid, *(server.pid for server in self._servers)]

    def cpu_seconds(self) -> float:
        """The CPU time of the serving processes, as the scheduler counts it."""
        return sum(_cpu_seconds(pid) for pid in self.pids)

    def memory_bytes(self) -> int:
        """The resident memory of the serving processes."""
        return sum(int(_status(pid)["VmRSS"].split()[0]) * 1024 for pid in self.pids)

    def redis_count(self) -> RedisCount:
        """The counters of Redis, summed up over its servers, without this client's own INFO commands."""
        counts = [_redis_count(client.info("everything")) for client in self._redis_clients]
        return RedisCount(*map(sum, zip(*map(astuple, counts), strict=True)))

    def redis_memory_bytes(self) -> int:
        return sum(int(client.info("memory")["used_memory"]) for client in self._redis_clients)


def _redis_count(info: dict[str, Any]) -> RedisCount:
    commands = sum(stat["calls"] for name, stat in info.items() if name.startswith("cmdstat_"))
    info_calls = info.get("cmdstat_info", {"calls": 0})["calls"]
    return RedisCount(
        commands=commands - info_calls,
        round_trips=info["total_reads_processed"] - info_calls,
        cpu_seconds=info["used_cpu_sys"] + info["used_cpu_user"],
        connections=info["connected_clients"] - 1,
    )


def _cpu_seconds(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if _status(int(path.name)).get("PPid") == str(pid):
                found.append(int(path.name))
        except (OSError, ValueError):
            continue
    return found
