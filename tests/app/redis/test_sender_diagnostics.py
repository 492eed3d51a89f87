"""A sender that puts a Java header before what it writes: `/ready` names the cause and the remedy (§5)."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from app.settings import Settings
from tests.harness.approvals import FINAL_ANSWER, MakeSettings, StartWaitingRun
from tests.harness.service import Aura, running
from tests.harness.waiting import eventually


def as_java_writes(text: str) -> bytes:
    """A string as `JdkSerializationRedisSerializer` has it: header, type, length, modified UTF-8."""
    return b"\xac\xed\x00\x05t" + len(text).to_bytes(2, "big") + text.encode()


def hints(aura: Aura) -> list[str]:
    return aura.service.stores.decisions.sender_hints


def ignored(aura: Aura, count: int) -> bool:
    return aura.service.stores.decisions.ignored_signals == count


async def ready(aura: Aura) -> Any:
    response = await aura.client.get("/ready")
    assert response.status_code == 200
    return response.json()["data"]


async def test_a_java_signal_is_named_in_ready_and_logged_once(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        assert await ready(run.aura) == {"status": "UP"}
        signal = as_java_writes(json.dumps({"type": "approval", "requestId": run.request_id}))
        with capture_logs() as logged:
            for count in (1, 2, 3):
                run.publish_signal(signal)
                await eventually(functools.partial(ignored, run.aura, count))
        assert len([line for line in logged if line["event"] == "sender.misconfigured"]) == 1
        data = await ready(run.aura)
        assert data["status"] == "UP"
        (hint,) = data["hints"]
        assert "Java serialisation header" in hint
        assert "StringRedisTemplate" in hint
        assert "StringRedisSerializer" in hint
        assert run.stored_request()["status"] == "pending"
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()


async def test_a_stored_java_signal_is_noticed(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        signal = as_java_writes(json.dumps({"type": "approval", "requestId": run.request_id}))
        run.redis.set(f"hitl:signal:{run.session_id}", signal, ex=300)
        run.publish_signal({"type": "wake up"})
        (hint,) = await eventually(lambda: hints(run.aura))
        assert hint.startswith("A stored signal")
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()


@pytest.mark.slow
async def test_a_request_overwritten_by_java_is_reported_and_a_signal_still_decides(
    waiting_run: StartWaitingRun,
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        run.redis.set(f"hitl:request:{run.request_id}", as_java_writes(json.dumps(run.stored_request())), keepttl=True)
        (hint,) = await eventually(lambda: hints(run.aura))
        assert hint.startswith("An approval request")
        assert (await run.aura.decide("approve", run.request_id)).status_code == 404
        run.publish_signal({"type": "approval", "requestId": run.request_id})
        await run.expect_completed()


async def test_a_request_overwritten_by_java_still_has_its_deadline(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(hitl_timeout_seconds=0.5) as run:
        run.redis.set(f"hitl:request:{run.request_id}", as_java_writes(json.dumps(run.stored_request())), keepttl=True)
        assert (await run.stream.rest())[-2]["status"] == "timed_out"


@pytest.mark.usefixtures("model")
async def test_a_java_named_key_is_noticed_at_the_start(settings: MakeSettings, redis_client: redis.Redis) -> None:
    made: Settings = settings()
    async with running(made) as aura:
        assert await ready(aura) == {"status": "UP"}
    redis_client.mset({f"other:{number}": "x" for number in range(3000)})
    redis_client.set(as_java_writes("hitl:signal:session_user1_1_abcd"), "{}")
    async with running(made) as aura:
        (hint,) = await eventually(lambda: hints(aura))
        assert "name of a key" in hint
        assert (await ready(aura))["hints"] == [hint]
