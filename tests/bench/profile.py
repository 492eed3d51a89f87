"""Profiles the service with py-spy, and reports its samples by package and by function."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click

_FRAME = re.compile(r"^(?P<name>.*) \((?P<file>.*?)(:\d+)?\)$")
_MAX_FUNCTIONS = 40


class Profiler:
    """Samples one process during a round."""

    def __init__(self) -> None:
        installed = Path(sys.executable).with_name("py-spy")
        found = str(installed) if installed.is_file() else shutil.which("py-spy")
        if found is None:
            raise click.UsageError("--profile needs py-spy: install the project with its extra `dev`")
        self._command = found
        self._profiles: list[tuple[str, Path]] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, name: str, pid: int) -> None:
        path = Path(tempfile.mkdtemp(prefix="aura-profile-")) / f"{name}.txt"
        command = [
            self._command,
            "record",
            "--pid",
            str(pid),
            "--rate",
            "1000",
            "--format",
            "raw",
            "--full-filenames",
        ]
        self._process = subprocess.Popen([*command, "--output", str(path)], stdout=subprocess.DEVNULL)
        self._profiles.append((name, path))

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(2)
            self._process.wait()
            self._process = None

    def describe(self) -> str:
        return "\n".join(_describe(name, path.read_text()) for name, path in self._profiles)


def _describe(name: str, samples: str) -> str:
    """The report of one profile. A sample counts for the package of its innermost frame."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    packages: Counter[str] = Counter()
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame for frame in map(_parse_frame, stack.split(";")) if frame]
        if not frames or frames[-1][0] == "_worker":  # an idle thread of a pool
            continue
        own[_qualified_name(frames[-1])] += int(count)
        packages[_package(frames[-1][1])] += int(count)
        for place in {_qualified_name(frame) for frame in frames}:
            within[place] += int(count)
    total = sum(own.values()) or 1
    lines = [f"\n{name}: {total} samples, by package"]
    lines += [f"  {100 * count / total:5.1f} %  {package}" for package, count in packages.most_common(16)]
    lines += ["  by function: own time, time including callees"]
    lines += [
        f"  {100 * count / total:5.1f} % {100 * within[place] / total:5.1f} %  {place}"
        for place, count in own.most_common(_MAX_FUNCTIONS)
    ]
    lines += ["  functions of this project: time including callees"]
    ours = [(place, count) for place, count in within.most_common(400) if place.startswith(("app/", "statemachine/"))]
    lines += [f"  {100 * count / total:5.1f} %  {place}" for place, count in ours[:_MAX_FUNCTIONS]]
    return "\n".join(lines)


def _parse_frame(frame: str) -> tuple[str, str] | None:
    found = _FRAME.match(frame)
    return (found["name"], found["file"]) if found else None


def _package(file: str) -> str:
    if "site-packages/" in file:
        return file.rpartition("site-packages/")[2].partition("/")[0].removesuffix(".py")
    for part in ("statemachine/", "app/"):
        if f"/{part}" in file:
            return part + file.rpartition(f"/{part}")[2]
    return "stdlib " + Path(file).parent.name + "/" + Path(file).name


def _qualified_name(frame: tuple[str, str]) -> str:
    name, file = frame
    package = _package(file)
    return f"{package}:{name}" if "/" in package else f"{package}/{Path(file).name}:{name}"
