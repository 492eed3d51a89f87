"""Listing and reading runs, and threads: the model receives the earlier turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from tests.harness.frames import Frame, answer
from tests.harness.service import STREAM, Aura, headers, running
from tests.harness.tools import NoteTool, calling, risky


async def _run(aura: Aura, prompt: str, user: str = "user1", **body: Any) -> list[Frame]:
    async with aura.stream(body={"prompt": prompt, **body}, headers=headers(user)) as stream:
        return await stream.rest()


async def _get(aura: Aura, path: str, as_: dict[str, str] | None = None, **params: Any) -> Any:
    response = await aura.client.get(path, headers=as_ or headers(), params=params)
    assert response.status_code == 200, response.text
    return response.json()["data"]


async def test_callers_list_their_own_runs_and_approvers_those_of_the_tenant(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(*(ScriptedTurn(text=f"답 {n}") for n in range(4)))
    boss = headers("boss", role="approver")
    async with running(settings()) as aura:
        for prompt in ("첫째", "둘째", "셋째"):
            await _run(aura, prompt)
        await _run(aura, "남의 것", user="user2")
        assert [run["promptHead"] for run in (await _get(aura, "/aura/runs"))["runs"]] == ["셋째", "둘째", "첫째"]
        assert len((await _get(aura, "/aura/runs", boss))["runs"]) == 4
        assert (await _get(aura, "/aura/runs", boss, scope="own"))["runs"] == []
        assert (await _get(aura, "/aura/runs", headers("x", "tenant2", "admin")))["runs"] == []
        page = await _get(aura, "/aura/runs", limit=2)
        rest = await _get(aura, "/aura/runs", limit=2, offset=page["nextOffset"])
    assert [run["promptHead"] for run in page["runs"] + rest["runs"]] == ["셋째", "둘째", "첫째"]
    assert "nextOffset" not in rest


async def test_runs_are_filtered_by_state_and_invalid_filters_are_named(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="답"), calling(("send_note", {"to": "kim"})))
    async with running(settings(), tools=[risky()]) as aura:
        await _run(aura, "바로")
        async with aura.stream("메모") as stream:
            hitl = await stream.until("hitl")
            waiting = (await _get(aura, "/aura/runs", state="awaiting_approval"))["runs"]
            (pending,) = (await _get(aura, "/aura/hitl/pending"))["requests"]
            for path, name in (("?state=asleep", "state"), ("?limit=0", "limit"), ("?offset=x", "offset")):
                rejected = (await aura.client.get(f"/aura/runs{path}", headers=headers())).json()
                assert (rejected["errorCode"], name in rejected["message"]) == ("E4000", True)
    assert [run["promptHead"] for run in waiting] == ["메모"]
    assert pending["requestId"] == waiting[0]["pendingApproval"]["requestId"] == hitl["requestId"]
    assert pending["context"] == {"to": "kim", "text": "", "copies": 1}
    assert 290 < pending["secondsLeft"] <= 300


async def test_agent_metadata_of_a_run_has_its_steps_as_the_platform_knows_them(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    steps = [
        {"id": "s1", "title": "찾기", "status": "completed", "confidence": 0.9},
        {"id": "s2", "title": "쓰기", "status": "in_progress", "confidence": 0.7},
    ]
    model.play(
        calling(("update_plan", {"steps": steps}), ("write_note", {"to": "kim"})), ScriptedTurn(text="썼습니다.")
    )
    model.play(ScriptedTurn(text="네"))
    async with running(settings(), tools=[NoteTool()]) as aura:
        for has_plan in (True, False):
            session_id = (await _run(aura, "메모"))[0]["sessionId"]
            envelope = (await aura.client.get(f"/aura/runs/{session_id}", headers=headers())).json()
            metadata = envelope["agentMetadata"]
            assert metadata["traceId"] == envelope["data"]["traceId"]
            state = {"sessionId": session_id, "state": "done", "turn": 2 if has_plan else 1}
            assert metadata["additionalData"] == {**state, "progress": 1.0 if has_plan else 0.0}
            assert metadata.get("confidence") == (0.7 if has_plan else None)
            shown = [(step["id"], step["title"], step["status"], step["confidence"]) for step in metadata["steps"]]
            expected = [("s1", "찾기", "completed", 0.9), ("s2", "쓰기", "completed", 0.7)]
            assert shown == (expected if has_plan else [])
        assert "agentMetadata" not in (await aura.client.get("/aura/runs", headers=headers())).json()


async def test_run_details_have_tool_calls_usage_and_answer(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(calling(("write_note", {"to": "kim", "text": "안녕"})), ScriptedTurn(text="썼습니다."))
    async with running(settings(), tools=[NoteTool()]) as aura:
        frames = await _run(aura, "메모를 써 줘")
        run = await _get(aura, f"/aura/runs/{frames[0]['sessionId']}")
        other = await aura.client.get(f"/aura/runs/{frames[0]['sessionId']}", headers=headers("user2"))
        missing = await aura.client.get("/aura/runs/no-such-run", headers=headers())
    (call,) = run["ledger"]
    assert (call["toolName"], call["status"], call["result"]) == ("write_note", "completed", {"written": "안녕"})
    assert call["startedAt"] <= call["endedAt"]
    assert (run["state"], run["answer"], run["turn"]) == ("done", "썼습니다.", 2)
    assert run["usage"]["totalTokens"] == run["spentTokens"] > 0
    assert "cachedTokens" not in run["usage"], "the server reported none"
    assert [(turn["turn"], turn["attempt"], turn["outcome"]) for turn in run["modelTurns"]] == [
        (1, 1, "tools"),
        (2, 1, "answer"),
    ]
    assert [step["dest"] for step in run["path"]] == ["tool", "planning", "content", "done"]
    assert (other.status_code, missing.status_code) == (403, 404)


async def test_thread_contains_its_own_earlier_turns_only(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(*(ScriptedTurn(text=f"답 {n}") for n in range(1, 5)))
    async with running(settings()) as aura:
        await _run(aura, "내 이름은 김하나", thread_id="t-1")
        await _run(aura, "다른 이야기", thread_id="t-2")
        await _run(aura, "내 이름은?", thread_id="t-1")
        await _run(aura, "남의 실", user="user2", thread_id="t-1")
    messages = [[(m["role"], m["content"]) for m in request["messages"][1:]] for request in model.requests]
    assert messages[2] == [("user", "내 이름은 김하나"), ("assistant", "답 1"), ("user", "내 이름은?")]
    assert messages[3] == [("user", "남의 실")]


async def test_thread_history_is_limited_to_complete_turns(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(*(ScriptedTurn(text="답 " * 100) for _ in range(3)))
    async with running(settings(aura_thread_tokens=200)) as aura:
        for n in range(3):
            await _run(aura, f"질문 {n}", thread_id="t-1")
    assert [m["content"] for m in model.requests[2]["messages"] if m["role"] == "user"] == ["질문 1", "질문 2"]


async def test_repeated_request_attaches_to_its_run_that_waits_for_approval(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(calling(("send_note", {"to": "kim"})), ScriptedTurn(text="보냈습니다."))
    body, key = {"prompt": "메모", "thread_id": "t-1"}, {"Idempotency-Key": "k-1"}
    async with running(settings(), tools=[risky()]) as aura:
        async with aura.stream(body=body, headers=headers(**key)) as stream:
            hitl = await stream.until("hitl")
            async with aura.stream(body=body, headers=headers(**key)) as again:
                assert (await again.until("hitl"))["requestId"] == hitl["requestId"]
                other = await aura.client.post(STREAM, json=body, headers=headers(**{"Idempotency-Key": "k-2"}))
                assert other.status_code == 409
                await aura.decide("approve", hitl["requestId"])
                assert answer(await again.rest()) == "보냈습니다."


async def test_second_prompt_of_a_waiting_thread_is_a_409_with_the_request_id(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(calling(("send_note", {"to": "kim"})), ScriptedTurn(text="보냈습니다."), ScriptedTurn(text="네."))
    async with running(settings(), tools=[risky()]) as aura:
        async with aura.stream(body={"prompt": "메모", "thread_id": "t-1"}) as stream:
            hitl = await stream.until("hitl")
            async with aura.stream(body={"prompt": "그리고", "thread_id": "t-1"}) as second:
                rejected = await second.rest()
            await aura.decide("approve", hitl["requestId"])
            assert answer(await stream.rest()) == "보냈습니다."
        assert (second.response.status_code, hitl["requestId"] in rejected[0]["message"]) == (409, True)
        assert answer(await _run(aura, "그리고", thread_id="t-1")) == "네."
    roles = [message["role"] for message in model.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert json.loads(model.requests[-1]["messages"][3]["content"]) == {"written": ""}
