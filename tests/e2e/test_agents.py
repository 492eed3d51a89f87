"""SIGHUP to a process, or to the supervisor of several, reads the file of agents again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.e2e.conftest import Nodes
from tests.harness.frames import check
from tests.harness.process import ServeProcess
from tests.harness.waiting import eventually


def write(folder: Path, model: str) -> Path:
    path = folder / "agents.toml"
    path.write_text(f'default = "a"\n[agents.a]\nmodel = "{model}"\n', encoding="utf-8")
    return path


async def requested_model(node: ServeProcess, model: ScriptedModelServer) -> Any:
    """Run a prompt, and return the name of the model that was requested."""
    model.play(ScriptedTurn(text="안녕하세요."))
    async with node.stream("질문") as stream:
        check(await stream.rest())
    return model.requests[-1]["model"]


async def test_sighup_reads_the_file_again(nodes: Nodes, model: ScriptedModelServer, tmp_path: Path) -> None:
    node = await nodes.start(AURA_AGENTS=write(tmp_path, "first"))
    assert await requested_model(node, model) == "first"
    write(tmp_path, "second")
    assert await requested_model(node, model) == "first"
    node.signal(signal.SIGHUP)
    await eventually(lambda: node.logged("agents.reloaded"))
    assert await requested_model(node, model) == "second"
    (tmp_path / "agents.toml").write_text("[agents.a]\nmodle = 'third'", encoding="utf-8")
    node.signal(signal.SIGHUP)
    await eventually(lambda: node.logged("agents.reload_failed"))
    assert await requested_model(node, model) == "second"
    node.terminate()
    assert await node.wait_for_exit() == 0


async def test_a_process_without_a_file_ends_at_sighup(nodes: Nodes) -> None:
    node = await nodes.start()
    node.signal(signal.SIGHUP)
    assert await node.wait_for_exit() == -signal.SIGHUP


@pytest.mark.slow
async def test_sighup_to_the_supervisor_reaches_every_worker(nodes: Nodes, tmp_path: Path) -> None:
    node = await nodes.start("--workers", "2", AURA_AGENTS=write(tmp_path, "first"))
    node.signal(signal.SIGHUP)  # one of the workers may be starting: it reads the file again when it can
    await eventually(lambda: len(node.logged("agents.reloaded")) == len(node.logged("server.started")) == 2)
    assert not node.logged("worker.died")
    node.terminate()
    assert await node.wait_for_exit() == 0


async def test_a_file_that_cannot_be_used_stops_the_start(nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.create(AURA_AGENTS=tmp_path / "none.toml")
    node.start()
    assert await node.wait_for_exit() == 2
    assert f"aura: AURA_AGENTS: {tmp_path}/none.toml does not exist" in node.output
