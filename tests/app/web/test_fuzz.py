"""Sends hundreds of requests that are generated from the OpenAPI document: no error is unexpected or undocumented."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.settings import Settings
from tests.harness.service import NO_LIMITS, headers, running
from tests.harness.tools import calling, risky

EXAMPLES = 1
"""Random cases for each route, besides a few hundred fixed ones."""

FITTING = (  # a schema cannot say that `params` must match the tool and `userId` the token
    "[[operations]]",
    'include-name = "POST /aura/hitl/approve/{requestId}"',
    'checks.positive_data_acceptance.expected-statuses = ["200", "400", "403", "409"]',
    "[[operations]]",  # nor that `argumentsDigest` must be that of the request
    'include-name = "POST /aura/approvals/{requestId}/approve"',
    'checks.positive_data_acceptance.expected-statuses = ["200", "400", "403", "409"]',
    "[[operations]]",  # nor that an `agent` must exist, and an `Idempotency-Key` belong to the same request
    'include-path = "/aura/test/stream"',
    'checks.positive_data_acceptance.expected-statuses = ["200", "204", "400", "403", "404", "409", "429"]',
)


@pytest.mark.slow
async def test_schemathesis_finds_no_failure(settings: Callable[..., Settings], tmp_path: Path) -> None:
    """The tested service has no model, so that runs end at once; a run of another service waits for a decision."""
    boss = headers(role="admin")
    async with (
        ScriptedModelServer(pace=0) as model,
        running(settings(openai_base_url=model.base_url), tools=[risky()]) as other,
        running(settings(openai_api_key=None, **NO_LIMITS), tools=[risky()]) as aura,
    ):
        model.play(calling(("send_note", {"to": "kim"})))
        async with other.stream("메모", headers=headers("user2")) as stream:
            hitl = await stream.until("hitl")
        async with aura.stream("끝") as stream:
            ended = (await stream.rest())[0]["sessionId"]
        config = tmp_path / "schemathesis.toml"
        pinned = {
            "header.X-Tenant-ID": boss["X-Tenant-ID"],
            "header.X-User-ID": boss["X-User-ID"],
            "header.X-Session-ID": ended,  # the stream of an open run would not end
            "query.sessionId": ended,
            "query.format": "json",  # a PNG is rendered by a separate process
            "path.requestId": hitl["requestId"],
            "path.sessionId": hitl["sessionId"],
        }
        lines = [f'"{name}" = "{value}"' for name, value in pinned.items()]
        config.write_text("\n".join([*FITTING, "[parameters]", *lines]) + "\n", encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(Path(sys.executable).with_name("schemathesis"), "--config-file", config, "run"),
            *(f"{aura.url}/openapi.json", "--header", f"Authorization: {boss['Authorization']}"),
            *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--generation-deterministic"),
            *("--continue-on-failure", "--no-color"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
