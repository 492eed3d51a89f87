"""Attacks by programs that can write to the same Redis: on decisions, on what an approver sees, and the saved run."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.redis import keys
from tests.harness.approvals import ARGUMENTS, FINAL_ANSWER, MakeSettings, StartWaitingRun, WaitingRun
from tests.harness.frames import DONE, check, types
from tests.harness.service import headers, running
from tests.harness.stored import read_json, sealed, seals
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

OTHER_SECRET = "another secret of at least thirty-two bytes"
DECISION_KEY = "a key that Aura and the Main Service share"
THIEF = {"to": "thief@example.com", "text": "x", "copies": 1}


async def expect_permission_error(run: WaitingRun) -> None:
    """The run must end as failed, with its whole end, and without having executed its tool."""
    frames = await run.stream.rest()
    check(frames)
    assert types(frames)[-3:] == ["error", "end", DONE]
    assert (frames[-3]["errorType"], frames[-3]["errorCode"]) == ("PermissionError", "E2001")
    assert frames[-2]["status"] == "failed"
    assert run.tool.ran == []
    saved = run.checkpoint()
    assert (saved["state"], saved["ending"]["error_type"]) == ("failed", "PermissionError")


async def record(run: WaitingRun) -> Any:
    return (await run.aura.client.get(f"/aura/runs/{run.session_id}", headers=headers())).json()["data"]


async def decision_of(run: WaitingRun) -> Any:
    return (await record(run))["ledger"][0]["decision"]


# --- who may say what -------------------------------------------------------------------------------------------------


async def test_a_published_approval_changes_neither_the_arguments_nor_the_decider(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        signal = {"type": "approval", "requestId": run.request_id, "approvedBy": "ceo", "userId": "ceo"}
        run.publish_signal({**signal, "params": THIEF, "skip": True})
        await run.expect_completed()
        assert run.tool.ran == [ARGUMENTS]
        assert "approvedBy" not in run.stored_request()
        decision = await decision_of(run)
        assert (decision["via"], decision["decider_told"], decision["decided_by"]) == ("redis", True, None)


async def test_params_that_others_write_into_the_request_change_nothing(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        run.update_request(status="approved", approvedBy="ceo", params=THIEF, auraMac="A" * 32)
        await run.expect_completed()
        assert run.tool.ran == [ARGUMENTS]
        decision = await decision_of(run)
        assert (decision["via"], decision["decider_told"], decision["decided_by"]) == ("redis", True, "ceo")
        path = f"/aura/approvals/{run.request_id}"
        shown = (await run.aura.client.get(path, headers=headers())).json()["data"]
        assert (shown["decidedBy"], shown["via"], shown["deciderTold"]) == ("ceo", "redis", True)


async def test_a_skip_that_others_write_into_the_request_still_ends_the_run(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        run.update_request(status="rejected", rejectedBy="boss", reason="안 됩니다", skip=True)
        await run.expect_rejected("안 됩니다")


async def test_a_repeated_approval_without_a_request_id_does_not_decide_the_next_request(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"}), (tool.name, {"to": "이"})), FINAL_ANSWER)
    async with running(settings(), tools=[tool]) as aura, aura.stream("모두에게") as stream:
        first = WaitingRun(aura, stream, await stream.until("hitl"), tool, redis_client)
        for _ in range(3):
            first.publish_signal({"type": "approval", "status": "approved"})
        second = WaitingRun(aura, stream, await stream.until("hitl"), tool, redis_client)
        second.publish_signal({"type": "approval", "status": "approved"})
        second.store_signal({"type": "approval", "status": "approved"})
        second.publish_signal({"type": "approval", "status": "approved"})
        await eventually(lambda: aura.service.stores.decisions.ignored_signals >= 2)
        assert second.stored_request()["status"] == "pending"
        assert [ran["to"] for ran in tool.ran] == ["김"]
        await aura.decide("approve", second.request_id)
        assert (await stream.rest())[-2]["status"] == "completed"


async def test_a_signal_that_was_stored_before_the_first_request_does_not_decide_it(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})).model_copy(update={"hang_after": 0}), FINAL_ANSWER)
    async with running(settings(), tools=[tool]) as aura, aura.stream("메모") as stream:
        session_id = (await stream.until("start"))["sessionId"]
        redis_client.set(f"hitl:signal:{session_id}", json.dumps({"type": "approval"}), ex=300)
        await eventually(lambda: model.requests)
        model.release()
        run = WaitingRun(aura, stream, await stream.until("hitl"), tool, redis_client)
        run.publish_signal({"type": "wake up"})
        await eventually(lambda: aura.service.stores.decisions.ignored_signals == 1)
        assert tool.ran == []
        await aura.decide("approve", run.request_id)
        await run.expect_completed()


async def test_the_ids_of_requests_cannot_be_computed_from_what_others_see(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        saved = run.checkpoint()
        assert len(saved["seed"]) == 16
        guessed = {
            hashlib.sha256(json.dumps(f"{start}{run.session_id}:{saved['calls'][0]['id']}:{length}").encode())
            for length in range(5)
            for start in ("", ":")
        }
        assert run.request_id not in {f"req-{guess.hexdigest()[:12]}" for guess in guessed}
        await run.aura.decide("reject", run.request_id)


# --- AURA_DECISION_KEY ------------------------------------------------------------------------------------------------


def decided_by_java(run: WaitingRun, *, key: str = DECISION_KEY, **changes: Any) -> dict[str, Any]:
    """The fields that the Main Service writes, with its MAC; `changes` are made to them afterwards."""
    at = int(time.time() * 1000)
    values = (run.request_id, "approved", run.stored_request()["argumentsDigest"], "boss", at)
    mac = hmac.new(key.encode(), "\n".join(map(str, values)).encode(), hashlib.sha256).hexdigest()
    return {"status": "approved", "approvedBy": "boss", "approvedAt": at, "decisionMac": mac, **changes}


async def test_with_a_decision_key_the_main_services_mac_decides(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER, aura_decision_key=DECISION_KEY) as run:
        run.update_request(**decided_by_java(run))
        run.publish_signal({"type": "approval", "requestId": run.request_id, "status": "approved"})
        await run.expect_completed()
        decision = await decision_of(run)
        assert (decision["decided_by"], decision["via"], decision["decider_told"]) == ("boss", "redis", True)


FORGED: dict[str, Callable[[WaitingRun], dict[str, Any]]] = {
    "no MAC": lambda run: decided_by_java(run, decisionMac=None),
    "a MAC of another key": lambda run: decided_by_java(run, key="another key of thirty-two bytes and more"),
    "another decider": lambda run: decided_by_java(run, approvedBy="ceo"),
    "another verdict": lambda run: decided_by_java(run, status="rejected"),
    "another time": lambda run: decided_by_java(run, approvedAt=1),
    "a MAC that is no text": lambda run: decided_by_java(run, decisionMac={"a": 1}),
}


@pytest.mark.parametrize("forged", FORGED)
async def test_with_a_decision_key_nothing_else_in_redis_decides_and_http_still_does(
    waiting_run: StartWaitingRun, forged: str
) -> None:
    async with waiting_run(aura_decision_key=DECISION_KEY) as run:
        signal = {"type": "approval", "requestId": run.request_id, "status": "approved"}
        run.update_request(**FORGED[forged](run))
        run.store_signal(signal)
        run.publish_signal(signal)
        run.publish_signal({"type": "wake up"})
        await eventually(lambda: run.aura.service.stores.decisions.ignored_signals >= 1)
        path = f"/aura/approvals/{run.request_id}"
        shown = (await run.aura.client.get(path, headers=headers())).json()["data"]
        assert shown["status"] == "pending"
        rejected = await run.aura.decide("reject", run.request_id, reason="아니요")
        assert rejected.status_code == 200
        await run.expect_rejected("아니요")
        request = run.stored_request()
        assert (request["status"], request["rejectedBy"]) == ("rejected", "user1")
        assert "approvedBy" not in request
        assert "decisionMac" not in request


# --- what the approver sees is what runs ------------------------------------------------------------------------------

SHOWN: dict[str, Any] = {
    "context": {"to": "김", "text": "harmless"},
    "actionType": "read_note",
    "message": "메모를 읽으시겠습니까?",
    "tenantId": "tenant2",
    "userId": "thief",
    "sessionId": "session_thief_1_abcd",
    "requestId": "req-000000000000",
    "argumentsDigest": "0" * 64,
    "expiresAt": 9_999_999_999,
    "expiresAtMillis": 10**400,
    "position": 2,
    "mac": "A" * 32,
}


@pytest.mark.parametrize("field", SHOWN)
async def test_a_request_that_shows_something_else_is_not_run(waiting_run: StartWaitingRun, field: str) -> None:
    with capture_logs() as logs:
        async with waiting_run() as run:
            run.update_request(**{field: SHOWN[field]})
            shown = await run.aura.client.get(f"/aura/approvals/{run.request_id}", headers=headers())
            assert shown.status_code in (403, 404)  # to the tenant that the changed request names it is another's
            decided = await run.aura.decide("approve", run.request_id)
            assert decided.status_code in (403, 404)
            run.publish_signal({"type": "approval", "requestId": run.request_id, "status": "approved"})
            await expect_permission_error(run)
    (line,) = [line for line in logs if line["event"] == "record.changed" and line["log_level"] == "error"]
    assert (line["sessionId"], run.request_id in line["cause"]) == (run.session_id, True)


async def test_a_changed_request_ends_its_run_without_anybody_deciding(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        run.update_request(context={"to": "김"})
        await expect_permission_error(run)
        assert run.stored_request()["status"] == "cancelled"


async def test_a_request_without_its_mac_is_not_run(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        request = run.stored_request()
        del request["mac"]
        run.redis.set(f"hitl:request:{run.request_id}", json.dumps(request), keepttl=True)
        await expect_permission_error(run)


async def test_a_request_of_another_run_in_its_place_is_not_run(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})), calling((tool.name, {"to": "이"})))
    async with running(settings(), tools=[tool]) as aura, aura.stream("하나") as one, aura.stream("둘") as two:
        first = WaitingRun(aura, one, await one.until("hitl"), tool, redis_client)
        second = WaitingRun(aura, two, await two.until("hitl"), tool, redis_client)
        redis_client.set(f"hitl:request:{first.request_id}", json.dumps(second.stored_request()), keepttl=True)
        await expect_permission_error(first)
        await aura.decide("reject", second.request_id)


async def test_the_main_service_may_spell_a_request_otherwise(waiting_run: StartWaitingRun) -> None:
    arguments = {"to": "김 ü \u2028", "text": 'a"b\\c', "copies": 2}
    async with waiting_run(FINAL_ANSWER, arguments=arguments) as run:
        request = run.stored_request()
        spelled = dict(reversed(request.items())) | {"status": "approved", "approvedBy": "boss", "auditId": 5}
        run.redis.set(f"hitl:request:{run.request_id}", json.dumps(spelled, indent=2, ensure_ascii=True), ex=1800)
        await run.expect_completed()
        assert run.tool.ran == [arguments]


# --- the saved run ----------------------------------------------------------------------------------------------------


def _other_arguments(saved: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(THIEF, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    saved["calls"][0]["arguments"] = THIEF
    saved["pending_approvals"][0]["arguments_digest"] = digest
    return saved


CHANGED: dict[str, Callable[[dict[str, Any]], bytes | None]] = {
    "other arguments with their digest": lambda saved: json.dumps(_other_arguments(saved)).encode(),
    "no MAC": lambda saved: json.dumps({name: saved[name] for name in saved if name != "mac"}).encode(),
    "a MAC of another secret": lambda saved: seals(secret=OTHER_SECRET).checkpoints.seal_text(
        json.dumps({name: saved[name] for name in saved if name != "mac"}).encode()
    ),
    "the run of another session": lambda saved: sealed(
        {**saved, "request": {**saved["request"], "session_id": "session_user1_1_abcd"}}
    ),
    "a newer schema": lambda saved: json.dumps({**saved, "schema_version": 99}).encode(),
    "another prompt": lambda saved: json.dumps({**saved, "messages": [{"role": "user", "content": "x"}]}).encode(),
    "no JSON": lambda _: b"\xff",
    "an empty text": lambda _: b"",
    "deeply nested": lambda _: b"[" * 100_000,
    "deleted": lambda _: None,
}


def change(run: WaitingRun, how: str) -> None:
    (key,) = run.redis.keys(f"checkpoint:*{run.session_id}")
    changed = CHANGED[how](run.checkpoint())
    run.redis.delete(key)
    if changed is not None:
        run.redis.set(key, changed, ex=3600)


@pytest.mark.parametrize("how", CHANGED)
async def test_a_changed_checkpoint_runs_nothing_and_ends_well(waiting_run: StartWaitingRun, how: str) -> None:
    with capture_logs() as logs:
        async with waiting_run() as run:
            change(run, how)
            await run.aura.decide("approve", run.request_id)
            await expect_permission_error(run)
            assert (await record(run))["state"] == "failed"
    (line,) = [line for line in logs if line["event"] == "record.changed"]
    assert (line["sessionId"], run.session_id in line["cause"]) == (run.session_id, True)


async def test_what_others_wrote_into_a_checkpoint_does_not_reach_the_record_or_the_thread(
    waiting_run: StartWaitingRun,
) -> None:
    async with waiting_run() as run:
        change(run, "another prompt")
        shown = await run.aura.client.get(f"/aura/runs/{run.session_id}", headers=headers())
        assert (shown.status_code, shown.json()["errorCode"]) == (403, "E2001")
        await run.aura.decide("approve", run.request_id)
        await expect_permission_error(run)
        assert run.checkpoint()["messages"] != [{"role": "user", "content": "x"}]


async def test_a_changed_run_can_be_cancelled(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        change(run, "no JSON")
        cancelled = await run.aura.client.post(f"/aura/runs/{run.session_id}/cancel", headers=headers())
        assert cancelled.status_code == 202
        assert (await run.stream.rest())[-2]["status"] in ("cancelled", "failed")


@pytest.mark.parametrize("how", ["other arguments with their digest", "no JSON", "deleted"])
async def test_a_changed_checkpoint_is_ended_by_the_node_that_takes_the_run_over(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, how: str
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})))
    async with running(settings(), tools=[tool]) as gone, gone.stream("메모") as stream:
        run = WaitingRun(gone, stream, await stream.until("hitl"), tool, redis_client)
        session_id = run.session_id
    change(run, how)
    async with running(settings(), tools=[tool]) as heir:
        async with heir.client.stream(
            "GET", f"/aura/test/stream?sessionId={session_id}", headers=headers()
        ) as attached:
            text = "".join([part async for part in attached.aiter_text()])
        assert '"errorType":"PermissionError"' in text
        assert text.rstrip().endswith("data: [DONE]")
        assert tool.ran == []
        assert read_json(redis_client, keys.checkpoint(session_id))["state"] == "failed"


async def test_unsigned_runs_and_requests_are_read_where_a_setting_says_so(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER, aura_accept_unsigned=True) as run:
        change(run, "no MAC")
        request = {name: value for name, value in run.stored_request().items() if name != "mac"}
        run.redis.set(f"hitl:request:{run.request_id}", json.dumps(request), keepttl=True)
        assert (await run.aura.decide("approve", run.request_id)).status_code == 200
        await run.expect_completed()


async def test_where_unsigned_is_accepted_a_wrong_mac_is_not(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(aura_accept_unsigned=True) as run:
        change(run, "a MAC of another secret")
        await run.aura.decide("approve", run.request_id)
        await expect_permission_error(run)
