"""No address, host, path or URL of ours is in an answer; the log has the cause, under the trace id of the answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.errors import StorageUnavailable, ToolError, without_places
from app.knowledge.postgres.index import PostgresIndex
from app.ports.knowledge import Query
from tests.harness.logged import Written, entries
from tests.harness.raw import MakeSettings, raw_frames, read_stream
from tests.harness.service import STREAM, Aura, headers, running
from tests.harness.tools import NoteTool, calling

PASSWORD = "redis-pa55word"


async def _ask_everything(aura: Aura) -> list[str]:
    """Return the answers of every kind of path, and check that each names its trace id."""
    answers = []
    for method, path, accept in (
        ("GET", "/ready", "*/*"),
        ("GET", "/aura/runs", "*/*"),
        ("GET", "/aura/runs/session_user1_1700000000_ffff", "*/*"),
        ("GET", "/aura/hitl/requests/req-1", "*/*"),
        ("POST", "/aura/hitl/approve/req-1", "*/*"),
        ("GET", STREAM, "application/json"),
        ("GET", STREAM, "text/event-stream"),
    ):
        response = await aura.client.request(method, path, headers=headers(Accept=accept))
        assert response.status_code == 503, path
        if response.headers["content-type"] == "application/json":
            body = response.json()
            assert body["errorCode"] == "E5002"
            assert body["traceId"] == response.headers["x-correlation-id"]
        answers.append(response.text)
    return answers


async def test_redis_that_is_gone_is_named_in_the_log_alone(settings: MakeSettings, written: Written) -> None:
    server = await asyncio.to_thread(lambda: RedisServer("--requirepass", PASSWORD).start())
    try:
        url = f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"
        async with running(settings(redis_url=url, aura_redis_timeout_seconds=0.5)) as aura:
            assert (await aura.client.get("/ready")).status_code == 200
            await asyncio.to_thread(server.kill)
            answers = await _ask_everything(aura)
            for word in ("127.0.0.1", str(server.port), PASSWORD, "Connect call", "Error 1"):
                assert not [text for text in answers if word in text]
            trace_id = json.loads(answers[0])["traceId"]
            (line,) = [line for line in entries(written, "request.failed") if line["traceId"] == trace_id]
            assert f"127.0.0.1:{server.port}" in line["cause"]
    finally:
        server.stop()


async def test_password_that_redis_refuses_is_not_shown(settings: MakeSettings) -> None:
    server = await asyncio.to_thread(lambda: RedisServer("--requirepass", PASSWORD).start())
    try:
        url = f"redis://:another-{PASSWORD}@127.0.0.1:{server.port}/0"
        async with running(settings(redis_url=url, aura_redis_timeout_seconds=0.5)) as aura:
            answer = (await aura.client.get("/ready")).text
            assert "Redis does not allow it to this service" in answer
            assert PASSWORD not in answer
            assert "WRONGPASS" not in answer
    finally:
        server.stop()


async def test_addresses_in_a_tools_error_reach_neither_the_user_nor_the_model(
    settings: MakeSettings, model: ScriptedModelServer, written: Written
) -> None:
    async def fail(_: Any) -> Any:
        raise ToolError("GET http://admin:pw@10.1.2.3:8080/internal?key=1 failed at db01:5432 and [fe80::1]:6379")

    model.play(calling(("write_note", {"to": "kim"})), ScriptedTurn(text="실패했습니다."))
    async with running(settings(), tools=[NoteTool(work=fail)]) as aura:
        reader, frames = await read_stream(aura, "메모")
        details = (await aura.client.get(f"/aura/runs/{frames[0]['sessionId']}", headers=headers())).text
    everything = [*raw_frames(frames), details, json.dumps(model.requests[1])]
    for word in ("10.1.2.3", "8080", "admin", "db01", "5432", "fe80", "internal"):
        assert not [text for text in everything if word in text]
    assert "GET … failed at … and …" in details
    trace_id = reader.response.headers["x-correlation-id"]
    (line,) = entries(written, "tool write_note failed")
    assert (line["traceId"], "10.1.2.3:8080/internal" in line["event"]) == (trace_id, True)


async def test_search_servers_address_is_not_in_its_error() -> None:
    index = PostgresIndex("postgresql://aura:pg-pa55word@127.0.0.1:1/dwp", None)
    with pytest.raises(StorageUnavailable) as caught:
        await index.search("tenant1", Query("견적", None, ()), None)
    assert "127.0.0.1" not in caught.value.message
    assert "127.0.0.1" in caught.value.log_cause
    assert "pg-pa55word" not in caught.value.log_cause


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "550 5.7.1 relay denied by mx1.corp.example for boss@dwp.test",
            "550 5.7.1 relay denied by … for boss@dwp.test",
        ),
        ("mail from first.last@dwp.test refused", "mail from first.last@dwp.test refused"),
        ("cannot open /var/spool/mail/aura.lock (2)", "cannot open … (2)"),
        ("see https://support.example.com/a?b=1 for 10.0.0.7:25", "see … for …"),
        ("Validation Failed for dwp/aura", "Validation Failed for dwp/aura"),
        ("x" * 100_000, "x" * 4000),
    ],
)
def test_words_of_a_server_lose_hosts_and_paths_and_keep_mail_addresses(said: str, shown: str) -> None:
    assert without_places(said) == shown


async def test_json_error_on_the_stream_path_always_holds_an_id(settings: MakeSettings) -> None:
    """Else the gateway puts a line with an id of its own before the JSON, which is no JSON then."""
    async with running(settings()) as aura:
        for sent in (headers("nobody"), {}, {**headers(), "Authorization": "Bearer x"}):
            response = await aura.client.get(STREAM, headers={**sent, "Accept": "application/json"})
            assert "id:" in response.text
            assert response.json()["message"].endswith(f"(trace id: {response.headers['x-correlation-id']})")
        fields = {**headers(), "Accept": "application/json"}
        response = await aura.client.post(STREAM, json={"prompt": "x", "thread_id": 5}, headers=fields)
        assert "trace id" not in response.json()["message"], "the message names thread_id: it holds the characters"


async def test_every_json_answer_is_kept_by_nobody_and_taken_for_no_page(settings: MakeSettings) -> None:
    async with running(settings()) as aura:
        for method, path in (
            ("GET", "/health"),
            ("GET", "/aura/health"),
            ("GET", "/ready"),
            ("GET", "/aura/info"),
            ("GET", "/nowhere"),
            ("GET", "/"),
            ("PUT", "/health"),
            ("GET", "/aura/runs"),
            ("GET", "/aura/hitl/pending"),
            ("GET", "/aura/runs/session_user1_1700000000_ffff"),
            ("POST", "/aura/hitl/approve/req-1"),
        ):
            for sent in (headers(), {}):
                response = await aura.client.request(method, path, headers=sent)
                assert response.headers["content-type"] == "application/json"
                assert response.headers["cache-control"] == "no-store", path
                assert response.headers["x-content-type-options"] == "nosniff", path
