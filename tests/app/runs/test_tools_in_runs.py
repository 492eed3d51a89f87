"""Tools in runs (CONTRACT §4): concurrent or one by one, timeouts, and what clients, the model and the record get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from app.bootstrap import create_app
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ConfigurationError, ToolError
from app.settings import Settings
from tests.harness.frames import Frame, answer, check, types
from tests.harness.service import SECRET, Aura, running
from tests.harness.stored import checkpoint
from tests.harness.tools import NoteArguments, NoteTool, calling, risky

MakeSettings = Callable[..., Settings]
KEY = "test-key-0123456789"
FINAL_ANSWER = ScriptedTurn(text="끝났습니다.")


async def whole(aura: Aura) -> list[Frame]:
    async with aura.stream("해주세요") as stream, asyncio.timeout(30):
        frames = await stream.rest()
    check(frames)
    return frames


def executions(frames: list[Frame], call_id: str | None = None) -> list[Frame]:
    found = [frame for frame in frames if frame.type == "tool_execution"]
    return [frame for frame in found if call_id in (None, frame["toolCallId"])]


async def test_safe_calls_of_one_turn_run_at_the_same_time(settings: MakeSettings, model: ScriptedModelServer) -> None:
    """Each call waits for the other one, so running them one after the other would never end."""
    meeting = asyncio.Barrier(3)

    async def work(arguments: NoteArguments) -> str:
        async with asyncio.timeout(30):
            await meeting.wait()
        return arguments.to

    tool = NoteTool(work=work)
    model.play(calling(*((tool.name, {"to": name}) for name in "가나다")), FINAL_ANSWER)
    async with running(settings(), tools=[tool]) as aura:
        frames = await whole(aura)
    assert frames[-2]["status"] == "completed"
    assert [frame["status"] for frame in executions(frames)] == ["executing"] * 3 + ["completed"] * 3
    messages = model.requests[1]["messages"]
    results = {message["tool_call_id"]: message["content"] for message in messages if message["role"] == "tool"}
    assert results == {"call_1": "가", "call_2": "나", "call_3": "다"}


async def test_a_fast_call_is_shown_before_its_slow_sibling_ends(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    go_on = asyncio.Event()

    async def slow(_: NoteArguments) -> str:
        await go_on.wait()
        return "늦게"

    model.play(calling(("slow", {"to": "가"}), ("fast", {"to": "나"})), FINAL_ANSWER)
    async with (
        running(settings(), tools=[NoteTool("slow", slow), NoteTool("fast")]) as aura,
        aura.stream("해주세요") as stream,
        asyncio.timeout(30),
    ):
        done = await stream.until("tool_execution", lambda frame: frame["status"] == "completed")
        assert done["toolName"] == "fast"
        go_on.set()
        frames = await stream.rest()
    check(frames)
    assert [frame["toolName"] for frame in executions(frames) if frame["status"] == "completed"] == ["fast", "slow"]


async def test_safe_calls_run_before_risky_ones_are_put_to_approval(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    safe, dangerous = NoteTool(), risky()
    model.play(calling((dangerous.name, {"to": "김"}), (safe.name, {"to": "이"})), FINAL_ANSWER)
    async with running(settings(), tools=[safe, dangerous]) as aura, aura.stream("해주세요") as stream:
        hitl = await stream.until("hitl")
        assert (len(safe.ran), len(dangerous.ran)) == (1, 0)
        assert hitl["stepId"] == "call_1"
        await aura.decide("approve", hitl["requestId"])
        frames = await stream.rest()
    check(frames)
    assert [frame["status"] for frame in executions(frames, "call_1")] == ["pending", "executing", "completed"]
    assert [frame["requiresApproval"] for frame in executions(frames)] == [False, False, True, True, True]
    called = model.requests[1]["messages"][-3]["tool_calls"]
    assert [call["id"] for call in called] == ["call_1", "call_2"]
    assert {message["tool_call_id"] for message in model.requests[1]["messages"][-2:]} == {"call_1", "call_2"}


async def test_without_a_plan_the_steps_are_the_tool_calls(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(calling(("write_note", {"to": "김"})), FINAL_ANSWER)
    async with running(settings(), tools=[NoteTool()]) as aura:
        frames = await whole(aura)
    (step,) = [frame for frame in frames if frame.type == "plan_step"]
    assert step["stepId"] == step["id"] == "call_1"
    assert (step["title"], step["status"], step["order"]) == ("제목 write_note", "pending", 1)
    assert (step["confidence"], step["confidenceSource"]) == (0.5, "none")
    updates = [(frame["status"], frame["progress"]) for frame in frames if frame.type == "plan_step_update"]
    assert updates == [("in_progress", 0.5), ("completed", 1.0)]


async def test_a_declared_plan_becomes_steps_and_never_a_tool_execution(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    plan: list[dict[str, Any]] = [
        {"id": "a", "title": "읽기", "description": "먼저 읽는다", "confidence": 0.9, "status": "in_progress"},
        {"id": "b", "title": "쓰기"},
    ]
    after = [{**plan[0], "status": "completed"}, {"id": "b", "title": "쓰기", "status": "in_progress"}]
    model.play(
        calling(("update_plan", {"steps": plan})),
        calling(("update_plan", {"steps": after}), ("write_note", {"to": "김"})),
        FINAL_ANSWER,
    )
    async with running(settings(), tools=[NoteTool()]) as aura:
        frames = await whole(aura)
    steps = [frame for frame in frames if frame.type == "plan_step"]
    assert [(step["stepId"], step["title"], step["status"], step["order"]) for step in steps] == [
        ("a", "읽기", "in_progress", 1),
        ("b", "쓰기", "pending", 2),
    ]
    assert [(step["confidence"], step["confidenceSource"]) for step in steps] == [(0.9, "model"), (0.5, "none")]
    updates = [(frame["stepId"], frame["status"]) for frame in frames if frame.type == "plan_step_update"]
    assert updates == [("a", "completed"), ("b", "in_progress"), ("b", "completed")]
    assert {frame["toolName"] for frame in executions(frames)} == {"write_note"}
    assert answer(frames) == "끝났습니다."
    offered = [tool["function"]["name"] for tool in model.requests[0]["tools"]]
    assert offered == ["write_note", "update_plan"]
    assert "tool_choice" not in model.requests[0]


async def test_an_invalid_plan_is_reported_to_the_model_only(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(calling(("update_plan", {"steps": []})), FINAL_ANSWER)
    async with running(settings(), tools=[]) as aura:
        frames = await whole(aura)
    assert frames[-2]["status"] == "completed"
    assert executions(frames) == []
    assert "steps" in model.requests[1]["messages"][-1]["content"]


async def test_a_slow_tool_times_out_and_the_run_continues(settings: MakeSettings, model: ScriptedModelServer) -> None:
    stopped = asyncio.Event()

    async def work(_: NoteArguments) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    model.play(calling(("write_note", {"to": "김"})), FINAL_ANSWER)
    async with running(settings(aura_tool_timeout_seconds=0.1), tools=[NoteTool(work=work)]) as aura:
        frames = await whole(aura)
    assert stopped.is_set()
    assert frames[-2]["status"] == "completed"
    ended = executions(frames)[-1]
    assert (ended["status"], ended["result"]) == ("failed", None)
    assert "0.1 s" in ended["error"]
    assert "0.1 s" in model.requests[1]["messages"][-1]["content"]
    (step,) = [frame for frame in frames if frame.type == "plan_step_update"][-1:]
    assert step["status"] == "failed"


@pytest.mark.parametrize(
    ("error", "expected_text"),
    [
        (ToolError("no such mailbox"), "no such mailbox"),
        (RuntimeError(f"password {SECRET} in /etc/app.py"), "RuntimeError"),
        (KeyError("internal"), "KeyError"),
        (TimeoutError("inner"), "TimeoutError"),
        (asyncio.CancelledError(), "CancelledError"),
    ],
)
async def test_a_failing_tool_fails_its_call_and_the_run_continues(
    settings: MakeSettings, model: ScriptedModelServer, error: BaseException, expected_text: str
) -> None:
    async def work(_: NoteArguments) -> None:
        raise error

    model.play(calling(("write_note", {"to": "김"})), FINAL_ANSWER)
    async with running(settings(), tools=[NoteTool(work=work)]) as aura:
        frames = await whole(aura)
    assert frames[-2]["status"] == "completed"
    ended = executions(frames)[-1]
    assert ended["status"] == "failed"
    assert expected_text in ended["error"]
    seen = "".join(frame.raw for frame in frames) + json.dumps(model.requests)
    assert "Traceback" not in seen
    assert "/etc/app.py" not in seen


async def test_a_failing_call_does_not_stop_its_sibling(settings: MakeSettings, model: ScriptedModelServer) -> None:
    async def work(arguments: NoteArguments) -> str:
        if arguments.to == "나쁜":
            raise RuntimeError
        await asyncio.sleep(0)
        return "됨"

    model.play(calling(("write_note", {"to": "나쁜"}), ("write_note", {"to": "좋은"})), FINAL_ANSWER)
    async with running(settings(), tools=[NoteTool(work=work)]) as aura:
        frames = await whole(aura)
    assert [executions(frames, f"call_{number}")[-1]["status"] for number in (1, 2)] == ["failed", "completed"]


async def test_a_big_result_is_cut_in_the_frame_and_for_the_model_and_whole_in_the_record_and_arguments_are_whole(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    result = {"rows": [{"name": f"항목 {number}", "text": "가나다" * 20} for number in range(300)]}

    async def work(_: NoteArguments) -> Any:
        return result

    model.play(calling(("write_note", {"to": "김", "text": "라" * 3000})), FINAL_ANSWER)
    async with running(settings(aura_tool_result_bytes=4096), tools=[NoteTool(work=work)]) as aura:
        frames = await whole(aura)
    started, done = executions(frames)
    for frame in (started, done):
        assert frame["toolArgs"] == frame["data"]["parameters"] == {"to": "김", "text": "라" * 3000, "copies": 1}
    assert "truncated" not in started.data
    assert (done["status"], done["truncated"]) == ("completed", True)
    assert done["result"].startswith('{"rows":[{"name":"항목 0"')
    assert 16_000 < len(done["result"].encode()) <= 16 * 1024
    (call,) = checkpoint(redis_client)["calls"]
    assert call["result"] == result
    assert call["arguments"]["text"] == "라" * 3000
    answer_to_model = model.requests[1]["messages"][-1]["content"]
    assert len(answer_to_model.encode()) <= 4096
    assert "truncated" in answer_to_model


async def test_a_small_result_is_not_marked(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(calling(("write_note", {"to": "김"})), FINAL_ANSWER)
    async with running(settings(), tools=[NoteTool()]) as aura:
        frames = await whole(aura)
    assert executions(frames)[-1]["result"] == {"written": ""}
    assert all("truncated" not in frame.data for frame in executions(frames))


async def test_long_arguments_of_a_risky_call_are_shown_whole_to_the_approver(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    text = "긴 글 " * 7400  # 59 KB, of the 64 KiB that arguments may have
    model.play(calling(("send_note", {"to": "김", "text": text})))
    async with running(settings(), tools=[risky()]) as aura, aura.stream("해주세요") as stream:
        hitl = await stream.until("hitl")
        assert hitl["params"]["text"] == hitl["data"]["context"]["text"] == text
        await aura.decide("reject", hitl["requestId"])
        check(await stream.rest())


async def test_settings_can_add_the_need_for_approval_but_not_take_it_away(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    safe, dangerous = NoteTool(), risky()
    model.play(calling((safe.name, {"to": "김"})), calling((dangerous.name, {"to": "이"})), FINAL_ANSWER)
    async with (
        running(settings(aura_approval_required="write_note"), tools=[safe, dangerous]) as aura,
        aura.stream("해주세요") as stream,
    ):
        for name, ran in (("write_note", safe.ran), ("send_note", dangerous.ran)):
            hitl = await stream.until("hitl")
            assert (hitl["actionType"], ran) == (name, [])
            await aura.decide("approve", hitl["requestId"])
        frames = await stream.rest()
    assert frames[-2]["status"] == "completed"
    assert (len(safe.ran), len(dangerous.ran)) == (1, 1)


def test_an_unknown_tool_in_approval_required_stops_the_start(settings: MakeSettings) -> None:
    with pytest.raises(ConfigurationError, match=r"AURA_APPROVAL_REQUIRED.*send_mial"):
        create_app(settings(aura_approval_required="send_mial"))
    create_app(settings(aura_approval_required="send_email"))  # not configured here, but it exists


async def test_secrets_in_results_reach_neither_clients_nor_model_nor_record(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async def work(_: NoteArguments) -> Any:
        return {"environment": f"OPENAI_API_KEY={KEY} JWT={SECRET}", KEY: [KEY]}

    model.play(calling(("write_note", {"to": "김"})), FINAL_ANSWER)
    async with running(settings(), tools=[NoteTool(work=work)]) as aura:
        frames = await whole(aura)
    seen = "".join(frame.raw for frame in frames) + json.dumps(model.requests, ensure_ascii=False)
    seen += "".join(str(redis_client.get(key)) for key in redis_client.keys("checkpoint:*"))
    assert KEY not in seen
    assert SECRET not in seen
    assert "OPENAI_API_KEY=" in seen


async def test_only_configured_tools_are_offered(settings: MakeSettings, model: ScriptedModelServer) -> None:
    def offered(request: dict[str, Any]) -> list[str]:
        return [tool["function"]["name"] for tool in request["tools"]]

    model.play(FINAL_ANSWER, FINAL_ANSWER)
    async with running(settings()) as aura:
        await whole(aura)
    everything: dict[str, Any] = {"smtp_host": "localhost", "smtp_from": "a@b.c", "github_token": "ghp_0123456789"}
    async with running(settings(**everything)) as aura:
        await whole(aura)
    assert offered(model.requests[0]) == ["get_current_time", "search_workspace", "update_plan"]
    assert offered(model.requests[1]) == [
        "get_current_time",
        "send_email",
        "github_get_pr",
        "github_create_pr",
        "search_workspace",
        "update_plan",
    ]


async def test_text_before_tool_calls_is_a_thought_and_text_shown_too_early_stays_an_answer(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    many = ["글 "] * 80  # over the 64 deltas that are held back
    model.play(
        calling(("write_note", {"to": "김"}), text_before_tools=["먼저 봅니다."]),
        calling(("write_note", {"to": "이"}), text_before_tools=many),
        FINAL_ANSWER,
    )
    async with running(settings(), tools=[NoteTool()]) as aura:
        frames = await whole(aura)
    thoughts = [frame["content"] for frame in frames if frame.type == "thought"]
    assert thoughts[1] == "먼저 봅니다."
    assert answer(frames).endswith("끝났습니다.")
    assert frames[-2]["status"] == "completed"
    assert types(frames).count("end") == 1


async def test_arguments_beyond_64_kib_are_refused_to_the_model(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(calling(("send_note", {"to": "김", "text": "x" * 66_000})), FINAL_ANSWER)
    async with running(settings(), tools=[risky()]) as aura:
        frames = await whole(aura)
    assert executions(frames)[-1]["status"] == "failed"
    assert "hitl" not in types(frames)
    assert "more than 65536 bytes" in model.requests[1]["messages"][-1]["content"]
