"""Forks `aura` processes from a process that has imported all modules: a node starts in 0.1 s instead of 3 s."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1
_IMPORTED = (
    "uvloop",
    "app.server.supervisor",
    "app.server.process",
    "app.dev.ask.conversation",
    "app.dev.demo.walkthrough",
)


class ForkServer:
    """Forks `aura` processes. They exit when the fork server exits, and it exits when this process exits."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aura-processes-"))
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.fork_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "AURA_FORK_SERVER": "1"},
        )

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], terminal: str | None = None
    ) -> tuple[int, Path]:
        """Start a process that runs `aura` with only this environment; returns its id and the file of its output.

        With the path of a `terminal` the process reads and writes there instead. When it has exited, its exit code is
        in the file beside the output with the suffix `.code`.
        """
        self._count += 1
        log = self.folder / f"process-{self._count}.log"
        command = {
            "argv": list(arguments),
            "env": {**{name: os.environ[name] for name in ("PATH", "SSL_CERT_FILE")}, **environment},
            "log": str(log),
            "terminal": terminal,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), log

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


# --- the fork server's own process ------------------------------------------------------------------------------------


def _serve() -> None:
    """Read one command per line from stdin, and print the id of each new process to stdout."""
    for name in _IMPORTED:
        importlib.import_module(name)
    openai = importlib.import_module("openai")
    openai.AsyncOpenAI(api_key="-", base_url="http://127.0.0.1:1").chat.completions  # noqa: B018 - late imports
    logs: dict[int, Path] = {}
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGCHLD, lambda *_: _reap(logs))
    for line in sys.stdin:
        command = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            _run_child(command)
        logs[pid] = Path(command["log"])
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


def _run_child(command: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    stdin = os.open(command["terminal"] or os.devnull, os.O_RDWR)
    output = stdin if command["terminal"] else os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((stdin, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(command["env"])
    code = 70
    try:
        main = importlib.import_module("app.cli").main
        main(command["argv"], prog_name="aura")
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
    _serve()
