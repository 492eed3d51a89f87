"""The archive in trouble: runs do not notice it, nothing is copied twice, and what is lost is said."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from app.archive.archiver import Archiver
from app.archive.postgres import PostgresRunArchive
from app.clock import SystemClock
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ConfigurationError, StorageUnavailable
from app.ports.archive import ArchiveStatus, Retention
from app.redis.archive import RedisArchiveOutbox
from app.settings import Settings
from tests.app.archive.conftest import ArchiveDatabase, expire_runs
from tests.app.archive.test_archive import complete_run, get, replay, session_of
from tests.harness.approvals import StartWaitingRun
from tests.harness.frames import answer
from tests.harness.postgres import PostgresServer
from tests.harness.service import Aura, headers, running
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
YES = ScriptedTurn(text="네.")


@pytest.fixture
def killed(archive: ArchiveDatabase, postgres: PostgresServer) -> Iterator[PostgresServer]:
    """The server, which is down when the test begins, and runs again when it has ended."""
    postgres.kill()
    yield postgres
    try:
        postgres.pids()
    except AssertionError:  # the test has failed before it started it
        postgres.start()


def status_of(aura: Aura) -> ArchiveStatus:
    assert aura.service.stores.archive is not None
    return aura.service.stores.archive.archiver.status


async def archive_info(aura: Aura) -> Any:
    return (await aura.client.get("/aura/info")).json()["data"]["archive"]


async def test_a_process_that_stops_copies_the_runs_that_have_just_ended(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(YES)
    async with running(settings(aura_archive_url=archive.url)) as aura:
        session_id = session_of(await complete_run(aura, "하나"))
    assert archive.sessions() == [session_id]
    assert not redis_client.zcard("aura:archive")


@pytest.mark.slow
async def test_runs_do_not_notice_that_the_database_is_down_and_are_copied_afterwards(
    settings: MakeSettings,
    model: ScriptedModelServer,
    archive: ArchiveDatabase,
    killed: PostgresServer,
    redis_client: redis.Redis,
) -> None:
    model.play(YES, YES)
    with capture_logs() as logs:
        async with running(settings(aura_archive_url=archive.url)) as aura:
            first = session_of(await complete_run(aura, "하나", thread_id="t-1"))
            second = await complete_run(aura, "둘", thread_id="t-1")
            assert answer(second) == "네.", "the history of the thread is read from Redis alone"
            sessions = [first, session_of(second)]
            await eventually(
                lambda: (
                    aura.service.stores.archive is not None and not aura.service.stores.archive.archiver.status.is_up
                )
            )
            await eventually(
                lambda: aura.service.stores.archive is not None and aura.service.stores.archive.archiver.status.due > 0
            )
            assert (await archive_info(aura))["status"] == "DOWN"
            listed = (await get(aura, "/aura/runs")).json()["data"]
            assert [run["sessionId"] for run in listed["runs"]] == sessions[::-1]
            assert listed["nextOffset"] == 2, "there may be more, which cannot be read now"
            assert (await get(aura, "/aura/runs?offset=2")).status_code == 503
            assert (await get(aura, "/aura/runs/session_user1_1700000000_abcd")).status_code == 503
            killed.start()
            await eventually(lambda: sorted(archive.sessions()) == sorted(sessions), 60)
            await eventually(lambda: not redis_client.zcard("aura:archive"))
            assert (await archive_info(aura))["lost"] == 0
    assert {"archive.paused", "archive.thread_not_read"} <= {line["event"] for line in logs}


@pytest.mark.slow
async def test_a_run_is_stored_once_however_often_it_is_copied(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(YES)
    configured = settings(aura_archive_url=archive.url)
    async with running(configured) as aura, running(configured) as other:
        frames = await complete_run(aura, "하나")
        session_id = session_of(frames)
        for _ in range(3):  # as if a process had ended after it stored the run, and before it removed it from the list
            await eventually(lambda: not redis_client.zcard("aura:archive"))
            redis_client.zadd("aura:archive", {session_id: 0, "not a session": 0})
        await eventually(lambda: not redis_client.zcard("aura:archive"))
        assert archive.sessions() == [session_id]
        expire_runs(redis_client, session_id)
        assert [frame.id for frame in await replay(other, session_id)] == [frame.id for frame in frames]
        assert (await archive_info(aura))["lost"] == (await archive_info(other))["lost"] == 0


@pytest.mark.slow
async def test_the_run_of_a_process_that_is_gone_is_copied_by_another_one(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(YES)
    url = "postgresql://u:p@127.0.0.1:1/d"  # this process lists the run, and cannot copy it
    async with running(settings(aura_archive_url=url)) as aura:
        session_id = session_of(await complete_run(aura, "하나"))
        assert redis_client.zscore("aura:archive", session_id) is not None
    assert archive.sessions() == []
    async with running(settings(aura_archive_url=archive.url)):
        await eventually(lambda: archive.sessions() == [session_id], 90)


async def test_a_run_that_expired_before_it_was_copied_is_counted(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    with capture_logs() as logs:
        async with running(settings(aura_archive_url=archive.url)) as aura:
            redis_client.zadd("aura:archive", {"session_user1_1700000000_abcd": 0})
            await eventually(lambda: not redis_client.zcard("aura:archive"))
            await eventually(lambda: status_of(aura).lost)
            assert await archive_info(aura) == {"status": "UP", "due": 0, "lost": 1}
    assert [line["sessionId"] for line in logs if line["event"] == "archive.run_lost"] == [
        "session_user1_1700000000_abcd"
    ]


@pytest.mark.slow
async def test_nothing_of_a_tenant_without_days_is_archived(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(YES)
    async with running(settings(aura_archive_url=archive.url, aura_archive_tenant_days="tenant1=0")) as aura:
        await complete_run(aura, "하나")
        await eventually(lambda: not redis_client.zcard("aura:archive"))
    assert archive.sessions() == []


@pytest.mark.slow
async def test_a_run_that_has_not_ended_is_looked_up_again_later(
    waiting_run: StartWaitingRun, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    async with waiting_run(aura_archive_url=archive.url) as run:
        redis_client.zadd("aura:archive", {run.session_id: 0})
        later = (time.time() + 800) * 1000
        await eventually(lambda: (redis_client.zscore("aura:archive", run.session_id) or 0) > later)
        assert archive.sessions() == []
        await run.aura.client.post(f"/aura/runs/{run.session_id}/cancel", headers=headers())
        await run.stream.rest()
        await eventually(lambda: archive.sessions() == [run.session_id])
    assert archive.rows("state") == [("cancelled",)]


async def test_a_role_without_rights_of_the_archive_gets_the_grant_that_it_needs(archive: ArchiveDatabase) -> None:
    archive.server.execute("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'x'")
    weak = PostgresRunArchive(archive.url.replace("aura:a%20secret", "reader:x"))
    with pytest.raises(StorageUnavailable) as refused:
        await weak.ping()
    assert "GRANT" in refused.value.log_cause
    assert "GRANT" not in refused.value.message, "a caller does not learn it"
    await weak.close()
    archive.server.execute("DROP ROLE reader")


def test_a_url_of_the_archive_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="AURA_ARCHIVE_URL") as refused:
        PostgresRunArchive("postgresql://u:pass word@host/d?x=1")
    assert "pass word" not in refused.value.message


async def test_a_run_that_the_database_refuses_holds_up_no_other_run(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(YES, YES)
    configured = settings()
    async with running(configured) as aura:
        refused, stored = session_of(await complete_run(aura, "하나")), session_of(await complete_run(aura, "둘"))
    redis_client.hset(f"aura:{{user1}}:run:{refused}", "prompt", "a\0b")  # PostgreSQL stores no NUL
    redis_client.zadd("aura:archive", {refused: 0, stored: 0})
    with capture_logs() as logs:
        async with running(settings(aura_archive_url=archive.url)):
            await eventually(lambda: archive.sessions() == [stored])
            await eventually(lambda: redis_client.zrange("aura:archive", 0, -1) == [refused])
    assert [line["sessionId"] for line in logs if line["event"] == "archive.run_refused"] == [refused]


async def test_a_run_whose_owner_somebody_has_changed_is_not_archived(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(YES, YES, YES)
    async with running(settings()) as aura:
        sessions = [session_of(await complete_run(aura, prompt)) for prompt in ("하나", "둘", "셋")]
    for session_id, field in zip(sessions, ("tenant", "user"), strict=False):
        redis_client.hset(f"aura:{{user1}}:run:{session_id}", field, "mallory")
    redis_client.zadd("aura:archive", dict.fromkeys(sessions, 0))
    with capture_logs() as logs:
        async with running(settings(aura_archive_url=archive.url)):
            await eventually(lambda: archive.sessions() == sessions[2:])
    refused = [line for line in logs if line["event"] == "archive.run_refused"]
    assert {line["sessionId"] for line in refused} == set(sessions[:2])
    assert all("another owner" in line["cause"] for line in refused)


class LateClock(SystemClock):
    """A clock of a time at which the run has been waiting for long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def now(self) -> float:
        return time.time() + self._seconds


@pytest.mark.slow
async def test_runs_that_will_soon_be_lost_are_an_error_in_the_log(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, unused_tcp_port: int
) -> None:
    model.play(YES)
    async with running(settings(aura_archive_url=f"postgresql://u:p@127.0.0.1:{unused_tcp_port}/d")) as aura:
        session_id = session_of(await complete_run(aura, "하나"))
        parts = aura.service.stores.archive
        assert parts is not None
        outbox = RedisArchiveOutbox(aura.service.stores.connection, retention_seconds=3600)
        late = Archiver(
            aura.service.stores.journal,
            outbox,
            parts.archive,
            Retention(1),
            LateClock(3000),
            check_seconds=900,
            kept_seconds=3600,
        )
        await outbox.postpone([session_id], 0)
        with capture_logs() as logs:
            late.start()
            await eventually(lambda: [line for line in logs if line["event"] == "archive.runs_at_risk"])
            await late.stop()
        (line,) = [line for line in logs if line["event"] == "archive.runs_at_risk"]
        assert line["log_level"] == "error"
        assert 590 <= line["secondsLeft"] <= 600
        assert "AURA_RETENTION_SECONDS" in line["remedy"]
