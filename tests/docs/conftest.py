"""A running demo, and the archives of the Python client, for the code blocks of the documentation."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.server.parent import exit_with_parent
from tests.docs.readmes import ROOT
from tests.harness.archives import Archives, build_client_archives
from tests.harness.process import free_port

AURA = Path(sys.executable).with_name("aura")
_OWN_SETTINGS = ("AURA_", "HITL_", "OPENAI_", "REDIS_", "JWT_")
_TOKEN = re.compile(r"export TOKEN=(\S+)")
_REDIS_PORT = re.compile(r"redis-cli -p (\d+)")


@pytest.fixture(scope="session")
def client_archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    return build_client_archives(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="session")
def demo_environment() -> Iterator[dict[str, str]]:
    """Start `aura demo` and return the environment in which the blocks run."""
    if not AURA.exists():
        pytest.skip("the command `aura` is not installed beside this Python")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_SETTINGS)}
    port = free_port()
    demo = subprocess.Popen(
        [AURA, "demo", "--port", str(port)],
        env={**kept, "AURA_LOG_LEVEL": "ERROR"},  # nobody reads what it prints later
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        preexec_fn=exit_with_parent(signal.SIGTERM),  # noqa: PLW1509 - two system calls, no lock taken
    )
    try:
        printed = _read_until_token(demo)
        redis_port = _REDIS_PORT.search(printed)
        token = _TOKEN.search(printed)
        assert redis_port is not None, printed
        assert token is not None, printed
        yield {
            **kept,
            "SERVICE_URL": f"http://127.0.0.1:{port}",
            "TOKEN": token[1],
            "PORT": str(free_port()),
            "JWT_SECRET": secrets.token_urlsafe(48),
            "REDIS_PORT": redis_port[1],
        }
    finally:
        demo.terminate()
        demo.communicate(timeout=30)


def _read_until_token(demo: subprocess.Popen[str]) -> str:
    """Read the output of the demo up to the line that names the Redis port, which follows the token."""
    assert demo.stdout is not None
    printed = ""
    for line in demo.stdout:
        printed += line
        if _REDIS_PORT.search(line):
            break
    return printed
