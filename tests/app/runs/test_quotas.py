"""What one user and one tenant may use: counted by all replicas, refused with 429, the setting's name and a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.redis.wire.connection import Connection
from app.settings import Settings
from tests.harness.clock import frozen_clock
from tests.harness.frames import Frame, check, parse_frame, types
from tests.harness.outcomes import completed
from tests.harness.raw import MakeSettings, read_stream
from tests.harness.service import SECRET, STREAM, Aura, headers, running
from tests.harness.waiting import eventually

AS_JSON = {"Accept": "application/json"}
DEFAULTS = {
    "aura_runs_per_minute_user": 60,
    "aura_runs_per_minute_tenant": 1200,
    "aura_max_runs_per_user": 50,
    "aura_max_waiting_per_user": 20,
    "aura_stored_megabytes_user": 64,
    "aura_stored_megabytes_tenant": 2048,
    "aura_max_streams_per_user": 50,
}


async def refused(aura: Aura, setting: str, user: str = "user1", tenant: str = "tenant1", **more: str) -> int:
    """Post a prompt, which must be refused because of this setting. Returns the value of `Retry-After`."""
    sent = headers(user, tenant, **AS_JSON, **more)
    response = await aura.client.post(STREAM, json={"prompt": "질문"}, headers=sent)
    assert (response.status_code, response.json()["errorCode"]) == (429, "E1005"), response.text
    seconds = int(response.headers["Retry-After"])
    assert response.json()["message"].startswith(f"사용 한도를 초과했습니다. {setting}: this ")
    assert f"again in {seconds} s" in response.json()["message"]
    assert ("this tenant" if setting.endswith("_TENANT") else "this user") in response.json()["message"]
    return seconds


async def run(aura: Aura, user: str = "user1", tenant: str = "tenant1", **more: str) -> list[Frame]:
    stream, frames = await read_stream(aura, headers=headers(user, tenant, **more))
    assert stream.response.status_code == 200
    check(frames)
    return frames


@pytest.fixture
async def pair(settings: MakeSettings) -> AsyncIterator[Any]:
    """A function that starts two replicas on one Redis, without a model: each run ends at once."""
    async with AsyncExitStack() as stack:

        async def start(**limits: Any) -> list[Aura]:
            made = settings(openai_api_key=None, **limits)
            return [await stack.enter_async_context(running(made)) for _ in range(2)]

        yield start


def test_quotas_are_on_by_default() -> None:
    made = Settings.from_environment({"JWT_SECRET": SECRET})
    assert {name: getattr(made, name) for name in DEFAULTS} == DEFAULTS


async def test_a_client_that_starts_run_after_run_is_refused_by_every_replica(pair: Any) -> None:
    one, two = await pair(aura_runs_per_minute_user=3)
    for aura in (one, two, one):
        await run(aura)
    for aura in (two, one):
        assert 50 <= await refused(aura, "AURA_RUNS_PER_MINUTE_USER") <= 60
    await run(two, "user2")
    await run(two, "user1", "tenant2")


async def test_a_refusal_on_the_stream_is_read_to_its_end(pair: Any) -> None:
    aura, _ = await pair(aura_runs_per_minute_user=1)
    await run(aura)
    response = await aura.client.post(STREAM, json={"prompt": "질문"}, headers=headers())
    assert (response.status_code, response.headers["Content-Type"]) == (429, "text/event-stream")
    frames = [parse_frame(raw) for raw in response.text.split("\n\n") if raw]
    assert [frame.type for frame in frames[:-1]] == ["error", "end"]
    assert (frames[0]["errorType"], frames[0]["retryable"], frames[0]["errorCode"]) == ("LimitExceeded", True, "E1005")
    assert "AURA_RUNS_PER_MINUTE_USER" in frames[0]["message"]
    assert frames[-1].is_done


async def test_a_user_may_start_runs_again_when_a_minute_has_passed(settings: MakeSettings) -> None:
    with frozen_clock() as clock:
        made = settings(openai_api_key=None, aura_runs_per_minute_user=2, aura_runs_per_minute_tenant=2)
        async with running(made, clock=clock) as aura:
            await run(aura)
            clock.advance(30)
            await run(aura)
            assert await refused(aura, "AURA_RUNS_PER_MINUTE_TENANT") <= 30
            clock.advance(31)
            await run(aura)
            assert 28 <= await refused(aura, "AURA_RUNS_PER_MINUTE_TENANT") <= 30


async def test_the_users_of_a_tenant_together_are_limited_and_another_tenant_is_not(pair: Any) -> None:
    one, two = await pair(aura_runs_per_minute_tenant=3)
    for number, aura in enumerate((one, two, one)):
        await run(aura, f"user{number}")
    for aura in (one, two):
        assert 50 <= await refused(aura, "AURA_RUNS_PER_MINUTE_TENANT", "user9") <= 60
        await run(aura, "user9", "tenant2")


async def test_a_request_that_is_repeated_with_its_key_gets_its_run_though_the_limit_is_reached(pair: Any) -> None:
    one, two = await pair(aura_runs_per_minute_user=1, aura_runs_per_minute_tenant=1)
    first = await run(one, **{"Idempotency-Key": "k-1"})
    assert await refused(two, "AURA_RUNS_PER_MINUTE_TENANT", **{"Idempotency-Key": "k-2"}) >= 50
    again = await run(two, **{"Idempotency-Key": "k-1"})
    assert again[0]["sessionId"] == first[0]["sessionId"]


async def test_a_client_that_ignores_the_refusal_costs_no_round_trips(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aura, _ = await pair(aura_runs_per_minute_user=1)
    await run(aura)
    await refused(aura, "AURA_RUNS_PER_MINUTE_USER")
    asked: list[Any] = []
    original = Connection.pipeline

    async def pipeline(self: Connection, commands: Any) -> Any:
        asked.extend(command for command in commands if any("user1" in str(part) for part in command))
        return await original(self, commands)

    monkeypatch.setattr(Connection, "pipeline", pipeline)
    for _ in range(5):
        await refused(aura, "AURA_RUNS_PER_MINUTE_USER")
    assert asked == []


async def test_zero_turns_every_quota_off(pair: Any, redis_client: redis.Redis) -> None:
    one, two = await pair(**dict.fromkeys(DEFAULTS, 0))
    for aura in (one, two, one, two):
        await run(aura)
    assert not redis_client.keys("aura:*:stored:*") + redis_client.keys("aura:*:stored")


# --- runs under way ---------------------------------------------------------------------------------------------------


async def test_a_user_with_as_many_runs_under_way_as_are_allowed_is_refused_until_one_ends(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="하나", hang_after=0), ScriptedTurn(text="둘"))
    made = settings(aura_max_runs_per_user=1)
    async with running(made) as one, running(made) as two, one.stream("질문") as first:
        await first.until("thought")
        await model.wait_for_requests(1)
        assert await refused(two, "AURA_MAX_RUNS_PER_USER") == 5
        model.release()
        await first.rest()
        completed(await run(two), "둘")


# --- stored bytes -----------------------------------------------------------------------------------------------------


async def test_a_user_that_stores_too_much_is_refused_until_it_expires(pair: Any, redis_client: redis.Redis) -> None:
    one, two = await pair(aura_stored_megabytes_user=0.001, aura_stored_megabytes_tenant=0)
    await run(one)
    seconds = await refused(two, "AURA_STORED_MEGABYTES_USER")
    assert 3500 < seconds <= 3660
    await run(two, "user2")
    (key,) = redis_client.keys("aura:{user1}:stored:*")
    ((expires_at, size),) = redis_client.hgetall(key).items()
    stored = redis_client.strlen(redis_client.keys("checkpoint:{user1}:*")[0])
    assert stored < int(size) < stored + 10_000
    redis_client.delete(key)
    redis_client.hset(key, str(int(expires_at) - 4000), size)  # as if it were an hour later
    await run(one)  # the other replica remembers its refusal for a second
    assert len(redis_client.hgetall(key)) == 1, "what has expired is removed"


async def test_a_large_context_counts_only_while_its_run_is_under_way(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(ScriptedTurn(text="네.", hang_after=0))
    context = {"activeApp": "mail", "remoteState": "x" * 250_000}
    async with (
        running(settings()) as aura,
        aura.stream(body={"prompt": "질문", "context": context}) as stream,
    ):
        await stream.until("thought")
        await model.wait_for_requests(1)
        (key,) = redis_client.keys("aura:{user1}:stored:*")
        during = sum(map(int, redis_client.hvals(key)))
        held = sum((redis_client.memory_usage(it) or 0) >= 250_000 for it in redis_client.keys("*"))
        model.release()
        check(await stream.rest())
        after = sum(map(int, redis_client.hvals(key)))
    assert held == 1, "it is stored once"
    assert 250_000 < during < 260_000
    assert after < 10_000
    assert max(redis_client.memory_usage(it) or 0 for it in redis_client.keys("*")) < 20_000


@pytest.mark.slow
async def test_the_bytes_of_a_tenant_are_counted_over_all_replicas_and_users(
    pair: Any, redis_client: redis.Redis
) -> None:
    one, two = await pair(aura_stored_megabytes_tenant=0.002, aura_stored_megabytes_user=0)
    await run(one, "user1")
    await run(two, "user2")

    def total() -> int:
        return sum(int(size) for key in redis_client.keys("aura:tenant:*:stored") for size in redis_client.hvals(key))

    by_user = sum(int(size) for key in redis_client.keys("aura:{user*:stored:*") for size in redis_client.hvals(key))
    await eventually(lambda: total() == by_user)
    for aura in (one, two):
        assert await refused(aura, "AURA_STORED_MEGABYTES_TENANT", "user3") > 3000
        await run(aura, "user3", "tenant2")


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_user_with_too_many_open_streams_is_refused_by_every_replica_until_one_is_closed(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="네.", hang_after=0))
    made = settings(aura_max_streams_per_user=2)
    async with running(made) as one, running(made) as two:
        async with one.stream("질문") as first:
            await first.until("thought")
            await model.wait_for_requests(1)
            async with two.stream(method="GET") as second:
                assert second.response.status_code == 200
                for aura in (one, two):
                    await refused(aura, "AURA_MAX_STREAMS_PER_USER")
                    attach = await aura.client.get(STREAM, headers=headers(**AS_JSON))
                    assert (attach.status_code, "AURA_MAX_STREAMS_PER_USER" in attach.text) == (429, True)
                other = await two.client.get(STREAM, headers=headers("user2", **AS_JSON))
                assert other.status_code == 404
            await eventually(lambda: two.service.stats().open_streams == 0)
            head = await two.client.head(STREAM, headers=headers())
            assert head.status_code == 200
            async with two.stream(method="GET") as again:
                assert again.response.status_code == 200
                model.release()
                await again.rest()
            await first.rest()


async def test_requests_without_a_stream_take_no_place(settings: MakeSettings) -> None:
    async with running(settings(openai_api_key=None, aura_max_streams_per_user=1)) as aura:
        for _ in range(3):
            assert (await aura.client.get(STREAM, headers=headers("user2", **AS_JSON))).status_code == 404
            assert (await aura.client.post(STREAM, json={}, headers=headers(**AS_JSON))).status_code == 400
            assert types(await run(aura))[0] == "start"


async def test_streams_of_a_node_that_has_died_do_not_count(settings: MakeSettings, redis_client: redis.Redis) -> None:
    async with running(settings(openai_api_key=None, aura_max_streams_per_user=2)) as aura:
        await run(aura)
        (runs,) = redis_client.keys("aura:{user1}:runs:*")
        key = str(runs).replace(":runs:", ":streams:")
        redis_client.hset(key, "node-dead", 2)
        redis_client.zadd("aura:nodes", {"node-dead": 1})
        await run(aura)
        assert not redis_client.hexists(key, "node-dead")
        redis_client.hset(key, "node-alive", 2)
        redis_client.zadd("aura:nodes", {"node-alive": 4e12})
        await refused(aura, "AURA_MAX_STREAMS_PER_USER")


@pytest.mark.slow
async def test_streams_that_stay_open_are_written_to_redis_while_they_are_open(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(ScriptedTurn(text="네.", hang_after=0))
    async with running(settings()) as aura:
        async with aura.stream("질문") as stream:
            await stream.until("thought")
            (key,) = await eventually(lambda: redis_client.keys("aura:{user1}:streams:*"))
            assert list(redis_client.hgetall(key).values()) == ["1"]
            model.release()
            await stream.rest()
        await eventually(lambda: redis_client.keys("aura:{user1}:streams:*") == [])
