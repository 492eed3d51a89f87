"""Runs the JavaScript client under Node."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
CLIENT = Path(__file__).parents[2] / "app" / "client" / "client.js"

needs_node = pytest.mark.skipif(
    NODE is None, reason="the JavaScript client is tested under Node, which is not installed"
)


async def run_client(command: str, **options: Any) -> list[Any]:
    """Run a command of `client.mjs` and return the values that it prints."""
    assert NODE is not None
    driver = Path(__file__).with_name("client.mjs")
    process = await asyncio.create_subprocess_exec(
        NODE,
        *(driver, CLIENT, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    output, errors = await process.communicate(json.dumps(options).encode())
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in output.decode().split("\n") if line]
