"""`/aura/approvals/…`: what Aura's own clients send and read: digests, edited arguments, skipped calls (§1, §5)."""

from __future__ import annotations

from typing import Any

import pytest

from app.dev.demo.script import ScriptedTurn
from statemachine.stored import digest
from tests.harness.approvals import ARGUMENTS, FINAL_ANSWER, StartWaitingRun, WaitingRun
from tests.harness.service import headers


async def _post(run: WaitingRun, verdict: str, **body: Any) -> Any:
    path = f"/aura/approvals/{run.request_id}/{verdict}"
    return await run.aura.client.post(path, json=body, headers=headers())


async def test_an_approval_request_is_shown_as_json_with_its_decision(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        path = f"/aura/approvals/{run.request_id}"
        shown = (await run.aura.client.get(path, headers=headers())).json()["data"]
        assert shown["context"] == ARGUMENTS
        assert shown["argumentsDigest"] == run.hitl["argumentsDigest"] == digest(ARGUMENTS)
        assert (shown["status"], shown["position"], shown["total"]) == ("pending", 1, 1)
        (listed,) = (await run.aura.client.get("/aura/approvals", headers=headers())).json()["data"]["requests"]
        assert listed["argumentsDigest"] == shown["argumentsDigest"]
        approved = await _post(run, "approve", argumentsDigest=shown["argumentsDigest"])
        assert (approved.status_code, approved.json()["data"]["status"]) == (200, "approved")
        await run.expect_completed()
        decided = (await run.aura.client.get(path, headers=headers())).json()["data"]
        assert (decided["status"], decided["decidedBy"], decided["via"], decided["deciderTold"]) == (
            *("approved", "user1", "http", False),
        )
        assert (await run.aura.client.get(path, headers=headers("user1", "tenant2"))).status_code == 404


@pytest.mark.parametrize("body", [None, {}, {"argumentsDigest": ""}, {"argumentsDigest": "0" * 64}])
async def test_an_approval_without_the_digest_of_what_was_seen_is_refused(
    waiting_run: StartWaitingRun, body: dict[str, Any] | None
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        path = f"/aura/approvals/{run.request_id}/approve"
        refused = await run.aura.client.post(path, json=body, headers=headers())
        assert (refused.status_code, refused.json()["errorCode"]) == (400, "E4000")
        assert "argumentsDigest" in refused.json()["message"]
        assert run.stored_request()["status"] == "pending"
        on_the_platforms_path = await run.aura.decide("approve", run.request_id, argumentsDigest="0" * 64)
        assert (on_the_platforms_path.status_code, on_the_platforms_path.json()["errorCode"]) == (400, "E4000")
        assert run.stored_request()["status"] == "pending"
        right = await run.aura.decide("approve", run.request_id, argumentsDigest=run.hitl["argumentsDigest"])
        assert right.status_code == 200
        await run.expect_completed()


@pytest.mark.parametrize("skip", [False, True])
async def test_a_rejection_with_the_digest_of_other_arguments_is_refused(
    waiting_run: StartWaitingRun, skip: bool
) -> None:
    async with waiting_run() as run:
        ours = await _post(run, "reject", argumentsDigest="0" * 64, skip=skip)
        the_platforms = await run.aura.decide("reject", run.request_id, argumentsDigest="0" * 64, skip=skip)
        for refused in (ours, the_platforms):
            assert (refused.status_code, refused.json()["errorCode"]) == (400, "E4000")
            assert "argumentsDigest" in refused.json()["message"]
        assert run.stored_request()["status"] == "pending"
        rejected = await _post(run, "reject", argumentsDigest=digest(ARGUMENTS), reason="아니요")
        assert rejected.status_code == 200
        await run.expect_rejected("아니요")


async def test_edited_arguments_are_sent_with_the_digest_of_those_that_were_seen(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        edited = {"to": "이", "text": "고친 글", "copies": 2}
        approved = await _post(run, "approve", argumentsDigest=digest(ARGUMENTS), params=edited)
        assert approved.status_code == 200
        await run.expect_completed()
        assert run.tool.ran == [edited]


async def test_a_call_is_skipped_on_the_paths_of_our_clients(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(ScriptedTurn(text="알겠습니다.")) as run:
        assert (await _post(run, "reject", reason="나중에", skip=True)).status_code == 200
        frames = await run.stream.rest()
        assert frames[-2]["status"] == "completed"
        assert run.tool.ran == []
