"""Ownership of runs: handed over when a node drains, taken over by a node that can read them, ended when damaged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.errors import RunLost, StorageUnavailable
from app.ports.journal import RunLock
from app.ports.nodes import Claim
from app.redis import feeds, keys, scripts
from app.redis.wire.connection import Connection
from app.redis.wire.errors import is_read_only, translate_reply
from app.redis.wire.script import Command
from app.runs.service import RunService
from app.settings import Settings
from tests.harness.approvals import FINAL_ANSWER, StartWaitingRun
from tests.harness.frames import answer, check, types
from tests.harness.redis_proxy import RedisProxy
from tests.harness.service import headers, running
from tests.harness.stored import sealed
from tests.harness.tools import NoteArguments, NoteTool, calling, risky
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
TEXT = "분기 보고서를 정리했습니다. " * 10


async def test_a_draining_node_hands_over_each_run_as_soon_as_possible(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    """One run waits for a person, the other runs a tool: the first is decided elsewhere while the second continues."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def work(_: NoteArguments) -> str:
        started.set()
        await go_on.wait()
        return "written"

    tools = [risky(), NoteTool(work=work)]
    made = settings(aura_lease_seconds=60, aura_drain_seconds=60)
    async with running(made, tools=tools) as other:
        async with running(made, tools=tools) as leaving:
            model.play(calling(("send_note", {"to": "김"})))
            async with leaving.stream("메모", headers=headers("user1")) as stream:
                hitl = await stream.until("hitl")
                model.play(calling(("write_note", {"to": "이"})))
                async with leaving.stream("쓰기", headers=headers("user2")) as busy:
                    await started.wait()
                    drain = asyncio.create_task(leaving.service.drain())
                    await eventually(lambda: other.service.runs.owns(hitl["sessionId"]))
                    model.play(FINAL_ANSWER)
                    assert (await other.decide("approve", hitl["requestId"])).status_code == 200
                    frames = await stream.rest()  # its old node still serves it: from the log
                    assert not drain.done()
                    model.play(FINAL_ANSWER)
                    go_on.set()
                    await drain
                    last = (await busy.rest())[-1]
        resumed = headers("user2", **{"Last-Event-ID": str(last.id)})
        async with other.stream("쓰기", headers=resumed) as elsewhere:
            rest = await elsewhere.rest()
    check(frames)
    assert frames[-2]["status"] == rest[-2]["status"] == "completed"
    assert len(tools[0].ran) == len(tools[1].ran) == 1


async def test_a_run_that_is_claimed_while_a_node_drains_is_handed_over(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain does not know of it: it would go on in a process whose parts are closed one after the other."""
    take_over = RunService.take_over

    async def drains_meanwhile(self: RunService, session_id: str, claim: Claim) -> None:
        async def claim_and_drain() -> RunLock | None:
            lock = await claim()
            await self.drain()
            return lock

        await take_over(self, session_id, claim_and_drain)

    async with running(settings(), tools=[risky()]) as gone:
        model.play(calling(("send_note", {"to": "김"})))
        async with gone.stream("메모") as stream:
            session_id = (await stream.until("hitl"))["sessionId"]
    monkeypatch.setattr(RunService, "take_over", drains_meanwhile)
    async with running(settings(), tools=[risky()]) as leaving:
        released = keys.released_by(leaving.service.stores.nodes.node_id)
        await eventually(lambda: redis_client.hget(keys.run(session_id), "owner") == released)
        assert redis_client.zrange(keys.runs_on(released), 0, -1) == [session_id]


async def test_runs_of_a_newer_release_do_not_hide_the_others(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(calling(("send_note", {"to": "김"})), calling(("send_note", {"to": "이"})))
    with capture_logs() as logs:
        async with running(settings(), tools=[risky()]) as gone:
            sessions = []
            for user in ("user1", "user2"):
                async with gone.stream("메모", headers=headers(user)) as stream:
                    sessions.append((await stream.until("hitl"))["sessionId"])
        newer, older = sessions
        (key,) = redis_client.keys(f"checkpoint:*{newer}")
        checkpoint = json.loads(str(redis_client.get(key)))
        redis_client.set(key, sealed({**checkpoint, "schema_version": 999}))
        async with running(settings(aura_takeover_limit=1), tools=[risky()]) as heir:
            await eventually(lambda: heir.service.runs.owns(older))
            await eventually(lambda: [line for line in logs if line.get("sessionId") == newer])
            assert not heir.service.runs.owns(newer)
    assert json.loads(str(redis_client.get(key)))["schema_version"] == 999
    assert len([line for line in logs if line["event"] == "run.skipped" and line.get("sessionId") == newer]) == 1


async def test_a_run_whose_last_writes_redis_lost_ends_with_a_clear_error(waiting_run: StartWaitingRun) -> None:
    """As after a failover to a lagging replica: the log lacks events that clients have seen."""
    async with waiting_run() as run:
        run.redis.hincrby(keys.run(run.session_id), "seq", -1)
        await run.aura.decide("approve", run.request_id)
        frames = await run.stream.rest()
    check(frames)
    assert types(frames)[-3:] == ["error", "end", "[DONE]"]
    assert (frames[-3]["errorType"], frames[-3]["retryable"]) == ("StorageUnavailable", True)
    assert frames[-2]["status"] == "failed"
    assert run.tool.ran == []


async def test_an_unexpected_error_of_a_write_ends_its_own_runs_only(
    waiting_run: StartWaitingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that writes for all runs survives it: otherwise every run of this process would hang."""
    send = Connection.pipeline_results
    broken: list[Sequence[Command]] = []

    async def breaks_once(self: Connection, commands: Sequence[Command]) -> list[Any]:
        if not broken and any(command[1] == scripts.COMMIT.sha for command in commands):
            broken.append(commands)
            raise ValueError("injected by the test")
        return await send(self, commands)

    async with waiting_run() as run:
        monkeypatch.setattr(Connection, "pipeline_results", breaks_once)
        await run.aura.decide("approve", run.request_id)
        frames = await run.stream.rest()
        assert broken
    check(frames)
    assert types(frames)[-3:] == ["error", "end", "[DONE]"]
    assert "ValueError" in frames[-3]["message"]
    assert run.tool.ran == []


async def test_a_commit_that_cannot_be_encoded_fails_its_own_run_only(settings: MakeSettings) -> None:
    """Although the commits of all runs are sent in one pipeline."""
    async with running(settings()) as aura:
        epochs: list[Any] = [1, "\ud800", 1]
        locks = [RunLock(f"session_user1_1700000000_{n:04x}", epoch, 0.0) for n, epoch in enumerate(epochs)]
        commits = [aura.service.stores.journal.commit(lock, [b"body"], None, 0.0) for lock in locks]
        answers = await asyncio.gather(*commits, return_exceptions=True)
    assert [type(answer) for answer in answers] == [RunLost, UnicodeEncodeError, RunLost]  # there are no such runs


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[RedisProxy]:
    async with RedisProxy(redis_server.port) as proxy:
        yield proxy


@pytest.mark.slow
async def test_readers_of_a_run_that_was_lost_meanwhile_are_woken_again(
    settings: MakeSettings, model: ScriptedModelServer, proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_POLL_SECONDS", 600.0)
    model.play(calling(("send_note", {"to": "김"})))
    tools = [risky()]
    cut_off = settings(redis_url=proxy.url, aura_redis_timeout_seconds=0.5, aura_lease_seconds=2)
    async with running(settings(), tools=tools) as heir, running(cut_off, tools=tools) as cut:
        async with cut.stream("메모") as stream:
            hitl = await stream.until("hitl")
            proxy.cut()
            await eventually(lambda: heir.service.runs.owns(hitl["sessionId"]))
            await eventually(lambda: not cut.service.runs.owns(hitl["sessionId"]))
            assert (await heir.client.get("/ready")).status_code == 200
            proxy.mend()
            await eventually(lambda: cut.service.stores.nodes.has_lease)
            model.play(ScriptedTurn(text=TEXT, chunk_chars=4, delay_ms=10))
            assert (await heir.decide("approve", hitl["requestId"])).status_code == 200
            async with asyncio.timeout(10):
                frames = await stream.rest()
    check(frames)
    assert answer(frames) == TEXT


async def test_a_node_without_a_lease_is_not_ready(settings: MakeSettings, redis_client: redis.Redis) -> None:
    async with running(settings(aura_lease_seconds=60)) as aura:
        assert (await aura.client.get("/ready")).status_code == 200
        redis_client.zrem(keys.NODES, aura.service.stores.nodes.node_id)
        await eventually(lambda: not aura.service.stores.nodes.has_lease)
        refused = await aura.client.get("/ready")
        assert (refused.status_code, refused.json()["errorCode"]) == (503, "E5002")
        await eventually(lambda: aura.service.stores.nodes.has_lease)
        assert (await aura.client.get("/ready")).status_code == 200


async def test_a_cluster_that_was_unreachable_at_start_is_detected_later() -> None:
    with RedisServer("--cluster-enabled", "yes", persistent=True) as server:
        server.kill()
        connection = Connection(server.url, timeout_seconds=1)
        with pytest.raises(StorageUnavailable):
            await connection.execute("PING")
        server.restart(keep_data=True)
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        assert await connection.execute("PING")
        assert connection.stats().is_cluster
        await connection.close()


@pytest.mark.parametrize("code", ["OOM command not allowed", "READONLY You can't write against a read only replica."])
def test_transient_errors_inside_redis_6_scripts_are_recognised(code: str) -> None:
    error = ResponseError(f"Error running script (call to f_ab): @user_script:13: @user_script: 13: -{code}")
    assert isinstance(translate_reply(error), StorageUnavailable)
    assert is_read_only(error) == code.startswith("READONLY")
    wrong = ResponseError("Error running script (call to f_ab): @user_script:1: attempt to index a nil value")
    assert translate_reply(wrong) is wrong


@pytest.mark.parametrize("state", ["done", "tool"])
async def test_a_run_that_another_node_has_continued_is_not_written(waiting_run: StartWaitingRun, state: str) -> None:
    """As for a node that was paused for longer than its lease: it reads what another node wrote."""
    with capture_logs() as logs:
        async with waiting_run() as run:
            (key,) = run.redis.keys(f"checkpoint:*{run.session_id}")
            written = {**run.checkpoint(), "state": state, "deadline_at": None, "pending_approvals": []}
            run.redis.set(key, sealed(written))
            run.redis.hincrby(keys.run(run.session_id), "epoch", 1)
            run.publish_signal({"type": "approval", "requestId": run.request_id, "status": "approved"})
            await eventually(lambda: not run.aura.service.runs.owns(run.session_id))
            assert run.stored_request()["status"] == "pending"
    assert [line["event"] for line in logs if line["log_level"] in ("warning", "error")].count("run.lost") == 1
    assert not [line for line in logs if line["event"] in ("run.failed_unexpectedly", "run.abandoned")]
    assert run.tool.ran == []


async def test_a_node_lists_its_runs_again_after_a_failover(
    waiting_run: StartWaitingRun, redis_client: redis.Redis
) -> None:
    """The new master may lack the entries; a run that no node lists would never be taken over."""
    async with waiting_run() as run:
        (listed,) = redis_client.keys("aura:node:*:runs")
        redis_client.delete(listed)
        run.aura.service.stores.connection.failovers += 1
        await eventually(lambda: redis_client.zrange(listed, 0, -1) == [run.session_id], 5)


@pytest.mark.slow
async def test_a_list_that_others_have_overwritten_does_not_keep_a_node_from_taking_over(
    waiting_run: StartWaitingRun, settings: MakeSettings, redis_client: redis.Redis
) -> None:
    async with waiting_run() as run, running(settings(), tools=[run.tool]) as heir:
        own = keys.runs_on(heir.service.stores.nodes.node_id)
        redis_client.set(own, "another type")
        heir.service.stores.connection.failovers += 1
        await asyncio.sleep(1)  # it has tried to list its runs there
        redis_client.delete(own)
        redis_client.zadd(keys.NODES, {run.aura.service.stores.nodes.node_id: 0})
        await eventually(lambda: heir.service.runs.owns(run.session_id), 10)


@pytest.mark.slow
async def test_a_node_that_lost_its_lease_lists_the_runs_that_it_had(
    waiting_run: StartWaitingRun, redis_client: redis.Redis
) -> None:
    """It gets them back by a takeover, although its list and its lease are gone."""
    async with waiting_run(FINAL_ANSWER) as run:
        (listed,) = redis_client.keys("aura:node:*:runs")
        redis_client.delete(listed, keys.NODES)
        await eventually(lambda: redis_client.keys("aura:node:*:runs") not in ([], [listed]), 10)
        assert (await run.aura.decide("approve", run.request_id)).status_code == 200
        await run.expect_completed()
