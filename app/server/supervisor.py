"""The supervisor of several worker processes on one port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import structlog
from hypercorn.config import Config

from app.bootstrap import create_app
from app.server.config import bind_socket
from app.server.parent import exit_with_parent
from app.settings import Settings

_MIN_UPTIME_SECONDS = 2.0
"""A worker that ends earlier counts as one that cannot start: the pauses between restarts then grow."""
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.1, 10.0
_POLL_SECONDS = 0.1
_COMMAND = (sys.executable, "-m", "app", "serve", "--env-file", os.devnull)
"""A file `.env` is read once, by this process: all workers have the same settings."""

log = structlog.get_logger(__name__)


def supervise(workers: int, config: Config, settings: Settings, environment: Mapping[str, str]) -> int:
    """Keep `workers` processes on one listening socket until SIGTERM or SIGINT; return the exit code.

    `environment` is that of the workers, in which `settings` were found.

    A worker that dies is replaced. With a file of agents, SIGHUP is passed to the workers, which read it again. Where
    this process is killed, its workers drain and exit (on Linux): otherwise they would keep the port.
    """
    stop_requests: list[int] = []
    reload_requests: list[int] = []
    if settings.aura_agents is not None:
        signal.signal(signal.SIGHUP, lambda received, _: reload_requests.append(received))
    create_app(settings)  # raises here what would end every worker
    with bind_socket(config) as listener:
        listener.set_inheritable(True)
        pool = _WorkerPool(listener.fileno(), environment)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: stop_requests.append(received))
        pool.start(workers)
        while not stop_requests:
            time.sleep(_POLL_SECONDS)
            if reload_requests:
                reload_requests.clear()
                pool.reload()
            if not stop_requests:
                pool.replace_dead()
        return pool.stop()


class _WorkerPool:
    """The worker processes, all of which accept from the listening socket `descriptor`."""

    def __init__(self, descriptor: int, environment: Mapping[str, str]) -> None:
        self._descriptor = descriptor
        self._environment = environment
        self._workers: list[tuple[subprocess.Popen[bytes], float]] = []  # each with its start time
        self._pause_seconds = _MIN_PAUSE_SECONDS
        self._next_restart_at = 0.0

    def start(self, count: int) -> None:
        self._workers = [self._start_worker() for _ in range(count)]

    def replace_dead(self) -> None:
        """Start a worker for each that has died, at most one per pause; the pause doubles while workers die young."""
        for index, (worker, started_at) in enumerate(self._workers):
            if worker.poll() is None or time.monotonic() < self._next_restart_at:
                continue
            died_young = time.monotonic() - started_at < _MIN_UPTIME_SECONDS
            self._pause_seconds = min(self._pause_seconds * 2, _MAX_PAUSE_SECONDS) if died_young else _MIN_PAUSE_SECONDS
            self._next_restart_at = time.monotonic() + self._pause_seconds
            log.error("worker.died", pid=worker.pid, code=worker.returncode)
            self._workers[index] = self._start_worker()

    def reload(self) -> None:
        """Pass SIGHUP to all workers. One that is still starting gets it as soon as it can read the file again."""
        for worker, _ in self._workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        """Send SIGTERM to all workers and wait for them; return the highest exit code."""
        living = [worker for worker, _ in self._workers if worker.poll() is None]
        for worker in living:
            worker.send_signal(signal.SIGTERM)
        # A worker that was still starting had no handler yet: it was ended by SIGTERM, which is not a failure.
        return max((abs(code) for worker in living if (code := worker.wait()) != -signal.SIGTERM), default=0)

    def _start_worker(self) -> tuple[subprocess.Popen[bytes], float]:
        # A worker inherits the mask: a SIGHUP before it has its handler waits, where it would otherwise end the worker.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        try:
            worker = subprocess.Popen(
                [*_COMMAND, "--bind", f"fd://{self._descriptor}"],
                env=self._environment,
                pass_fds=[self._descriptor],
                preexec_fn=exit_with_parent(signal.SIGTERM),  # noqa: PLW1509 - two system calls, no lock taken
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return worker, time.monotonic()
