"""Clients that other people's generators make of `/openapi.json`, without hand work: each approves a request (§1)."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from tests.harness.service import Aura, headers, running
from tests.harness.tools import calling, risky

GENERATORS = Path(__file__).parents[3] / ".venv" / "generators"
BIN = GENERATORS / "node_modules" / ".bin"
PYTHON = GENERATORS / "python" / "bin"
CLIENTS = Path(__file__).parents[2] / "harness" / "generated"
NODE = shutil.which("node")
TSC = (
    "--strict",
    "--skipLibCheck",
    "--target",
    "es2022",
    "--module",
    "node16",
    "--lib",
    "es2022,dom,dom.iterable,dom.asynciterable",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        NODE is None or not (BIN / "openapi-ts").exists() or not (PYTHON / "openapi-python-client").exists(),
        reason="the generators are not installed: `.ci/generators` does it, with npm",
    ),
]
Command = tuple[str | Path, ...]


async def call(folder: Path, *command: str | Path, **environment: str) -> str:
    """Run a command in this folder and return its output. Fails with the output where the command fails."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, f"{command[0]}: {output}"
    return output


async def compile_and_find(folder: Path, name: str) -> Command:
    """Check the types of a TypeScript client, and return the command that runs it."""
    assert NODE is not None
    shutil.copy(CLIENTS / name, folder)
    (folder / "node_modules").symlink_to(GENERATORS / "node_modules")
    await call(folder, BIN / "tsc", *TSC, "--outDir", "out", name)
    return (NODE, folder / "out" / Path(name).with_suffix(".js"))


async def openapi_typescript(folder: Path) -> Command:
    await call(folder, BIN / "openapi-typescript", "openapi.json", "--output", "schema.d.ts")
    return await compile_and_find(folder, "openapi_typescript.ts")


async def hey_api(folder: Path) -> Command:
    await call(folder, BIN / "openapi-ts", "--input", "openapi.json", "--output", "hey", "--no-log-file")
    return await compile_and_find(folder, "hey_api.ts")


async def openapi_python_client(folder: Path) -> Command:
    (folder / "config.yml").write_text("post_hooks: []\n", encoding="utf-8")
    options = ("--config", "config.yml", "--meta", "none", "--output-path", "aura_platform_client", "--fail-on-warning")
    await call(folder, PYTHON / "openapi-python-client", "generate", "--path", "openapi.json", *options)
    shutil.copy(CLIENTS / "python_client.py", folder)
    await call(folder, PYTHON / "mypy", "--strict", "aura_platform_client", "python_client.py")
    return (PYTHON / "python", "python_client.py")


@pytest.mark.parametrize("generate", [openapi_typescript, hey_api, openapi_python_client])
async def test_a_generated_client_has_sound_types_and_approves_a_request(
    settings: Callable[..., Settings],
    model: ScriptedModelServer,
    tmp_path: Path,
    generate: Callable[[Path], Awaitable[Command]],
) -> None:
    model.play(calling(("send_note", {"to": "김"})), ScriptedTurn(text="보냈습니다."))
    tool = risky()
    async with running(settings(), tools=[tool]) as aura:
        (tmp_path / "openapi.json").write_text((await aura.client.get("/openapi.json")).text, encoding="utf-8")
        command = await generate(tmp_path)
        output = await call(tmp_path, *command, **_caller(aura))
    assert output.split() == ["E1004", "approved", "completed"]
    assert len(tool.ran) == 1


def _caller(aura: Aura) -> dict[str, str]:
    sent = headers()
    token = sent["Authorization"].removeprefix("Bearer ")
    return {"SERVICE_URL": aura.url, "TOKEN": token, "TENANT": sent["X-Tenant-ID"], "USER": sent["X-User-ID"]}
