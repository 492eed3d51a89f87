"""Lists of runs read summaries: however large the runs are, and whichever release wrote them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.redis.wire.connection import Connection
from tests.harness.frames import check
from tests.harness.raw import MakeSettings, read_stream
from tests.harness.service import Aura, headers, running
from tests.harness.tools import calling, risky

OFF = {"aura_runs_per_minute_user": 0, "aura_max_waiting_per_user": 0, "aura_max_runs_per_user": 0}


async def page(aura: Aura, path: str = "/aura/runs", **params: Any) -> Any:
    response = await aura.client.get(path, headers=headers(), params=params)
    assert response.status_code == 200, response.text
    return response.json()["data"]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The commands that are sent to Redis from now on."""
    sent: list[tuple[Any, ...]] = []
    execute, results = Connection.execute, Connection.pipeline_results

    async def record_one(self: Connection, *command: Any) -> Any:
        sent.append(command)
        return await execute(self, *command)

    async def record_all(self: Connection, batch: Any) -> Any:
        sent.extend(batch)
        return await results(self, batch)

    monkeypatch.setattr(Connection, "execute", record_one)
    monkeypatch.setattr(Connection, "pipeline_results", record_all)
    return sent


def loaded(commands: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The commands that read a checkpoint."""
    return [it for it in commands if it[0] in ("GET", "MGET") and any(str(key).startswith("checkpoint:") for key in it)]


@asynccontextmanager
async def with_runs(settings: MakeSettings, count: int) -> AsyncIterator[Aura]:
    """A service without a model, in which a user has so many runs."""
    async with running(settings(openai_api_key=None, **OFF)) as aura:
        for number in range(count):
            check((await read_stream(aura, f"질문 {number}"))[1])
        yield aura


async def test_a_list_reads_no_checkpoint(
    settings: MakeSettings, commands: list[tuple[Any, ...]], redis_client: redis.Redis
) -> None:
    async with with_runs(settings, 12) as aura:
        commands.clear()
        one = await page(aura, limit=1)
        summaries = [command for command in commands if command[0] == "MGET" and ":summary:" in command[1]]
        assert len(summaries) == 1
        failed = await page(aura, state="failed", limit=5, offset=1)
        assert (await page(aura, state="done")) == {"runs": []}
        assert loaded(commands) == []
        redis_client.delete(*redis_client.keys("checkpoint:*"))
        assert len((await page(aura))["runs"]) == 12
    assert [run["promptHead"] for run in one["runs"]] == ["질문 11"]
    assert (one["nextOffset"], failed["nextOffset"]) == (1, 6)
    assert [run["promptHead"] for run in failed["runs"]] == [f"질문 {number}" for number in (10, 9, 8, 7, 6)]
    assert {run["state"] for run in failed["runs"]} == {"failed"}


async def test_runs_of_an_older_release_get_their_summary_when_they_are_listed(
    settings: MakeSettings, commands: list[tuple[Any, ...]], redis_client: redis.Redis
) -> None:
    async with with_runs(settings, 14) as aura:
        before = (await page(aura))["runs"]
        redis_client.delete(*redis_client.keys("aura:*:summary:*"))
        commands.clear()
        first = await page(aura, limit=14)
        assert len(loaded(commands)) == 10, "so many at once, one after the other"
        rest = await page(aura, limit=14, offset=first["nextOffset"])
        commands.clear()
        again = (await page(aura))["runs"]
        assert loaded(commands) == []
    assert "nextOffset" not in rest
    for runs in (first["runs"] + rest["runs"], again):
        assert [{**run, "ageSeconds": 0} for run in runs] == [{**run, "ageSeconds": 0} for run in before]


async def test_expired_and_unreadable_runs_are_left_out_of_a_list(
    settings: MakeSettings, redis_client: redis.Redis
) -> None:
    async with with_runs(settings, 3) as aura:
        sessions = [run["sessionId"] for run in (await page(aura))["runs"]]
        (summary,) = redis_client.keys(f"aura:*:summary:{sessions[0]}")
        redis_client.set(summary, "not a summary")
        redis_client.delete(*redis_client.keys(f"*{sessions[1]}"))
        assert [run["sessionId"] for run in (await page(aura))["runs"]] == sessions[2:]
        redis_client.delete(summary)
        (checkpoint,) = redis_client.keys(f"checkpoint:*{sessions[0]}")
        redis_client.set(checkpoint, "not a checkpoint")
        assert [run["sessionId"] for run in (await page(aura))["runs"]] == sessions[2:]


async def test_a_page_of_requests_with_large_arguments_ends_early(
    settings: MakeSettings, model: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.runs.queries._REQUEST_CHARACTERS", 25_000)
    model.play(*(calling(("send_note", {"to": "kim", "text": str(n) * 10_000})) for n in range(4)))
    async with running(settings(**OFF), tools=[risky()]) as aura:
        streams = [aura.stream("메모") for _ in range(4)]
        for stream in streams:
            await (await stream.__aenter__()).until("hitl")
        first = await page(aura, "/aura/hitl/pending")
        rest = await page(aura, "/aura/hitl/pending", offset=first["nextOffset"])
        for stream in streams:
            await stream.__aexit__(None, None, None)
    assert [len(part["requests"]) for part in (first, rest)] == [2, 2]
    texts = [request["context"]["text"][0] for part in (first, rest) for request in part["requests"]]
    assert sorted(texts) == ["0", "1", "2", "3"]
    assert "nextOffset" not in rest


async def test_a_thread_of_large_runs_loads_only_the_newest(
    settings: MakeSettings,
    model: ScriptedModelServer,
    commands: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.redis.run_index._THREAD_BYTES", 20_000)
    model.play(*(ScriptedTurn(text=["긴 답 " * 1000]) for _ in range(5)))
    async with running(settings(**OFF)) as aura:
        for number in range(5):
            commands.clear()
            _, frames = await read_stream(aura, body={"prompt": f"질문 {number}", "thread_id": "t-1"})
            check(frames)
    assert len(loaded(commands)) == 1, "one is larger than half of the limit"
    assert [it["content"] for it in model.requests[-1]["messages"] if it["role"] == "user"] == ["질문 3", "질문 4"]


async def test_a_waiting_run_of_a_thread_is_seen_behind_large_runs(
    settings: MakeSettings, model: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.redis.run_index._THREAD_BYTES", 100)
    model.play(ScriptedTurn(text="네.", hang_after=0), calling(("send_note", {"to": "kim"})), ScriptedTurn(text="끝"))
    body = {"prompt": "질문", "thread_id": "t-1"}
    async with running(settings(**OFF), tools=[risky()]) as aura, aura.stream(body=body) as first:
        await first.until("thought")
        await model.wait_for_requests(1)
        async with aura.stream(body=body) as second:
            hitl = await second.until("hitl")
            model.release()
            await first.rest()
            third, refused = await read_stream(aura, body=body)
            assert (third.response.status_code, hitl["requestId"] in refused[0]["message"]) == (409, True)
            await aura.decide("approve", hitl["requestId"])
            await second.rest()
