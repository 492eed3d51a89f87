"""`aura chaos`: short experiments with real processes, and their interruption."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from app.dev.chaos.plan import MCP_TOOL, ORDER_TOOL
from tests.harness.fork_server import ROOT
from tests.harness.waiting import eventually


def chaos(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "app", "chaos", "--json", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def read_until_runs_have_ended(process: subprocess.Popen[bytes]) -> None:
    """Read the progress until a line of it counts runs that have ended."""
    assert process.stderr is not None
    lines: list[bytes] = []
    while line := process.stderr.readline():
        lines.append(line)
        if re.search(rb": [1-9]\d* of \d+ runs ended", line):
            return
    raise AssertionError(b"".join(lines).decode())


def descendants(pid: int) -> set[int]:
    """The ids of all descendants of a process."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, row.split())) for row in listed.splitlines()]
    found: set[int] = set()
    while new := {child for child, parent in pairs if parent in {pid, *found}} - found:
        found |= new
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--runs", "12", "--lease", "2", "--seed", "317"], "kill"),
        (["--runs", "20", "--lease", "3", "--seed", "154", "--redis", "cluster"], "lagging replica"),
        (["--runs", "20", "--lease", "3", "--seed", "19", "--redis", "sentinel"], "master kill"),
    ],
    ids=["single", "cluster", "sentinel"],
)
def test_short_experiment_finds_nothing(arguments: list[str], expected: str) -> None:
    process = chaos(*arguments)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output.decode() + errors.decode()
    found = json.loads(output)
    assert found["is_good"]
    assert found["findings"] == []
    assert found["faults"][expected] > 0
    assert found["faults"]["MCP kill"] > 0
    assert found["tools_run_by_name"][ORDER_TOOL] > 0, "tools that are plugged in are among those that ran"
    assert found["tools_run_by_name"][MCP_TOOL] > 0
    assert found["runs"] == int(arguments[1])
    assert found["runs_ended"] > 0  # any other one is lost by a failover, or a finding
    assert b"aura chaos: seed" in errors  # there is no terminal, so the progress is printed in lines


@pytest.mark.slow
async def test_ctrl_c_prints_the_verdict_so_far() -> None:
    process = chaos("--runs", "3000", "--kill-every", "1.0", "--lease", "2", "--seed", "5")
    try:
        await asyncio.wait_for(asyncio.to_thread(read_until_runs_have_ended, process), 240)
        process.send_signal(signal.SIGINT)
        output, errors = await asyncio.to_thread(process.communicate, timeout=60)
    finally:
        process.kill()
    found = json.loads(output)
    assert process.returncode == 130
    assert found["interrupted"]
    assert found["findings"] == []
    assert 0 < found["runs_ended"] < 3000
    assert b"the verdict so far" in errors


@pytest.mark.slow
async def test_ctrl_c_stops_all_processes() -> None:
    process = chaos("--runs", "200", "--kill-every", "1.0", "--lease", "2", "--seed", "5")
    try:
        await eventually(lambda: len(descendants(process.pid)) > 3, 60)  # Redis and three nodes
        started = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        output, _ = await asyncio.to_thread(process.communicate, timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert json.loads(output)["interrupted"]
    assert started
    assert not [pid for pid in started if is_alive(pid)]
