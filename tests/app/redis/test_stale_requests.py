"""Requests that do not fit their run: older copies that were put back, closed ones, and those of other arguments."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.redis import keys
from statemachine.stored import digest
from tests.harness.approvals import FINAL_ANSWER, MakeSettings, StartWaitingRun, WaitingRun
from tests.harness.service import headers, running
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually

DECISION_KEY = "a key that Aura and the Main Service share"
THIEF = {"to": "thief@example.com", "text": "x", "copies": 1}


# --- other arguments --------------------------------------------------------------------------------------------------


def run_other_arguments(run: WaitingRun) -> None:
    """Change an unsigned checkpoint, so that other arguments would run than its request shows."""
    saved = {name: value for name, value in run.checkpoint().items() if name != "mac"}
    saved["calls"][0]["arguments"] = THIEF
    saved["pending_approvals"][0]["arguments_digest"] = digest(THIEF)
    run.redis.set(keys.checkpoint(run.session_id), json.dumps(saved), ex=3600)


async def test_a_request_of_other_arguments_than_those_of_the_run_is_not_run(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(aura_accept_unsigned=True) as run:
        run_other_arguments(run)
        run.publish_signal({"type": "approval", "requestId": run.request_id, "status": "approved"})
        frames = await run.stream.rest()
        assert (frames[-3]["errorType"], frames[-2]["status"], run.tool.ran) == ("PermissionError", "failed", [])


async def test_a_request_of_other_arguments_cannot_be_approved(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(aura_accept_unsigned=True) as run:
        run_other_arguments(run)
        refused = await run.aura.decide("approve", run.request_id, argumentsDigest=run.hitl["argumentsDigest"])
        assert (refused.status_code, refused.json()["errorCode"]) == (403, "E2001")
        frames = await run.stream.rest()
        assert (frames[-3]["errorType"], frames[-2]["status"], run.tool.ran) == ("PermissionError", "failed", [])


async def test_an_unsigned_request_without_a_digest_shows_what_runs(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER, aura_accept_unsigned=True) as run:
        kept = {name: value for name, value in run.stored_request().items() if name not in ("mac", "argumentsDigest")}
        run.redis.set(f"hitl:request:{run.request_id}", json.dumps(kept), keepttl=True)
        assert (await run.aura.decide("approve", run.request_id)).status_code == 200
        await run.expect_completed()
    async with waiting_run(aura_accept_unsigned=True) as run:
        changed = {**kept, **{name: run.stored_request()[name] for name in ("requestId", "sessionId")}}
        changed["context"] = {"to": "이", "text": "harmless", "copies": 1}
        run.redis.set(f"hitl:request:{run.request_id}", json.dumps(changed), keepttl=True)
        run.publish_signal({"type": "approval", "requestId": run.request_id, "status": "approved"})
        assert (await run.stream.rest())[-2]["status"] == "failed"
        assert run.tool.ran == []


# --- requests that are closed -----------------------------------------------------------------------------------------


async def approve_copy(run: WaitingRun, old: str) -> Any:
    """Put an older copy of the request in its place. Return the answer to an approval, which must not count."""
    run.redis.set(f"hitl:request:{run.request_id}", old, ex=1800)
    late = await run.aura.decide("approve", run.request_id, argumentsDigest=run.hitl["argumentsDigest"])
    assert (late.status_code, late.json()["success"], run.tool.ran) == (409, True, [])
    return late.json()["data"]


def stored(run: WaitingRun) -> str:
    return str(run.redis.get(f"hitl:request:{run.request_id}"))


async def test_a_request_that_is_put_back_after_its_rejection_cannot_be_approved(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        old = stored(run)
        await run.aura.decide("reject", run.request_id, reason="아니요")
        await run.expect_rejected("아니요")
        late = await approve_copy(run, old)
        assert (late["status"], late["reason"]) == ("rejected", "아니요")


async def test_a_request_that_is_put_back_after_the_end_of_its_run_cannot_be_approved(
    waiting_run: StartWaitingRun,
) -> None:
    async with waiting_run(hitl_timeout_seconds=0.5) as run:
        old = stored(run)
        await run.stream.rest()
        assert (await approve_copy(run, old))["status"] == "expired"
    async with waiting_run() as run:
        old = stored(run)
        await run.aura.client.post(f"/aura/runs/{run.session_id}/cancel", headers=headers())
        await run.stream.rest()
        assert (await approve_copy(run, old))["status"] == "cancelled"
        run.redis.delete(keys.checkpoint(run.session_id))
        assert (await approve_copy(run, old))["status"] == "cancelled"


async def test_an_approval_that_is_written_over_an_expired_request_is_ignored(waiting_run: StartWaitingRun) -> None:
    """The Main Service refuses only what is approved or rejected already (§5)."""
    async with waiting_run(hitl_timeout_seconds=0.5) as run:
        frames = await run.stream.rest()
        assert frames[-2]["status"] == "timed_out"
        now_ms = int(time.time() * 1000)
        decided = {**run.stored_request(), "status": "approved", "approvedBy": "boss", "approvedAt": now_ms}
        run.redis.set(f"hitl:request:{run.request_id}", json.dumps(decided), ex=1800)
        signal = {"type": "approval", "requestId": run.request_id, "status": "approved", "timestamp": now_ms // 1000}
        run.store_signal(signal)
        run.publish_signal(signal)
        for path in (f"/aura/approvals/{run.request_id}", f"/aura/hitl/requests/{run.request_id}"):
            answer = (await run.aura.client.get(path, headers=headers())).json()["data"]
            shown = json.loads(answer) if isinstance(answer, str) else answer
            assert shown["status"] == "expired"
        late = await run.aura.decide("approve", run.request_id)
        assert (late.status_code, late.json()["data"]["status"]) == (409, "expired")
        shown = (await run.aura.client.get(f"/aura/runs/{run.session_id}", headers=headers())).json()["data"]
        assert (shown["state"], run.tool.ran) == ("timed_out", [])


async def test_a_request_whose_checkpoint_was_changed_is_closed_with_its_run(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})))
    async with running(settings(), tools=[tool]) as gone, gone.stream("메모") as stream:
        run = WaitingRun(gone, stream, await stream.until("hitl"), tool, redis_client)
    redis_client.set(keys.checkpoint(run.session_id), "broken", ex=3600)
    async with running(settings(), tools=[tool]) as heir:
        await eventually(lambda: redis_client.hget(keys.run(run.session_id), "final") == "1")
        assert run.stored_request()["status"] == "cancelled"
        late = await heir.decide("approve", run.request_id)
        assert (late.status_code, late.json()["data"]["status"]) == (409, "cancelled")


@pytest.mark.parametrize("status", ["expired", "cancelled"])
async def test_with_a_decision_key_a_status_of_others_closes_no_request(
    waiting_run: StartWaitingRun, status: str
) -> None:
    async with waiting_run(aura_decision_key=DECISION_KEY) as run:
        run.update_request(status=status)
        path = f"/aura/approvals/{run.request_id}"
        assert (await run.aura.client.get(path, headers=headers())).json()["data"]["status"] == "pending"
        assert (await run.aura.decide("reject", run.request_id, reason="아니요")).status_code == 200
        await run.expect_rejected("아니요")


async def test_with_a_decision_key_the_status_that_this_service_wrote_stays(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(aura_decision_key=DECISION_KEY) as run:
        await run.aura.client.post(f"/aura/runs/{run.session_id}/cancel", headers=headers())
        await run.stream.rest()
        path = f"/aura/approvals/{run.request_id}"
        assert (await run.aura.client.get(path, headers=headers())).json()["data"]["status"] == "cancelled"
        late = await run.aura.decide("approve", run.request_id)
        assert (late.status_code, late.json()["data"]["status"]) == (409, "cancelled")
