"""What the approver sees is what runs: warnings, all arguments, secrets, and bodies that can be read in two ways."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from app.settings import Settings
from tests.harness.approvals import FINAL_ANSWER, MakeSettings, StartWaitingRun
from tests.harness.clients import MAIL, mail_call
from tests.harness.frames import answer
from tests.harness.service import SECRET, headers, running
from tests.harness.tools import calling

BIDI = "invoice \u202egpj.exe"


def codes(holder: Any) -> list[tuple[str, str]]:
    return [(warning["code"], warning["field"]) for warning in holder["warnings"]]


async def test_warnings_are_in_the_event_in_the_stored_request_and_in_every_answer(
    waiting_run: StartWaitingRun,
) -> None:
    async with waiting_run(FINAL_ANSWER, arguments={"to": "김", "text": BIDI}) as run:
        expected = [("bidirectional", "text"), ("unseen_default", "copies")]
        assert codes(run.hitl) == codes(run.hitl["data"]) == codes(run.stored_request()) == expected
        assert "U+202E RIGHT-TO-LEFT OVERRIDE" in run.hitl["warnings"][0]["message"]
        request = (await run.aura.client.get(f"/aura/hitl/requests/{run.request_id}", headers=headers())).json()
        assert codes(json.loads(request["data"])) == expected
        pending = (await run.aura.client.get("/aura/hitl/pending", headers=headers())).json()["data"]["requests"]
        assert codes(pending[0]) == expected
        details = (await run.aura.client.get(f"/aura/runs/{run.session_id}", headers=headers())).json()["data"]
        assert codes(details["ledger"][0]) == codes(details["pendingApproval"]) == expected
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()


async def test_request_without_anything_odd_has_an_empty_list_of_warnings(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        assert run.hitl["warnings"] == run.stored_request()["warnings"] == []


async def test_defaults_that_run_are_shown(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER, arguments={"to": "김"}) as run:
        assert run.hitl["context"] == run.stored_request()["context"] == {"to": "김", "text": "", "copies": 1}
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()
        assert run.tool.ran == [run.hitl["context"]]


async def test_edit_of_the_approver_has_its_own_warnings(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER, arguments={"to": "김", "text": BIDI}) as run:
        edited = {"to": "김", "text": "pay\u200bload", "copies": 1}
        assert (await run.aura.decide("approve", run.request_id, params=edited)).status_code == 200
        await run.expect_completed()
        details = (await run.aura.client.get(f"/aura/runs/{run.session_id}", headers=headers())).json()["data"]
        assert codes(details["ledger"][0]) == [("invisible", "text")]


async def test_call_that_holds_a_secret_of_the_service_is_refused_to_the_model(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink
) -> None:
    """The card would show a mask, and the mail would hold the secret."""
    leak = {**MAIL, "body": f"The key is {SECRET}."}
    model.play(calling(("send_email", leak)), ScriptedTurn(text="보내지 않았습니다."))
    async with running(mailing) as aura, aura.stream("메일", headers=headers()) as stream:
        frames = await stream.rest()
    assert answer(frames) == "보내지 않았습니다."
    assert "hitl" not in [frame.type for frame in frames]
    refused = model.requests[-1]["messages"][-1]["content"]
    assert "the arguments hold a secret of this service" in refused
    assert SECRET not in "".join(frame.raw for frame in frames)
    assert mail.messages == []


async def test_secret_in_the_edit_of_an_approver_is_refused(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink
) -> None:
    model.play(mail_call(), ScriptedTurn(text="보냈습니다."))
    async with running(mailing) as aura, aura.stream("메일", headers=headers()) as stream:
        request_id = (await stream.until("hitl"))["requestId"]
        response = await aura.decide("approve", request_id, params={**MAIL, "body": SECRET})
        assert (response.status_code, response.json()["errorCode"]) == (400, "E4000")
        assert "a secret of this service" in response.json()["message"]
        assert (await aura.decide("approve", request_id)).status_code == 200
        await stream.rest()
    assert len(mail.messages) == 1


@pytest.mark.parametrize("edit", ["boss@dwp\u200b.test", "boss@dwр.test", '"boss@dwp.test"@evil.test'])
async def test_address_that_looks_like_another_is_refused_to_the_approver_too(
    mailing: Settings, model: ScriptedModelServer, edit: str
) -> None:
    model.play(mail_call())
    async with running(mailing) as aura, aura.stream("메일", headers=headers()) as stream:
        request_id = (await stream.until("hitl"))["requestId"]
        response = await aura.decide("approve", request_id, params={**MAIL, "to": [edit]})
        assert (response.status_code, response.json()["errorCode"]) == (400, "E4000")
        assert "params: to: Value error, address 1: " in response.json()["message"]


BODIES = {
    "approve": '{"userId":"user1","params":{"to":"김","to":"thief","text":"","copies":1}}',
    "approve ": '{"userId":"user1","params":{"to":"김"},"params":{"to":"thief"}}',
    "approve  ": '{"userId":"user1","params":{"t\\u006f":"김","to":"thief"}}',
    "reject": '{"userId":"user1","reason":"a","reason":"b"}',
}


@pytest.mark.parametrize(("verdict", "body"), BODIES.items(), ids=range(len(BODIES)))
async def test_decision_with_a_key_twice_is_refused_and_decides_nothing(
    waiting_run: StartWaitingRun, verdict: str, body: str
) -> None:
    async with waiting_run() as run:
        path = f"/aura/hitl/{verdict.strip()}/{run.request_id}"
        sent = {**headers(), "Content-Type": "application/json"}
        response = await run.aura.client.post(path, content=body.encode(), headers=sent)
        assert (response.status_code, response.json()["errorCode"]) == (400, "E1001")
        assert "occurs more than once" in response.json()["message"]
        assert run.stored_request()["status"] == "pending"


async def test_body_that_can_be_read_in_two_ways_is_refused_on_every_route_with_a_body(settings: MakeSettings) -> None:
    twice = b'{"prompt":"a","prompt":"b","code":"a","code":"b","userId":"user1","userId":"user1"}'
    async with running(settings(aura_console=True)) as aura:
        document = (await aura.client.get("/openapi.json")).json()
        paths = [
            (method, path)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if isinstance(operation, dict) and "requestBody" in operation
        ]
        assert len(paths) >= 3
        for method, path in paths:
            address = re.sub(r"\{\w+\}", "req-1", path)
            sent = {**headers(), "Content-Type": "application/json", "Accept": "application/json"}
            response = await aura.client.request(method, address, content=twice, headers=sent)
            if response.status_code != 404:  # the route of one-time codes exists in the demo only
                assert (response.status_code, response.json()["errorCode"]) == (400, "E1001"), path


async def test_field_under_two_names_with_different_values_is_refused(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        body = {"userId": "user1", "user_id": "boss"}
        response = await run.aura.client.post(f"/aura/hitl/approve/{run.request_id}", json=body, headers=headers())
        assert (response.status_code, response.json()["errorCode"]) == (400, "E4000")
        assert "userId: it is sent again as user_id" in response.json()["message"]
        assert run.stored_request()["status"] == "pending"
