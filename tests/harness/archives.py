"""The archives of the distributions, built with the Python that runs the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Archives:
    """The sdist and the wheel of one distribution."""

    sdist: Path
    wheel: Path


def build_client_archives(folder: Path) -> Archives:
    """Build the archives of `aura-client` with `.ci/archives`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    call(ROOT / ".ci" / "archives", folder, environment={**os.environ, "PATH": path})
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Archives(sdist, wheel)


def build_wheel(project: Path, folder: Path) -> Path:
    """Build the wheel of the project in a folder, with the installed hatchling."""
    folder.mkdir()
    call(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=project)
    (wheel,) = folder.glob("*.whl")
    return wheel


def call(*command: str | Path, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """Run a command and return its output. Fails with the output where the command fails."""
    process = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout
