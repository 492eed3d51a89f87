"""Three generations of browser readers read a run and approve its request; the names that a stream may have (§2.2)."""

from __future__ import annotations

from typing import Any

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.frames import DONE, Frame, types
from tests.harness.raw import LONG_TEXT, MakeSettings, RawStream, read_stream
from tests.harness.readers import AgentHook, MiniOverlay, Reader, WorkspacePage, read_to_the_end, read_until_asked
from tests.harness.service import STREAM, Aura, headers, running
from tests.harness.tools import calling, risky

ARGUMENTS = {"to": "김", "text": "안녕하세요", "copies": 1}
NAMES_OF_OURS = {"start", "thought", "tool_execution", "hitl", "end"}
FINAL_STATUSES = ("completed", "failed", "rejected")


def play_call(model: ScriptedModelServer) -> None:
    model.play(calling(("send_note", {"to": "김", "text": "안녕하세요"}), reasoning="먼저 생각합니다"))


def play_note(model: ScriptedModelServer) -> None:
    play_call(model)
    model.play(ScriptedTurn(text=[LONG_TEXT]))


@pytest.mark.parametrize("shape", ["both", "nested"])
async def test_the_first_reader_approves_and_shows_the_answer_once(
    settings: MakeSettings, model: ScriptedModelServer, shape: str
) -> None:
    play_note(model)
    page, tool = MiniOverlay(), risky()
    async with running(settings(aura_event_shape=shape), tools=[tool]) as aura:
        await _approve(aura, page)
    assert page.answer == LONG_TEXT
    assert (page.shown["action"], page.shown["params"]) == ("send_note", ARGUMENTS)
    assert tool.ran == [ARGUMENTS]


@pytest.mark.parametrize("shape", ["both", "flat"])
async def test_the_second_reader_appends_nothing_but_the_answer_across_a_broken_connection(
    settings: MakeSettings, model: ScriptedModelServer, shape: str
) -> None:
    play_note(model)
    page, tool = AgentHook(), risky()
    async with running(settings(aura_event_shape=shape), tools=[tool]) as aura:
        async with aura.stream(body={"prompt": "메모", "context": {"timestamp": 1}}) as stream:
            request_id = await read_until_asked(page, stream)
            session_id = stream.response.headers["X-Session-ID"]
        await aura.decide("approve", request_id)
        again: dict[str, Any] = {"prompt": "메모", "context": {"timestamp": 2}}
        resuming = headers(**{"Last-Event-ID": str(page.last_event_id), "X-Session-ID": session_id})
        async with aura.stream(body=again, headers=resuming) as stream:
            await read_to_the_end(page, stream)
    assert page.answer == LONG_TEXT
    assert tool.ran == [ARGUMENTS]


@pytest.mark.parametrize("shape", ["both", "flat", "nested"])
async def test_the_third_reader_approves_by_its_own_names(
    settings: MakeSettings, model: ScriptedModelServer, shape: str
) -> None:
    play_note(model)
    page, tool = WorkspacePage(), risky()
    async with running(settings(aura_event_shape=shape), tools=[tool]) as aura:
        frames = await _approve(aura, page)
    assert page.answer == LONG_TEXT
    assert tool.ran == [ARGUMENTS]
    assert page.unknown == set()
    assert not NAMES_OF_OURS & set(types(frames))
    (asked,) = page.requests.values()
    assert (asked["action"], asked["params"]) == ("send_note", ARGUMENTS)
    assert asked["stepId"] in page.rows
    assert asked["message"] == "김에게 메모를 보내시겠습니까?"
    assert page.thoughts[0] == ("analysis", "사용자의 요청을 분석하고 있습니다...")
    assert page.thoughts[1][0] == "reasoning"
    assert [action["status"] for action in page.actions] == ["executing", "completed"]
    assert {action["tool"] for action in page.actions} == {"send_note"}
    assert page.actions[-1]["result"] == {"written": "안녕하세요"}
    assert page.statuses == ["started", "completed"]
    assert page.rows[asked["stepId"]]["status"] == "completed"


async def test_the_third_reader_sees_a_rejected_call_as_failed(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    play_call(model)
    page, tool = WorkspacePage(), risky()
    async with running(settings(), tools=[tool]) as aura:
        async with aura.stream("메모", params=page.query) as stream:
            await aura.decide("reject", await read_until_asked(page, stream), reason="보내지 마세요")
            frames = await read_to_the_end(page, stream)
    assert [(action["status"], action["error"]) for action in page.actions] == [("failed", "보내지 마세요")]
    assert page.errors == ["보내지 마세요"]
    assert page.statuses == ["started", "rejected"]
    assert types(frames)[-3:] == ["error", "stream_status", DONE]
    assert tool.ran == []


async def test_every_reader_gets_the_same_ids_in_the_same_order_and_resumes_with_them(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    play_note(model)
    async with running(settings(), tools=[risky()]) as aura:
        page = WorkspacePage()
        frames = await _approve(aura, page)
        session_id = frames[0]["sessionId"]
        ours = await _attach(aura, sessionId=session_id)
        ids = {frame.id: frame.type for frame in frames}
        pending = [frame for frame in ours if frame.type == "tool_execution" and frame["status"] == "pending"]
        assert [frame.id for frame in ours if frame not in pending] == list(ids)
        assert len(pending) == 1
        for place in (0, 4, len(frames) - 2):
            rest = await _attach(aura, last=frames[place].id, sessionId=session_id, events="workspace")
            assert [frame.raw for frame in rest] == [frame.raw for frame in frames[place + 1 :]]
        after_pending = await _attach(aura, last=pending[0].id, sessionId=session_id, events="workspace")
        first = ours[ours.index(pending[0]) + 1]
        assert after_pending[0].id == first.id, "an id that this reader never got resumes its stream too"


async def test_frames_of_one_call_share_their_ids_and_the_last_one_has_a_final_status(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    calls = [("send_note", {"to": name}) for name in ("김", "이", "박")]
    model.play(calling(*calls))
    async with running(settings(), tools=[risky()]) as aura:
        async with aura.stream("메모") as stream:
            await aura.decide("approve", (await stream.until("hitl"))["requestId"])
            await aura.decide("reject", (await stream.until("hitl"))["requestId"], reason="아니요")
            frames = [frame for frame in await stream.rest() if frame.type == "tool_execution"]
    statuses: dict[str, list[str]] = {}
    for frame in frames:
        assert frame["stepId"] == frame["toolCallId"] == frame["data"]["stepId"]
        statuses.setdefault(frame["toolCallId"], []).append(frame["status"])
    assert len(statuses) == len(calls)
    assert all(seen[-1] in FINAL_STATUSES for seen in statuses.values()), statuses
    assert {seen[-1] for seen in statuses.values()} == {"completed", "rejected"}


# --- choosing the names -----------------------------------------------------------------------------------------------


async def test_the_service_may_send_the_workspace_names_to_all_who_ask_for_no_others(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="네."), ScriptedTurn(text="네."))
    async with running(settings(aura_event_names="workspace")) as aura:
        _, frames = await read_stream(aura)
        assert types(frames)[0] == types(frames)[-2] == "stream_status"
        assert types(await _attach(aura))[0] == "stream_status"
        _, ours = await read_stream(aura, params={"events": "aura"})
        assert (types(ours)[0], types(ours)[-2]) == ("start", "end")
        refused = await aura.client.post(STREAM, json={"prompt": ""}, headers=headers())
    assert (refused.status_code, "event: stream_status" in refused.text) == (400, True)


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize(
    ("query", "choices"), [({"events": "flat"}, "'aura' or 'workspace'"), ({"errorEvent": "x"}, "'error' or 'aura-err")]
)
async def test_an_unknown_name_is_refused_with_the_choices_and_starts_nothing(
    settings: MakeSettings, model: ScriptedModelServer, method: str, query: dict[str, str], choices: str
) -> None:
    body = {"prompt": "메모"} if method == "POST" else None
    async with running(settings()) as aura:
        accepts = headers(Accept="application/json")
        refused = await aura.client.request(method, STREAM, params=query, headers=accepts, json=body)
        assert (refused.status_code, refused.json()["errorCode"]) == (400, "E4000")
        assert next(iter(query)) in refused.json()["message"]
        assert choices in refused.json()["message"]
        assert (await aura.client.get("/aura/runs", headers=headers())).json()["data"]["runs"] == []
    assert model.requests == []


async def test_event_source_gets_errors_under_a_name_that_is_not_its_own(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(status=400))
    async with running(settings()) as aura:
        _, frames = await read_stream(aura, params={"errorEvent": "aura-error"})
        assert types(frames)[-3:] == ["aura-error", "end", DONE]
        assert frames[-3]["type"] == "error"
        assert types(await _attach(aura))[-3:] == ["error", "end", DONE]
        query = {"errorEvent": "aura-error", "events": "workspace"}
        refused = await aura.client.get(STREAM, params={**query, "sessionId": "none"}, headers=headers())
        assert refused.status_code == 404
        assert [line for line in refused.text.split("\n") if line.startswith("event:")] == [
            "event: aura-error",
            "event: stream_status",
        ]
        assert refused.text.endswith("data: [DONE]\n\n")


@pytest.mark.slow
async def test_a_run_that_is_refused_before_it_is_parsed_has_the_names_that_it_asks_for(
    settings: MakeSettings,
) -> None:
    async with running(settings()) as aura:
        path = f"{STREAM}?events=workspace&errorEvent=aura-error"
        lengths: dict[str, Any] = {"Transfer-Encoding": "chunked"}  # besides a Content-Length
        stream = await RawStream.post_to(aura, path, {}, **lengths)
        chunks = await stream.rest()
    assert stream.status == 400
    assert [chunk.split(b"\n")[1] for chunk in chunks] == [
        *(b"event: aura-error", b"event: stream_status", b"data: [DONE]"),
    ]


async def _approve(aura: Aura, page: Reader) -> list[Frame]:
    """Start a run as this page does, approve what it shows, and read to the end."""
    async with aura.stream("메모", params=page.query) as stream:
        decided = await aura.decide("approve", await read_until_asked(page, stream))
        assert decided.status_code == 200
        return await read_to_the_end(page, stream)


async def _attach(aura: Aura, *, last: int | None = None, **query: Any) -> list[Frame]:
    resuming = headers() if last is None else headers(**{"Last-Event-ID": str(last)})
    async with aura.stream(method="GET", params=query, headers=resuming) as stream:
        return await stream.rest()
