"""`GET /aura/test/stream?prompt=`: a run that is started by a URL alone, as `EventSource` does (§1)."""

from __future__ import annotations

import asyncio
import json

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.frames import answer, check
from tests.harness.raw import MakeSettings, raw_frames, read_stream
from tests.harness.service import STREAM, headers, running
from tests.harness.stored import checkpoint


@pytest.mark.parametrize("name", ["prompt", "message"])
async def test_get_with_a_prompt_starts_a_run_as_post_does(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, name: str
) -> None:
    model.play(ScriptedTurn(text="네"))
    context = {"activeApp": "mail", "selectedItemIds": [1, 2]}
    async with running(settings()) as aura:
        params = {name: "질문 & 답", "context": json.dumps(context)}
        stream, frames = await read_stream(aura, method="GET", params=params)
        check(frames)
        assert stream.response.headers["x-session-id"] == frames[0]["sessionId"]
        assert answer(frames) == "네"
    saved = checkpoint(redis_client)
    assert (saved["messages"][1]["content"], saved["request"]["context"]) == ("질문 & 답", context)


async def test_same_url_attaches_to_its_run_for_60_s_and_then_starts_another(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(*(ScriptedTurn(text=text) for text in ("하나", "둘", "셋", "넷")))
    async with running(settings()) as aura:
        _, first = await read_stream(aura, method="GET", params={"prompt": "질문"})
        _, again = await read_stream(aura, method="GET", params={"prompt": "질문"})
        assert raw_frames(again) == raw_frames(first)
        _, other_url = await read_stream(aura, method="GET", params={"prompt": "질문", "context": "{}"})
        assert answer(other_url) == "둘"
        _, other_user = await read_stream(aura, method="GET", params={"prompt": "질문"}, headers=headers("user2"))
        assert answer(other_user) == "셋"
        marks = redis_client.keys("aura:*:idempotency:*")
        assert marks
        assert all(50 <= redis_client.ttl(key) <= 60 for key in marks)
        redis_client.delete(*marks)  # as they expire
        _, later = await read_stream(aura, method="GET", params={"prompt": "질문"})
        assert answer(later) == "넷"


async def test_same_url_at_the_same_time_is_one_run(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="하나"))
    async with running(settings()) as aura:
        streams = await asyncio.gather(*(read_stream(aura, method="GET", params={"prompt": "질문"}) for _ in range(6)))
    assert len({tuple(raw_frames(frames)) for _, frames in streams}) == 1
    assert len(model.requests) == 1


async def test_url_with_a_prompt_and_last_event_id_or_session_starts_no_run(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="하나"), ScriptedTurn(text="둘"))
    async with running(settings()) as aura:
        _, first = await read_stream(aura, method="GET", params={"prompt": "질문"})
        _, newest = await read_stream(aura, method="GET", params={"prompt": "다른 질문"})
        for last, rest in ((str(first[2].id), first[3:]), (f"{first[2].id}123", first[3:]), ("x", first)):
            sent = headers(**{"Last-Event-ID": last})
            _, resumed = await read_stream(aura, method="GET", params={"prompt": "질문"}, headers=sent)
            assert raw_frames(resumed) == raw_frames(rest)
        params = {"prompt": "세 번째", "sessionId": newest[0]["sessionId"]}
        _, attached = await read_stream(aura, method="GET", params=params)
        assert raw_frames(attached) == raw_frames(newest)
        head = await aura.client.head(STREAM, params={"prompt": "네 번째"}, headers=headers())
        assert head.status_code == 404
        unknown = await aura.client.get(STREAM, params={"prompt": "네 번째"}, headers=headers(**{"Last-Event-ID": "x"}))
        assert unknown.status_code == 404
    assert len(model.requests) == 2


@pytest.mark.parametrize(
    ("params", "status", "code", "named"),
    [
        ({"prompt": "질문", "context": "{not json"}, 400, "E1001", "context"),
        ({"prompt": "질문", "context": "[1]"}, 400, "E4000", "context"),
        ({"prompt": "질문", "message": "다른 질문"}, 400, "E4000", "message"),
        ({"prompt": "  "}, 400, "E4000", "prompt"),
        ({"prompt": "가" * 1000}, 414, "E4002", "8192"),
        ({"sessionId": "s" * 9000}, 414, "E4002", "8192"),
    ],
)
async def test_url_that_is_not_valid_starts_no_run(
    settings: MakeSettings, model: ScriptedModelServer, params: dict[str, str], status: int, code: str, named: str
) -> None:
    async with running(settings()) as aura:
        stream, frames = await read_stream(aura, method="GET", params=params)
        assert stream.response.status_code == status
        check(frames)
        assert frames[0]["errorCode"] == code
        assert named in frames[0]["message"]
    assert model.requests == []


@pytest.mark.parametrize("name", ["token", "access_token", "authorization", "Authorization", "jwt"])
async def test_no_token_is_taken_from_a_url(settings: MakeSettings, model: ScriptedModelServer, name: str) -> None:
    sent = headers()
    token = sent.pop("Authorization")
    async with running(settings()) as aura:
        for value in (token, token.removeprefix("Bearer ")):
            response = await aura.client.get(STREAM, params={"prompt": "질문", name: value}, headers=sent)
            assert response.status_code == 401
    assert model.requests == []


async def test_thread_id_has_two_names_that_must_agree(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(*(ScriptedTurn(text="네") for _ in range(6)))
    async with running(settings()) as aura:
        for names in (
            {"threadId": "t-1"},
            {"threadId": "t-1", "thread_id": "t-1"},
            {"threadId": "t-1", "thread_id": ""},
            {"threadId": None, "thread_id": "t-1"},
        ):
            _, frames = await read_stream(aura, body={"prompt": "질문", **names})
            assert frames[0]["threadId"] == "t-1"
        for name in ("threadId", "thread_id"):
            _, frames = await read_stream(aura, method="GET", params={"prompt": "질문", name: "t-1"})
            assert frames[0]["threadId"] == "t-1"
        body = {"prompt": "질문", "threadId": "t-1", "thread_id": "t-2"}
        stream, refused = await read_stream(aura, body=body)
        assert stream.response.status_code == 400
        assert "threadId" in refused[0]["message"]
    assert len(model.requests) == 6
