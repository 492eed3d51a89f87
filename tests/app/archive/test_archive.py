"""Ended runs in PostgreSQL: they are copied once, and read from there when Redis has them no longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ConfigurationError
from app.settings import Settings
from tests.app.archive.conftest import ArchiveDatabase, expire_lists, expire_runs
from tests.harness.approvals import FINAL_ANSWER, StartWaitingRun
from tests.harness.frames import Frame, answer
from tests.harness.service import Aura, headers, running
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]


async def complete_run(aura: Aura, prompt: str, *, as_: dict[str, str] | None = None, **body: Any) -> list[Frame]:
    async with aura.stream(body={"prompt": prompt, **body}, headers=as_ or headers()) as stream:
        return await stream.rest()


def session_of(frames: list[Frame]) -> str:
    return str(frames[0]["sessionId"])


async def replay(aura: Aura, session_id: str, **more: str) -> list[Frame]:
    async with aura.stream(method="GET", params={"sessionId": session_id}, headers=headers(**more)) as stream:
        return await stream.rest()


async def get(aura: Aura, path: str, **caller: str) -> Any:
    return await aura.client.get(path, headers=headers(**caller))


async def test_an_ended_run_is_read_from_the_archive_when_redis_has_it_no_longer(
    waiting_run: StartWaitingRun, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    async with waiting_run(FINAL_ANSWER, aura_archive_url=archive.url) as run:
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()
        aura, session_id = run.aura, run.session_id
        before = await replay(aura, session_id)
        path = f"/aura/runs/{session_id}"
        details, timeline = (await get(aura, path)).json(), (await get(aura, f"{path}/timeline")).json()
        await eventually(lambda: archive.sessions() == [session_id])
        await eventually(lambda: not redis_client.zcard("aura:archive"))

        expire_runs(redis_client, session_id)
        after = await replay(aura, session_id)
        assert [(frame.id, frame.type, frame.data) for frame in after] == [
            (frame.id, frame.type, frame.data) for frame in before
        ]
        kept = (await get(aura, path)).json()
        unlike = {"ageSeconds"}
        assert {name: value for name, value in kept["data"].items() if name not in unlike} == {
            name: value for name, value in details["data"].items() if name not in unlike
        }
        assert (await get(aura, f"{path}/timeline")).json()["data"] == timeline["data"]
        (decision,) = archive.rows("decisions")[0][0]
        assert (decision["verdict"], decision["decided_by"]) == ("approved", "user1")
        assert (await aura.client.post(f"{path}/cancel", headers=headers())).status_code == 409


async def test_a_stream_is_resumed_from_the_archive(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(ScriptedTurn(text="안녕하세요"))
    async with running(settings(aura_archive_url=archive.url)) as aura:
        frames = await complete_run(aura, "하나")
        session_id = session_of(frames)
        await eventually(lambda: archive.sessions() == [session_id])
        expire_runs(redis_client, session_id)
        middle = frames[2].id
        resumed = headers(**{"Last-Event-ID": str(middle)})
        for params in ({"sessionId": session_id}, {}):  # by the run, and by the event's id alone
            async with aura.stream(method="GET", headers=resumed, params=params) as stream:
                assert [frame.id for frame in await stream.rest()] == [frame.id for frame in frames[3:]]
        ended = headers(**{"Last-Event-ID": str(frames[-1].id)})
        response = await aura.client.get("/aura/test/stream", params={"sessionId": session_id}, headers=ended)
        assert response.status_code == 204


@pytest.mark.slow
async def test_lists_continue_in_the_archive(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(*(ScriptedTurn(text="네.") for _ in range(5)))
    async with running(settings(aura_archive_url=archive.url)) as aura:
        sessions = [session_of(await complete_run(aura, f"질문 {number}")) for number in range(3)]
        await eventually(lambda: sorted(archive.sessions()) == sorted(sessions))
        expire_runs(redis_client, *sessions)
        listed = (await get(aura, "/aura/runs")).json()["data"]
        assert [run["sessionId"] for run in listed["runs"]] == sessions[::-1], "Redis lists them, and has no data"
        expire_lists(redis_client)
        sessions += [session_of(await complete_run(aura, "나중")), session_of(await complete_run(aura, "끝"))]
        for caller in ({}, {"user": "boss", "role": "approver"}):
            seen: list[str] = []
            offset: int | None = 0
            while offset is not None:
                page = (await get(aura, f"/aura/runs?limit=2&offset={offset}", **caller)).json()["data"]
                seen += [run["sessionId"] for run in page["runs"]]
                offset = page.get("nextOffset")
            assert seen == sessions[::-1]
        assert (await get(aura, "/aura/runs", user="other")).json()["data"] == {"runs": []}
        done = (await get(aura, "/aura/runs?state=done")).json()["data"]["runs"]
        assert len(done) == 5
        assert (await get(aura, "/aura/approvals")).json()["data"] == {"requests": []}


@pytest.mark.slow
async def test_what_another_tenant_has_in_the_archive_does_not_exist(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(ScriptedTurn(text="네."))
    async with running(settings(aura_archive_url=archive.url)) as aura:
        session_id = session_of(await complete_run(aura, "하나"))
        await eventually(lambda: archive.sessions() == [session_id])
        expire_runs(redis_client, session_id)
        path = f"/aura/runs/{session_id}"
        stream = f"/aura/test/stream?sessionId={session_id}"
        for url in (path, f"{path}/timeline", stream):
            assert (await get(aura, url, tenant="tenant2", role="admin")).status_code == 404
            assert (await get(aura, url, user="other")).status_code == 403
        assert (await get(aura, path, user="boss", role="approver")).status_code == 200
        listed = await get(aura, "/aura/runs", tenant="tenant2", role="admin")
        assert listed.json()["data"] == {"runs": []}


@pytest.mark.slow
async def test_a_thread_remembers_runs_of_the_archive(
    settings: MakeSettings, model: ScriptedModelServer, archive: ArchiveDatabase, redis_client: redis.Redis
) -> None:
    model.play(*(ScriptedTurn(text=f"답 {number}") for number in range(4)))
    async with running(settings(aura_archive_url=archive.url)) as aura:
        first = session_of(await complete_run(aura, "하나", thread_id="t-1"))
        await eventually(lambda: archive.sessions() == [first])
        expire_runs(redis_client, first)
        expire_lists(redis_client)
        await complete_run(aura, "둘", thread_id="t-1")
        await complete_run(aura, "다른 대화", thread_id="t-2")
        await complete_run(aura, "셋", thread_id="t-1", as_=headers(user="other"))
    contents = [[message["content"] for message in request["messages"][1:]] for request in model.requests]
    assert contents == [["하나"], ["하나", "답 0", "둘"], ["다른 대화"], ["셋"]]


async def test_without_an_archive_nothing_is_listed_for_it(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(ScriptedTurn(text="네."))
    async with running(settings()) as aura:
        frames = await complete_run(aura, "하나")
        assert frames[-1].is_done
        assert answer(frames) == "네."
        assert not redis_client.exists("aura:archive")
        assert "archive" not in (await aura.client.get("/aura/info")).json()["data"]


def test_bad_settings_of_the_archive_stop_the_start_with_their_names(settings: MakeSettings) -> None:
    for name, value in (
        ("aura_archive_url", "mysql://x"),
        ("aura_archive_days", "0"),
        ("aura_archive_tenant_days", "tenant1"),
        ("aura_archive_tenant_days", "a=1,a=2"),
        ("aura_archive_tenant_days", "a=-1"),
    ):
        with pytest.raises(ConfigurationError, match=name.upper()):
            settings(**{name: value})
    assert settings(aura_archive_tenant_days="a=1,b=0").aura_archive_tenant_days == {"a": 1.0, "b": 0.0}
    assert settings(aura_archive_tenant_days='{"a,b": 2.5}').aura_archive_tenant_days == {"a,b": 2.5}
