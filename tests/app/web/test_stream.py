"""The event stream (§2) as clients of both generations and the gateway read it; limits and ends."""

from __future__ import annotations

import asyncio
import json

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.frames import DONE, answer, check, parse_frame, types
from tests.harness.raw import LONG_TEXT, MakeSettings, RawStream, raw_frames, read_stream
from tests.harness.service import headers, running
from tests.harness.stored import checkpoint, read_log
from tests.harness.tools import NoteArguments, NoteTool, calling, risky

# --- §2 --------------------------------------------------------------------------------------------------------------


async def test_stream_has_sse_headers(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="네."))
    async with running(settings()) as aura:
        stream, frames = await read_stream(aura, headers=headers(**{"X-Correlation-ID": "trace-42"}))
    received = stream.response.headers
    assert stream.response.status_code == 200
    assert received["content-type"] == "text/event-stream"
    assert received["cache-control"] == "no-cache"
    assert received["x-accel-buffering"] == "no"
    assert received["connection"] == "keep-alive"
    assert received["x-session-id"] == frames[0]["sessionId"]
    assert received["x-correlation-id"] == "trace-42"
    assert "content-encoding" not in received


async def test_one_frame_is_one_write_with_an_id_and_answer_text_has_at_most_2_kib_of_it(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(calling(("write_note", {"to": "김", "text": "가" * 3000}), text_before_tools=["나" * 2500]))
    model.play(ScriptedTurn(text=[LONG_TEXT], reasoning="생" * 2500))
    async with running(settings(), tools=[NoteTool()]) as aura:
        stream = await RawStream.post(aura, {"prompt": "긴 답을 주세요"})
        chunks = await stream.rest()
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["transfer-encoding"] == "chunked"
    for chunk in chunks:
        assert chunk.endswith(b"\n\n")
        assert chunk.count(b"\n\n") == 1, "a write contains two frames"
        assert b"id:" in chunk
        assert len(chunk) <= 2048 or b"event: content" not in chunk or b'"metadata":' in chunk
        chunk.decode()  # no character is split
    frames = [parse_frame(chunk.decode().removesuffix("\n\n")) for chunk in chunks]
    check(frames)
    assert answer(frames) == LONG_TEXT
    assert chunks[-1] == f"id: {frames[-1].id}\ndata: [DONE]\n\n".encode()


async def test_last_content_has_the_whole_answer_for_every_reader_and_the_log_does_not(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    text = "# 보고서\n" + "".join(f"{number}번째 문장입니다. " for number in range(300))
    model.play(ScriptedTurn(text=text, chunk_chars=50))
    async with running(settings()) as aura, running(settings()) as other:
        _, frames = await read_stream(aura)
        contents = [frame for frame in frames if frame.type == "content"]
        assert answer(frames) == text
        assert [frame for frame in contents if "metadata" in frame.data] == contents[-1:]
        last = contents[-1]
        assert last["metadata"] == last["data"]["metadata"]
        assert last["metadata"]["result"] == {"type": "markdown", "title": "보고서", "content": text}
        for service in (aura, other):
            for seen in (contents[0], contents[-2]):
                sent = headers(**{"Last-Event-ID": str(seen.id)})
                _, rest = await read_stream(service, method="GET", headers=sent)
                assert [frame.raw for frame in rest if frame.type == "content"][-1] == last.raw
    stored = b"".join(body for _, body in read_log(redis_client, frames[0]["sessionId"]))
    assert b"event: content" in stored
    assert b'"metadata":{"result"' not in stored


async def test_answer_of_over_16_kib_is_not_repeated_in_its_last_frame(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="x" * (16 * 1024 + 1)), ScriptedTurn(text="x" * (16 * 1024)))
    async with running(settings()) as aura:
        for has_result in (False, True):
            _, frames = await read_stream(aura)
            contents = [frame for frame in frames if frame.type == "content"]
            assert ("metadata" in contents[-1].data) is has_result


async def test_frame_is_compact_json_on_one_line(settings: MakeSettings, model: ScriptedModelServer) -> None:
    text = '줄\n바꿈 \u2028 😀 "따옴표" <b>'
    model.play(ScriptedTurn(text=[text]))
    async with running(settings()) as aura:
        _, frames = await read_stream(aura)
    assert answer(frames) == text
    for frame in frames[:-1]:
        id, event, data = frame.raw.split("\n")
        assert id == f"id: {frame.id}"
        assert event == f"event: {frame.type}"
        written = data.removeprefix("data: ")
        assert "\u2028" not in written
        assert json.dumps(frame.data, ensure_ascii=False, separators=(",", ":")) == written.replace("\\u2028", "\u2028")
        assert frame["version"] == "1.0"
        assert type(frame["timestamp"]) is int
        assert frame["sessionId"] == frames[0]["sessionId"]
        if frame.type not in ("thought", "content"):
            assert "content" not in frame.data


async def test_every_transition_has_its_timeline_step(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(calling(("write_note", {"to": "김"})), ScriptedTurn(text="끝"))
    async with running(settings(), tools=[NoteTool()]) as aura:
        _, frames = await read_stream(aura)
    transitions = [frame["metadata"] for frame in frames if frame.type == "timeline_step_update"]
    assert [(transition["from"], transition["to"]) for transition in transitions] == [
        ("planning", "tool"),
        ("tool", "planning"),
        ("planning", "content"),
        ("content", "done"),
    ]
    assert all(set(transition) == {"from", "to", "trigger"} for transition in transitions)


async def test_usage_is_summed_at_the_end(settings: MakeSettings, model: ScriptedModelServer) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    model.play(calling(("write_note", {"to": "김"}), usage=usage), ScriptedTurn(text="끝", usage=usage))
    async with running(settings(), tools=[NoteTool()]) as aura:
        _, frames = await read_stream(aura)
    assert frames[-2]["usage"] == {"promptTokens": 20, "completionTokens": 10, "totalTokens": 30}


async def test_heartbeats_are_comments_with_an_id(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="네.", hang_after=0))
    async with running(settings(aura_heartbeat_seconds=0.05)) as aura:
        stream = await RawStream.post(aura, {"prompt": "기다려요"})
        chunks = [await stream.chunk() for _ in range(5)]
        model.release()
        chunks += await stream.rest()
    comments = [chunk for chunk in chunks if chunk.startswith(b":")]
    assert len(comments) >= 3
    assert set(comments) == {b": keep-alive id:\n\n"}
    check([parse_frame(chunk.decode()[:-2]) for chunk in chunks if not chunk.startswith(b":")])


@pytest.mark.parametrize("shape", ["both", "flat", "nested"])
async def test_each_event_shape_has_its_fields(settings: MakeSettings, model: ScriptedModelServer, shape: str) -> None:
    model.play(calling(("write_note", {"to": "김"})), ScriptedTurn(text="끝"))
    async with running(settings(aura_event_shape=shape), tools=[NoteTool()]) as aura:
        _, frames = await read_stream(aura)
    common = {"type", "version", "timestamp", "sessionId"}
    for frame in frames[:-1]:
        if shape == "flat":
            assert "data" not in frame.data
        elif shape == "nested":
            assert set(frame.data) == {*common, "data"}
        else:
            assert set(frame.data) - common - {"data"} == set(frame["data"]) - common
    fields_of_all = [frame.data if shape == "flat" else frame["data"] for frame in frames[:-1]]
    tool = next(fields for fields in fields_of_all if fields.get("toolName"))
    assert tool["tool"] == tool["toolName"] == "write_note"
    assert tool["toolArgs"] == tool["params"] == tool["parameters"]
    assert "".join(fields["content"] for fields in fields_of_all if "chunk" in fields) == "끝"


async def test_traceparent_becomes_the_trace_id(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="네."))
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with running(settings()) as aura:
        stream, _ = await read_stream(aura, headers=headers(traceparent=f"00-{trace}-00f067aa0ba902b7-01"))
    assert stream.response.headers["x-correlation-id"] == trace


async def test_context_and_headers_of_the_request_are_stored_with_the_run(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(ScriptedTurn(text="네."))
    context = {"activeApp": "mail", "userId": "somebody", "tenantId": "else", "remoteState": {"a": [1, None]}}
    sent = headers(
        **{"X-DWP-Source": "TOASTER", "X-DWP-Caller-Type": "ROBOT", "X-Agent-ID": "agent-9", "X-Correlation-ID": "t-1"}
    )
    async with running(settings()) as aura:
        _, frames = await read_stream(aura, body={"prompt": "네?", "context": context, "more": 1}, headers=sent)
    check(frames)
    assert frames[-2]["status"] == "completed"
    request = checkpoint(redis_client)["request"]
    assert request["context"] == {"activeApp": "mail"}, "what the model got; the rest was kept as long as the run"
    assert (request["user_id"], request["tenant_id"]) == ("user1", "tenant1")
    assert (request["source"], request["caller_type"], request["trace_id"]) == ("TOASTER", "ROBOT", "t-1")
    assert request["agent_id"] == request["thread_id"] == frames[0]["threadId"] == "agent-9"


async def test_screen_context_is_in_the_system_prompt(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="네."))
    context = {
        "activeApp": "mail",
        "selectedItemIds": [1, 2, 3],
        "url": "http://dwp/mail",
        "pathname": "/mail",
        "title": "받은 편지함",
        "itemId": "msg-123",
        "metadata": {"folder": "inbox", "unreadCount": 5},
    }
    async with running(settings()) as aura:
        await read_stream(aura, body={"prompt": "선택한 항목은?", "context": context})
    system, user = model.requests[0]["messages"]
    for line in (
        "현재 사용자가 보고 있는 화면: mail",
        "선택된 항목 ID: 1, 2, 3",
        "현재 URL: http://dwp/mail",
        "경로: /mail",
        "페이지 제목: 받은 편지함",
        "항목 ID: msg-123",
        "추가 정보: folder: inbox, unreadCount: 5",
    ):
        assert f"\n{line}\n" in system["content"]
    assert user == {"role": "user", "content": "선택한 항목은?"}


async def test_without_an_api_key_the_stream_ends_with_an_error(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    async with running(settings(openai_api_key=None)) as aura:
        stream, frames = await read_stream(aura)
    assert stream.response.status_code == 200
    check(frames)
    assert types(frames)[:2] == ["start", "thought"]
    assert types(frames)[-3:] == ["error", "end", DONE]
    assert (frames[-3]["errorType"], frames[-3]["retryable"]) == ("LLMNotConfigured", False)
    assert frames[-2]["status"] == "failed"
    assert model.requests == []


# --- limits and ends ------------------------------------------------------------------------------------------------


async def test_runs_of_one_user_are_limited_by_the_setting(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="하나", hang_after=0), ScriptedTurn(text="둘", hang_after=0), ScriptedTurn(text="셋"))
    async with running(settings(aura_max_runs_per_user=1)) as aura, aura.stream("질문") as first:
        await first.until("thought")
        stream, refused = await read_stream(aura, "또 질문")
        assert stream.response.status_code == 429
        assert int(stream.response.headers["retry-after"]) > 0
        assert (refused[0]["errorType"], refused[0]["retryable"]) == ("LimitExceeded", True)
        async with aura.stream("질문", headers=headers("user2")) as second:
            await second.until("thought")
            await model.wait_for_requests(2)
            model.release()
            check(await second.rest())
        await first.rest()
        _, third = await read_stream(aura, "질문")
        assert answer(third) == "셋"


async def test_full_process_rejects_runs_with_retry_after(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="하나", hang_after=0))
    async with running(settings(aura_max_runs=1)) as aura, aura.stream("질문") as first:
        await first.until("thought")
        await model.wait_for_requests(1)
        stream, refused = await read_stream(aura, "또 질문", headers=headers("user2"))
        assert (stream.response.status_code, refused[0]["errorType"]) == (503, "LimitExceeded")
        assert "retry-after" in stream.response.headers
        model.release()
        await first.rest()


async def test_replica_that_shuts_down_sends_a_reconnect_notice_and_another_continues_the_run(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    """Only a shutdown closes a stream without `[DONE]` (§2.3); no event is lost or repeated."""
    released = asyncio.Event()

    async def work(_: NoteArguments) -> str:
        await released.wait()
        return "됨"

    model.play(calling(("write_note", {"to": "김"})), ScriptedTurn(text="끝"))
    tools = [NoteTool(work=work, idempotent=True)]
    async with running(settings(), tools=tools) as two:
        async with running(settings(), tools=tools) as one:
            stream = await RawStream.post(one, {"prompt": "질문"})
            chunks = [await stream.chunk()]
            while b"tool_execution" not in chunks[-1]:
                chunks.append(await stream.chunk())
            draining = asyncio.create_task(one.service.drain())
            chunks += await stream.rest()
            await draining
        assert chunks[-1] == b": shutting down id:\nretry: 1000\n\n"
        released.set()
        before = [parse_frame(chunk.decode()[:-2]) for chunk in chunks[:-1]]
        _, rest = await read_stream(two, "질문", headers=headers(**{"Last-Event-ID": str(before[-1].id)}))
        _, complete = await read_stream(two, method="GET")
    assert raw_frames([*before, *rest]) == raw_frames(complete)
    check(complete)
    assert complete[-2]["status"] == "completed"


async def test_draining_replica_is_not_ready_and_rejects_runs(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    async with running(settings()) as aura:
        await aura.service.drain()
        ready = await aura.client.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "ERROR")
        assert (await aura.client.get("/health")).status_code == 200
        stream, frames = await read_stream(aura)
        assert stream.response.status_code == 503
        assert types(frames) == ["error", "end", DONE]
    assert model.requests == []


async def test_stream_of_a_run_whose_data_is_gone_ends_with_an_error(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(calling(("send_note", {"to": "김"})))
    async with running(settings(), tools=[risky()]) as aura, aura.stream("질문") as stream:
        hitl = await stream.until("hitl")
        redis_client.flushall()
        redis_client.publish(
            f"hitl:channel:{hitl['sessionId']}", json.dumps({"action": "approve", "requestId": hitl["requestId"]})
        )
        frames = await stream.rest()
    check(frames)
    assert frames[-3]["errorType"] == "StorageUnavailable"
