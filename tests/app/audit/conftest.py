"""Fixtures for the tests of the record: the record in Redis, the command, and a run that has left its entries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from app.cli import main
from app.dev.demo.redis import RedisServer
from tests.harness.approvals import FINAL_ANSWER, StartWaitingRun
from tests.harness.audit import StoredRecord
from tests.harness.service import SECRET

AuditCommand = Callable[..., Awaitable[Result]]


@pytest.fixture
def record(redis_server: RedisServer) -> StoredRecord:
    return StoredRecord(redis_server.url)


@pytest.fixture
def audit_command(redis_server: RedisServer) -> AuditCommand:
    """Runs `aura audit …` on this Redis, in a thread: it has an event loop of its own."""

    async def run(*arguments: str, **environment: str) -> Result:
        environment = {"JWT_SECRET": SECRET, "REDIS_URL": redis_server.url, **environment}
        return await asyncio.to_thread(CliRunner().invoke, main, ["audit", *arguments], env=environment)

    return run


@pytest.fixture
async def approved_run(waiting_run: StartWaitingRun, tmp_path: Path) -> Path:
    """A run with an approval has ended, and its process too. Returns the log of that process."""
    with capture_logs() as logs:
        async with waiting_run(FINAL_ANSWER) as run:
            await run.aura.decide("approve", run.request_id)
            await run.expect_completed()
    log = tmp_path / "service.log"
    log.write_text("\n".join(json.dumps(line, default=str) for line in logs), encoding="utf-8")
    return log
