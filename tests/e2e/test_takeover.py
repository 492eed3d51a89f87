"""The owner of a run is killed, at any moment: another goes on with it, nothing is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from app.dev.demo.http import HttpServer, Request, Response
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from tests.e2e.conftest import Nodes
from tests.e2e.mail import HeldSmtp, asks_for_mail, mail_settings
from tests.harness.follow import CONNECTION_ERRORS, Follower, of_type
from tests.harness.frames import answer, check, types
from tests.harness.process import ServeProcess
from tests.harness.waiting import eventually

TEXT = "분기 보고서를 정리했습니다. 매출은 12% 늘었고, 비용은 그대로입니다. 자세한 표는 첨부를 보세요."
DONE = "메일을 보냈습니다."


async def taken_over(node: ServeProcess) -> None:
    """How soon it is, `aura chaos` measures."""
    await eventually(lambda: node.logged("run.taken_over"))


def deadline(client: redis.Redis) -> float:
    (key,) = client.keys("checkpoint:*")
    return float(json.loads(str(client.get(key)))["deadline_at"])


async def test_while_it_waits_for_approval(nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes.pair(**mail_settings(smtp))
        model.play(asks_for_mail(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        hitl = await client.read(first, of_type("hitl"))
        before = deadline(redis_client)
        first.kill()
        await taken_over(second)
        await eventually(lambda: redis_client.pubsub_channels("hitl:channel:*"))
        assert deadline(redis_client) == before
        assert hitl["expiresAt"] == int(before)
        assert (await second.decide("approve", hitl["requestId"])).status_code == 200
        await client.read(second)
        check(client.seen)
        assert types(client.seen).count("hitl") == 1
        assert answer(client.seen) == DONE
        assert len(smtp.messages) == 1


async def test_the_deadline_passes_while_nobody_lives(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with SmtpSink() as smtp:
        settings = {**mail_settings(smtp), "HITL_TIMEOUT_SECONDS": 1}
        first = await nodes.start(**settings)
        model.play(asks_for_mail())
        client = Follower("메일")
        hitl = await client.read(first, of_type("hitl"))
        first.kill()
        second = await nodes.start(**settings)
        await client.read(second)
        check(client.seen)
        assert client.seen[-2]["status"] == "timed_out"
        assert (await second.decide("approve", hitl["requestId"])).status_code == 409
        assert smtp.messages == []


def by_the_main_service(client: redis.Redis, request_id: str) -> None:
    request = json.loads(str(client.get(f"hitl:request:{request_id}")))
    request |= {"status": "approved", "approvedBy": "user1", "approvedAt": int(time.time() * 1000)}
    client.set(f"hitl:request:{request_id}", json.dumps(request), ex=1800)
    by_signal(client, request_id)


def by_signal(client: redis.Redis, request_id: str) -> None:
    session_id = json.loads(str(client.get(f"hitl:request:{request_id}")))["sessionId"]
    signal = {"type": "approval", "requestId": request_id, "status": "approved", "timestamp": int(time.time())}
    client.set(f"hitl:signal:{session_id}", json.dumps(signal), ex=300)
    client.publish(f"hitl:channel:{session_id}", json.dumps(signal))


@pytest.mark.parametrize("decide", [by_the_main_service, by_signal])
async def test_a_decision_made_while_nobody_lived_is_honoured(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis, decide: Callable[[redis.Redis, str], None]
) -> None:
    async with SmtpSink() as smtp:
        first = await nodes.start(**mail_settings(smtp))
        model.play(asks_for_mail(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        hitl = await client.read(first, of_type("hitl"))
        first.kill()
        await first.wait_for_exit()
        decide(redis_client, str(hitl["requestId"]))
        second = await nodes.start(**mail_settings(smtp))
        await client.read(second)
        check(client.seen)
        assert client.seen[-2]["status"] == "completed"
        assert len(smtp.messages) == 1


async def test_before_the_model_has_said_a_word(nodes: Nodes, model: ScriptedModelServer) -> None:
    first, second = await nodes.pair()
    model.play(ScriptedTurn(text=TEXT, hang_after=0), ScriptedTurn(text=TEXT))
    client = Follower("보고서")
    await client.read(first, of_type("thought"))
    await model.wait_for_requests(1)
    first.kill()
    await taken_over(second)
    await client.read(second)
    check(client.seen)
    assert answer(client.seen) == TEXT
    assert model.requests[1]["messages"] == model.requests[0]["messages"]


@pytest.mark.parametrize("again", ["goes on", "repeats some", "repeats all"])
async def test_in_the_middle_of_an_answer(nodes: Nodes, model: ScriptedModelServer, again: str) -> None:
    """The text that clients have stays; the model is asked to go on from it; what it repeats is dropped."""
    first, second = await nodes.pair()
    model.play(ScriptedTurn(text=TEXT, chunk_chars=4, hang_after=10))
    client = Follower("보고서")
    async with first.stream("보고서") as stream:
        while len(answer(client.seen)) < 40:
            await client.collect(stream, of_type("content"))
        had = answer(client.seen)
        rest = {"goes on": TEXT[len(had) :], "repeats some": TEXT[len(had) - 20 :], "repeats all": TEXT}[again]
        # A list goes out as it is: the scripted server would otherwise cut off what the client has.
        model.play(ScriptedTurn(text=[""] + [rest[i : i + 3] for i in range(0, len(rest), 3)]))
        first.kill()
        with pytest.raises(CONNECTION_ERRORS):
            await client.collect(stream)
    assert had == TEXT[:40]
    await taken_over(second)
    await client.read(second)
    check(client.seen)
    assert answer(client.seen) == TEXT
    assert had in [message["content"] for message in model.requests[1]["messages"]]
    assert types(client.seen).count("start") == 1


class HeldGitHub:
    """Answers nothing to the first request until it is let go; keeps all of them."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.unblocked = asyncio.Event()
        self.http = HttpServer(self._handle)

    async def _handle(self, request: Request, answer: Response) -> None:
        self.requests.append(request)
        if len(self.requests) == 1:
            await self.unblocked.wait()
            return
        pull: dict[str, Any] = {"number": 42, "title": "T", "state": "open", "html_url": "u", "user": {"login": "l"}}
        pull |= {"base": {"ref": "main"}, "head": {"ref": "b"}, "additions": 1, "deletions": 1, "changed_files": 0}
        await answer.json(200, [] if request.path.endswith("/files") else pull)


async def test_in_the_middle_of_an_idempotent_tool(nodes: Nodes, model: ScriptedModelServer) -> None:
    github = HeldGitHub()
    async with github.http as http:
        settings = {"GITHUB_TOKEN": "ghp_0123456789abcdef", "GITHUB_API_URL": http.origin}
        first, second = await nodes.pair(**settings)
        arguments = {"owner": "dwp", "repo": "aura", "number": 42}
        model.play(
            ScriptedTurn(tool_calls=[ScriptedCall(name="github_get_pr", arguments=arguments, id="call_pr")]),
            ScriptedTurn(text="PR을 분석했습니다."),
        )
        client = Follower("PR")
        await client.read(first, lambda frame: frame.type == "tool_execution" and frame["status"] == "executing")
        await eventually(lambda: github.requests)
        first.kill()
        await taken_over(second)
        await client.read(second)
    check(client.seen)
    runs = [frame["status"] for frame in client.seen if frame.type == "tool_execution"]
    assert runs == ["executing", "completed"]
    assert [request.path for request in github.requests].count("/repos/dwp/aura/pulls/42") == 2
    assert answer(client.seen) == "PR을 분석했습니다."
    roles = [message["role"] for message in model.requests[1]["messages"]]
    assert roles.count("tool") == 1


@pytest.mark.parametrize("verdict", ["approve", "reject"])
async def test_in_the_middle_of_a_tool_that_must_not_run_twice(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis, verdict: str
) -> None:
    """Nobody knows whether the mail went out: a person is asked, and told why."""
    async with HeldSmtp() as smtp:
        first, second = await nodes.pair(**mail_settings(smtp))
        model.play(asks_for_mail(), *([ScriptedTurn(text=DONE)] if verdict == "approve" else []))
        client = Follower("메일")
        hitl = await client.read(first, of_type("hitl"))
        await first.decide("approve", hitl["requestId"])
        await smtp.wait_for_messages(1)
        first.kill()
        smtp.unblocked.set()
        await taken_over(second)
        asked = await client.read(second, of_type("hitl"))
        assert asked["requestId"] != hitl["requestId"]
        assert asked["outcomeUnknown"] is True
        assert asked["message"] != hitl["message"]
        assert asked["expiresAt"] > hitl["expiresAt"] - 1
        assert asked["context"] == hitl["context"]
        assert len(smtp.messages) == 1
        assert (await second.decide("approve", hitl["requestId"])).status_code == 409  # that grant is used up
        assert (await second.decide(verdict, asked["requestId"])).status_code == 200
        await client.read(second)
        check(client.seen)
        if verdict == "approve":
            sent = [mail.message["Message-ID"] for mail in smtp.messages]
            assert sent == [sent[0]] * 2
            assert client.seen[-2]["status"] == "completed"
        else:
            assert len(smtp.messages) == 1
            assert client.seen[-2]["status"] == "rejected"


async def test_a_paused_owner_that_wakes_up_is_fenced(nodes: Nodes, model: ScriptedModelServer) -> None:
    """It believes that it still owns the run; its writes are refused, its readers see what the other wrote."""
    first, second = await nodes.pair()
    model.play(ScriptedTurn(text=TEXT, chunk_chars=4, hang_after=10))
    old, new = Follower("보고서"), Follower("보고서")
    async with first.stream("보고서") as stream:
        while len(answer(old.seen)) < 40:
            await old.collect(stream, of_type("content"))
        model.play(ScriptedTurn(text=TEXT, chunk_chars=4, hang_after=5))
        first.pause()
        await taken_over(second)
        new.seen = list(old.seen)
        await model.wait_for_requests(2)
        await new.read(second, of_type("content"))
        model.release()  # both turns go on: what the first node gets now it may not write
        first.resume()
        await asyncio.gather(old.collect(stream), new.read(second))
    for client in (old, new):
        check(client.seen)
        assert answer(client.seen) == TEXT
    assert [frame.raw for frame in old.seen] == [frame.raw for frame in new.seen]
    assert first.logged("node.lease_lost")
    # It begins anew under another name, and takes runs again.
    await first.ready()
    model.play(ScriptedTurn(text="다시"))
    again = Follower("다시")
    await eventually(lambda: first.logged("node.lease_lost"))
    async with asyncio.timeout(30):
        while not again.is_done:
            again.seen.clear()
            await again.read(first)
            if again.seen[0].type == "error":
                again.seen.clear()
    assert answer(again.seen) == "다시"


async def test_a_paused_owner_of_a_waiting_run(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes.pair(**mail_settings(smtp))
        model.play(asks_for_mail(), ScriptedTurn(text=DONE))
        old = Follower("메일")
        async with first.stream("메일") as stream:
            hitl = await old.collect(stream, of_type("hitl"))
            first.pause()
            await taken_over(second)
            assert (await second.decide("approve", hitl["requestId"])).status_code == 200
            await eventually(lambda: second.logged("run.ended"))
            first.resume()
            await old.collect(stream)
        check(old.seen)
        assert answer(old.seen) == DONE
        assert len(smtp.messages) == 1
