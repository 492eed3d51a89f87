"""Values of others in the lists of nodes and runs: they stop no takeover, no list and no run of somebody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.redis import keys
from tests.harness.approvals import FINAL_ANSWER, MakeSettings, StartWaitingRun, WaitingRun
from tests.harness.service import headers, running
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

RUN = "session_user2_1700000000_abcd"
FIELDS: dict[str, Any] = {"owner": "ghost", "epoch": 1, "seq": 0, "user": "x", "tenant": "t", "prompt": "", "final": 0}


def list_with_ghost(client: redis.Redis, *session_ids: Any, score: float = 1) -> None:
    client.zadd(keys.NODES, {"ghost": 0})
    for session_id in session_ids:
        client.zadd(keys.runs_on("ghost"), {session_id: score})


def write_run(client: redis.Redis, fields: Any, *, score: float = 1) -> None:
    list_with_ghost(client, RUN, score=score)
    if isinstance(fields, str):
        client.set(keys.run(RUN), fields)
    else:
        client.hset(keys.run(RUN), mapping=fields)


def write_wrong_lists(client: redis.Redis) -> None:
    for number in range(50):
        client.zadd(keys.NODES, {f"ghost{number}": 0})
        client.set(keys.runs_on(f"ghost{number}"), "x")


HOSTILE: dict[str, Callable[[redis.Redis], Any]] = {
    "names of nodes": lambda client: client.zadd(keys.NODES, {b"\xff%d" % number: 0 for number in range(50)}),
    "lists of another type": write_wrong_lists,
    "session ids": lambda client: list_with_ghost(client, b"\xff\xff", "abc", ""),
    "a run of another type": lambda client: write_run(client, "x"),
    "a run without its fields": lambda client: write_run(client, {"owner": "ghost", "user": "x"}),
    "a run with words for numbers": lambda client: write_run(client, {**FIELDS, "epoch": "x", "seq": "y"}),
    "a run of an infinite age": lambda client: write_run(client, FIELDS, score=float("inf")),
}


@pytest.mark.parametrize("how", HOSTILE)
async def test_runs_are_taken_over_whatever_others_write_into_the_lists(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, how: str
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})))
    async with running(settings(), tools=[tool]) as gone, gone.stream("메모") as stream:
        run = WaitingRun(gone, stream, await stream.until("hitl"), tool, redis_client)
    HOSTILE[how](redis_client)
    with capture_logs() as logs:
        async with running(settings(aura_takeover_limit=1), tools=[tool]) as heir:
            await eventually(lambda: heir.service.stores.decisions.is_watched(run.session_id), seconds=15)
    skipped = [line["skipped"] for line in logs if line["event"] == "takeover.skipped"]
    assert len(skipped) == len(set(skipped))


async def test_lists_show_what_can_be_read_whatever_others_write_into_them(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        for index in (keys.runs_of("tenant1", "user1"), keys.tenant_runs("tenant1")):
            run.redis.zadd(index, {b"\xff": 9e15, "nonsense": 8e15, RUN: 7e15})
        run.redis.rpush(keys.summary(RUN), "x")
        run.redis.rpush(keys.checkpoint(RUN), "x")
        run.redis.set(keys.run(RUN), "x")
        for caller in (headers(), headers("boss", role="admin")):
            listed = await run.aura.client.get("/aura/runs", headers=caller)
            assert [each["sessionId"] for each in listed.json()["data"]["runs"]] == [run.session_id]
            pending = await run.aura.client.get("/aura/approvals", headers=caller)
            assert [each["requestId"] for each in pending.json()["data"]["requests"]] == [run.request_id]
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()


@pytest.mark.parametrize("value", ["abc", "-1", "nan", "1e300", ["a list"]])
async def test_a_run_ends_whatever_others_write_as_its_last_event_id(
    waiting_run: StartWaitingRun, value: str | list[str]
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        key = keys.event_ids(run.session_id)
        run.redis.delete(key)
        if isinstance(value, list):
            run.redis.rpush(key, *value)
        else:
            run.redis.set(key, value)
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()
