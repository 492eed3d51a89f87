"""Runs that began before there was an archive are archived, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import redis
from structlog.testing import capture_logs

from app.bootstrap.archive import RunArchive
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.redis.archive import RedisArchiveOutbox
from app.redis.wire import scanning
from app.settings import Settings
from tests.app.archive.conftest import ArchiveDatabase
from tests.app.archive.test_archive import complete_run, session_of
from tests.harness.approvals import FINAL_ANSWER, StartWaitingRun
from tests.harness.postgres import PostgresServer
from tests.harness.service import Aura, headers, running
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
YES = ScriptedTurn(text="네.")


def archive_of(aura: Aura) -> RunArchive:
    assert aura.service.stores.archive is not None
    return aura.service.stores.archive


@pytest.mark.slow
async def test_a_run_that_ended_before_there_was_an_archive_is_archived(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(YES, YES, YES)
    async with running(settings()) as aura:
        sessions = [
            session_of(await complete_run(aura, "하나", as_=headers(user=user, tenant=tenant)))
            for user, tenant in (("kim", "tenant1"), ("lee", "tenant1"), ("kim", "tenant2"))
        ]
    with capture_logs() as logs:
        async with running(settings(aura_archive_url=archive.url)):
            await eventually(lambda: set(archive.sessions()) == set(sessions))
            await eventually(lambda: not redis_client.zcard("aura:archive"))
            await eventually(lambda: [line for line in logs if line["event"] == "archive.backlog_listed"])
    (line,) = [line for line in logs if line["event"] == "archive.backlog_listed"]
    assert line["runs"] == 3


async def test_a_run_under_way_when_the_archive_came_is_archived_at_its_end(
    waiting_run: StartWaitingRun, settings: MakeSettings, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    """Whatever process ends it: here one that has an archive takes it over."""
    async with waiting_run(FINAL_ANSWER) as run:
        assert not redis_client.exists("aura:archive")
        async with running(settings(aura_archive_url=archive.url), tools=[run.tool]) as heir:
            await run.aura.service.stores.nodes.stop()
            await eventually(lambda: heir.service.runs.owns(run.session_id))
            assert (await heir.decide("approve", run.request_id)).status_code == 200
            await run.expect_completed()
            await eventually(lambda: archive.sessions() == [run.session_id])
            await eventually(lambda: not redis_client.zcard("aura:archive"))


@pytest.mark.slow
async def test_the_end_alone_lists_a_run(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    """As for a run of a process without an archive, taken over after the other one has searched."""
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})), FINAL_ANSWER)
    async with running(settings(aura_archive_url=archive.url), tools=[tool]) as aura:
        async with aura.stream("메모") as stream:
            hitl = await stream.until("hitl")
            redis_client.delete("aura:archive")
            await aura.decide("approve", hitl["requestId"])
            await stream.rest()
        await eventually(lambda: archive.sessions() == [hitl["sessionId"]])


@pytest.mark.slow
async def test_what_is_archived_or_not_to_be_archived_is_not_listed_again(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(YES, YES)
    made = settings(aura_archive_url=archive.url, aura_archive_tenant_days="tenant2=0")
    async with running(made) as aura:
        kept = session_of(await complete_run(aura, "하나"))
        await complete_run(aura, "둘", as_=headers(tenant="tenant2"))
        await eventually(lambda: archive.sessions() == [kept])
        await eventually(lambda: not redis_client.zcard("aura:archive"))
        assert await archive_of(aura).backlog.list_missing() == 0
        assert archive_of(aura).archiver.status.lost == 0


@pytest.mark.slow
async def test_the_search_waits_for_a_database_that_is_down(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, postgres: PostgresServer
) -> None:
    model.play(YES)
    async with running(settings()) as aura:
        session_id = session_of(await complete_run(aura, "하나"))
    postgres.kill()
    with capture_logs() as logs:
        async with running(settings(aura_archive_url=archive.url)):
            await eventually(lambda: [line for line in logs if line["event"] == "archive.backlog_paused"])
            postgres.start()
            await eventually(lambda: archive.sessions() == [session_id])


@pytest.mark.slow
async def test_many_runs_are_found_some_at_a_time(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    add = RedisArchiveOutbox.add

    async def add_and_count(self: RedisArchiveOutbox, session_ids: Sequence[str], due_at: float) -> int:
        found.append(len(session_ids))
        return await add(self, session_ids, due_at)

    monkeypatch.setattr(scanning, "_SCANNED_KEYS", 50)
    monkeypatch.setattr(RedisArchiveOutbox, "add", add_and_count)
    model.play(*[YES] * 150)
    async with running(settings()) as aura:
        sessions = {
            session_of(await complete_run(aura, "하나", as_=headers(user=f"user{number % 50}")))
            for number in range(150)
        }
    async with running(settings(aura_archive_url=archive.url)):
        await eventually(lambda: set(archive.sessions()) == sessions)
    assert sum(found) == 150
    assert max(found) < 150
