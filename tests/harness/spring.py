"""The Java programs of `tests/spring/`: builds them with Maven, and runs them on free ports.

`python -m tests.harness.spring` builds them, and downloads what Maven needs for it.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.harness.frames import StreamReader
from tests.harness.gateways import ProxyClient
from tests.harness.process import free_port
from tests.harness.service import FIXTURES, SECRET, headers

FOLDER = Path(__file__).parents[1] / "spring"
TENANT = "1"
"""The gateway and the Main Service know tenants by their numbers."""

_RECIPE = "spring-cloud-gateway.yml"
_MAVEN = ("mvn", "-q", "-B", "-f", str(FOLDER / "pom.xml"), "package")
_NOT_TO_BE_HAD = ("Could not resolve", "Could not transfer", "Non-resolvable", "Could not find artifact")
# Less memory and a quicker start: these processes live for a few tests.
_JAVA = ("java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_START_SECONDS = 240.0  # a machine that builds other things meanwhile is slow


class CannotBuild(Exception):
    """Java, Maven or the artifacts are missing. Sources that do not compile are an error instead."""


@functools.cache
def build() -> None:
    """Build the jars where the sources are newer. Raises `CannotBuild` with the reason."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        raise CannotBuild(f"{' and '.join(missing)} not found (apt-get install maven openjdk-17-jdk-headless)")
    (FOLDER / "target").mkdir(exist_ok=True)
    with (FOLDER / "target" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes start at once, and the first one builds
        if not _is_current():
            _run_maven()


def jar(module: str) -> Path:
    return FOLDER / module / "target" / f"{module}.jar"


def _is_current() -> bool:
    sources = [
        path for path in FOLDER.rglob("*") if path.suffix in (".java", ".xml", ".yml") and "target" not in path.parts
    ]
    jars = [jar("gateway"), jar("main")]
    return all(path.exists() for path in jars) and max(path.stat().st_mtime for path in sources) < min(
        path.stat().st_mtime for path in jars
    )


def _run_maven() -> None:
    offline = subprocess.run([*_MAVEN, "-o"], capture_output=True, text=True, check=False)
    if offline.returncode == 0:
        return
    online = subprocess.run(_MAVEN, capture_output=True, text=True, check=False)
    if online.returncode == 0:
        return
    errors = [line for line in online.stdout.splitlines() if "[ERROR]" in line] or online.stderr.splitlines()
    if any(reason in online.stdout for reason in _NOT_TO_BE_HAD):
        raise CannotBuild(f"Maven could not get the artifacts: {errors[0]}")
    raise AssertionError("\n".join(errors))


class JavaProgram:
    """One of the jars as a process; also a context manager, which waits until it answers and kills it at the end."""

    def __init__(self, module: str, *options: str, **environment: str) -> None:
        build()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [*_JAVA, "-jar", str(jar(module)), f"--server.port={self.port}", *options]
        self._environment = {**os.environ, **environment}
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "log"

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_up():
            assert self._process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _is_up(self) -> bool:
        try:
            httpx2.get(self.url)
        except httpx2.TransportError:
            return False
        return True


def main_service(redis_url: str, *, accepts_plan_steps: bool = False) -> JavaProgram:
    return JavaProgram(
        "main",
        f"--spring.data.redis.url={redis_url}",
        f"--bench.accepts-plan-steps={str(accepts_plan_steps).lower()}",
        JWT_SECRET=SECRET,
    )


@contextmanager
def spring_gateway(aura_port: int, main_url: str, *, response_timeout_ms: int | None = None) -> Iterator[JavaProgram]:
    """Run the gateway with the recipe of `fixtures/gateway/`, in which the addresses are replaced."""
    text = (FIXTURES / "gateway" / _RECIPE).read_text(encoding="utf-8")
    changes = {"http://main-service:8081": main_url, "http://aura:9000": f"http://127.0.0.1:{aura_port}"}
    if response_timeout_ms is not None:
        changes["response-timeout: 300000"] = f"response-timeout: {response_timeout_ms}"
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old} must occur exactly once in {_RECIPE}"
        text = text.replace(old, new)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "application.yml").write_text(text, encoding="utf-8")
        with JavaProgram("gateway", f"--spring.config.additional-location=file:{folder}/") as gateway:
            yield gateway


def numbered(user: str = "user1", **more: str) -> dict[str, str]:
    """The headers of a user whose tenant is a number."""
    return headers(user, TENANT, **more)


class Browser(ProxyClient):
    """A client of the gateway; its requests are by default those of user1 of tenant 1."""

    @asynccontextmanager
    async def stream(
        self, prompt: str | None = None, *, method: str = "POST", body: Any = None, **kwargs: Any
    ) -> AsyncIterator[StreamReader]:
        kwargs.setdefault("headers", numbered())
        async with super().stream(prompt, method=method, body=body, **kwargs) as stream:
            yield stream

    async def decide(self, verdict: str, request_id: str, *, as_: dict[str, str] | None = None, **body: Any) -> Any:
        return await super().decide(verdict, request_id, as_=as_ or numbered(), **body)


if __name__ == "__main__":
    try:
        build()
    except CannotBuild as reason:
        sys.exit(f"the Java bench cannot be built, and its tests are skipped: {reason}")
