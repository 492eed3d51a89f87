"""The runs of a user that wait for a person are limited: further calls are refused to the model, in words."""

from __future__ import annotations

from typing import Any

import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.frames import answer, check
from tests.harness.raw import MakeSettings, read_stream
from tests.harness.service import headers, running
from tests.harness.tools import calling, risky

MAIL = calling(("send_note", {"to": "kim"}))


def scores(client: redis.Redis) -> list[float]:
    """The scores of the active runs: a run that waits has a negative one."""
    found: list[list[Any]] = [client.zrange(key, 0, -1, withscores=True) for key in client.keys("aura:*:active:*")]
    return [float(score) for runs in found for _, score in runs]


async def test_a_call_beyond_the_waiting_runs_of_its_user_is_refused_to_the_model_on_every_replica(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(MAIL, MAIL, ScriptedTurn(text="먼저 결정해 주세요."))
    made, tool = settings(aura_max_waiting_per_user=1), risky()
    async with running(made, tools=[risky()]) as one, running(made, tools=[tool]) as two, one.stream("하나") as first:
        hitl = await first.until("hitl")
        assert [score < 0 for score in scores(redis_client)] == [True]
        _, frames = await read_stream(two, "둘")
        check(frames)
        assert answer(frames) == "먼저 결정해 주세요."
        assert "hitl" not in [frame.type for frame in frames]
        told = model.requests[-1]["messages"][-1]
        assert (told["role"], "AURA_MAX_WAITING_PER_USER" in told["content"]) == ("tool", True)
        assert tool.ran == []
        # Another user has room, and so has this one when its request is decided.
        model.play(MAIL, ScriptedTurn(text="보냈습니다."), ScriptedTurn(text="보냈습니다."))
        async with two.stream("셋", headers=headers("user2")) as other:
            request = await other.until("hitl")
            await two.decide("approve", request["requestId"], as_=headers("user2"))
            check(await other.rest())
        await one.decide("approve", hitl["requestId"])
        check(await first.rest())
        assert [score < 0 for score in scores(redis_client)] == []


async def test_a_wait_whose_deadline_has_passed_counts_no_longer(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    """A node may die while its runs wait: nothing has to be cleaned up."""
    model.play(ScriptedTurn(text="네."), MAIL)
    async with running(settings(aura_max_waiting_per_user=1), tools=[risky()]) as aura:
        await read_stream(aura, "하나")
        (runs,) = redis_client.keys("aura:{user1}:runs:*")
        redis_client.zadd(str(runs).replace(":runs:", ":active:"), {"session_user1_1_dead": -1})
        async with aura.stream("둘") as stream:
            assert await stream.until("hitl")


async def test_a_run_that_goes_on_or_ends_gives_its_place_back(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(MAIL, ScriptedTurn(text="보냈습니다.", hang_after=0), MAIL)
    async with running(settings(aura_max_waiting_per_user=1), tools=[risky()]) as aura:
        async with aura.stream("하나") as stream:
            hitl = await stream.until("hitl")
            await aura.decide("approve", hitl["requestId"])
            await model.wait_for_requests(2)
            assert [score > 0 for score in scores(redis_client)] == [True]
            async with aura.stream("둘") as second:
                rejected = await second.until("hitl")
                assert sorted(score > 0 for score in scores(redis_client)) == [False, True]
                await aura.decide("reject", rejected["requestId"])
                await second.rest()
            model.release()
            await stream.rest()
        assert scores(redis_client) == []
