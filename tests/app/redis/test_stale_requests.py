"""Requests that do not fit their run: older copies that were put back, closed ones, and those of other arguments."""

from __future__ import annotations

import json

from app.redis import keys
from statemachine.stored import digest
from tests.harness.approvals import FINAL_ANSWER, StartWaitingRun, WaitingRun

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
        assert (await run.stream.rest())[-2]["status"] == "failed"
        assert run.tool.ran == []
