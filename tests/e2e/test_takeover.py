"""The owner of a run is killed or suspended: another node continues the run, without lost or repeated effects."""

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
from tests.e2e.mail import BlockedSmtp, mail_settings, mail_turn
from tests.harness.follow import CONNECTION_ERRORS, Follower, of_type
from tests.harness.frames import answer, check, types
from tests.harness.process import ServeProcess
from tests.harness.waiting import eventually

TEXT = "분기 보고서를 정리했습니다. 매출은 12% 늘었고, 비용은 그대로입니다. 자세한 표는 첨부를 보세요."
DONE = "메일을 보냈습니다."


def slow(case: str) -> Any:
    return pytest.param(case, marks=pytest.mark.slow)


async def wait_for_takeover(node: ServeProcess) -> None:
    """Wait until the node has taken over a run; `aura chaos` measures how long that takes."""
    await eventually(lambda: node.logged("run.taken_over"))


def deadline(client: redis.Redis) -> float:
    (key,) = client.keys("checkpoint:*")
    return float(json.loads(str(client.get(key)))["deadline_at"])


async def test_waiting_run_is_taken_over_and_approved(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes.start_pair(**mail_settings(smtp))
        model.play(mail_turn(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        hitl = await client.read(first, of_type("hitl"))
        before = deadline(redis_client)
        first.kill()
        await wait_for_takeover(second)
        await eventually(lambda: redis_client.pubsub_channels("hitl:channel:*"))
        assert deadline(redis_client) == before
        assert hitl["expiresAt"] == int(before)
        assert (await second.decide("approve", hitl["requestId"])).status_code == 200
        await client.read(second)
        check(client.seen)
        assert types(client.seen).count("hitl") == 1
        assert answer(client.seen) == DONE
        assert len(smtp.messages) == 1


@pytest.mark.slow
async def test_deadline_that_passes_without_any_node_times_the_run_out(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with SmtpSink() as smtp:
        settings = {**mail_settings(smtp), "HITL_TIMEOUT_SECONDS": 1}
        first = await nodes.start(**settings)
        model.play(mail_turn())
        client = Follower("메일")
        hitl = await client.read(first, of_type("hitl"))
        first.kill()
        second = await nodes.start(**settings)
        await client.read(second)
        check(client.seen)
        assert client.seen[-2]["status"] == "timed_out"
        assert (await second.decide("approve", hitl["requestId"])).status_code == 409
        assert smtp.messages == []


def decide_as_main_service(client: redis.Redis, request_id: str) -> None:
    request = json.loads(str(client.get(f"hitl:request:{request_id}")))
    request |= {"status": "approved", "approvedBy": "user1", "approvedAt": int(time.time() * 1000)}
    client.set(f"hitl:request:{request_id}", json.dumps(request), ex=1800)
    decide_by_signal(client, request_id)


def decide_by_signal(client: redis.Redis, request_id: str) -> None:
    session_id = json.loads(str(client.get(f"hitl:request:{request_id}")))["sessionId"]
    signal = {"type": "approval", "requestId": request_id, "status": "approved", "timestamp": int(time.time())}
    client.set(f"hitl:signal:{session_id}", json.dumps(signal), ex=300)
    client.publish(f"hitl:channel:{session_id}", json.dumps(signal))


@pytest.mark.slow
@pytest.mark.parametrize("decide", [decide_as_main_service, decide_by_signal])
async def test_decision_made_without_any_node_is_applied(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis, decide: Callable[[redis.Redis, str], None]
) -> None:
    async with SmtpSink() as smtp:
        first = await nodes.start(**mail_settings(smtp))
        model.play(mail_turn(), ScriptedTurn(text=DONE))
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


@pytest.mark.slow
async def test_takeover_before_the_first_chunk_repeats_the_model_request(
    nodes: Nodes, model: ScriptedModelServer
) -> None:
    first, second = await nodes.start_pair()
    model.play(ScriptedTurn(text=TEXT, hang_after=0), ScriptedTurn(text=TEXT))
    client = Follower("보고서")
    await client.read(first, of_type("thought"))
    await model.wait_for_requests(1)
    first.kill()
    await wait_for_takeover(second)
    await client.read(second)
    check(client.seen)
    assert answer(client.seen) == TEXT
    assert model.requests[1]["messages"] == model.requests[0]["messages"]


@pytest.mark.parametrize("repetition", [slow("repeats nothing"), "repeats some", slow("repeats all")])
async def test_takeover_during_an_answer_continues_its_text(
    nodes: Nodes, model: ScriptedModelServer, repetition: str
) -> None:
    """The streamed text is kept, the model is requested to continue it, and repeated text is dropped."""
    first, second = await nodes.start_pair()
    model.play(ScriptedTurn(text=TEXT, chunk_chars=4, hang_after=10))
    client = Follower("보고서")
    async with first.stream("보고서") as stream:
        while len(answer(client.seen)) < 40:
            await client.collect(stream, of_type("content"))
        received_text = answer(client.seen)
        rest = {
            "repeats nothing": TEXT[len(received_text) :],
            "repeats some": TEXT[len(received_text) - 20 :],
            "repeats all": TEXT,
        }[repetition]
        # A list is sent unchanged; a plain text would be shortened by the scripted server's own continuation.
        model.play(ScriptedTurn(text=[""] + [rest[i : i + 3] for i in range(0, len(rest), 3)]))
        first.kill()
        with pytest.raises(CONNECTION_ERRORS):
            await client.collect(stream)
    assert received_text == TEXT[:40]
    await wait_for_takeover(second)
    await client.read(second)
    check(client.seen)
    assert answer(client.seen) == TEXT
    assert received_text in [message["content"] for message in model.requests[1]["messages"]]
    assert types(client.seen).count("start") == 1


class BlockedGitHub:
    """Records all requests, and blocks the first one until `unblocked` is set."""

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


@pytest.mark.slow
async def test_takeover_during_an_idempotent_tool_runs_it_again(nodes: Nodes, model: ScriptedModelServer) -> None:
    github = BlockedGitHub()
    async with github.http as http:
        settings = {"GITHUB_TOKEN": "ghp_0123456789abcdef", "GITHUB_API_URL": http.origin}
        first, second = await nodes.start_pair(**settings)
        arguments = {"owner": "dwp", "repo": "aura", "number": 42}
        model.play(
            ScriptedTurn(tool_calls=[ScriptedCall(name="github_get_pr", arguments=arguments, id="call_pr")]),
            ScriptedTurn(text="PR을 분석했습니다."),
        )
        client = Follower("PR")
        await client.read(first, lambda frame: frame.type == "tool_execution" and frame["status"] == "executing")
        await eventually(lambda: github.requests)
        first.kill()
        await wait_for_takeover(second)
        await client.read(second)
    check(client.seen)
    runs = [frame["status"] for frame in client.seen if frame.type == "tool_execution"]
    assert runs == ["executing", "completed"]
    assert [request.path for request in github.requests].count("/repos/dwp/aura/pulls/42") == 2
    assert answer(client.seen) == "PR을 분석했습니다."
    roles = [message["role"] for message in model.requests[1]["messages"]]
    assert roles.count("tool") == 1


@pytest.mark.parametrize("verdict", ["approve", slow("reject")])
async def test_takeover_during_a_non_idempotent_tool_asks_the_approver(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis, verdict: str
) -> None:
    """It is unknown whether the mail was sent: a new approval is requested, with the reason."""
    async with BlockedSmtp() as smtp:
        first, second = await nodes.start_pair(**mail_settings(smtp))
        model.play(mail_turn(), *([ScriptedTurn(text=DONE)] if verdict == "approve" else []))
        client = Follower("메일")
        hitl = await client.read(first, of_type("hitl"))
        await first.decide("approve", hitl["requestId"])
        await smtp.wait_for_messages(1)
        first.kill()
        smtp.unblocked.set()
        await wait_for_takeover(second)
        second_hitl = await client.read(second, of_type("hitl"))
        assert second_hitl["requestId"] != hitl["requestId"]
        assert second_hitl["outcomeUnknown"] is True
        assert second_hitl["message"] != hitl["message"]
        assert second_hitl["expiresAt"] > hitl["expiresAt"] - 1
        assert second_hitl["context"] == hitl["context"]
        assert len(smtp.messages) == 1
        assert (await second.decide("approve", hitl["requestId"])).status_code == 409  # that approval was used
        assert (await second.decide(verdict, second_hitl["requestId"])).status_code == 200
        await client.read(second)
        check(client.seen)
        if verdict == "approve":
            sent = [mail.message["Message-ID"] for mail in smtp.messages]
            assert sent == [sent[0]] * 2
            assert client.seen[-2]["status"] == "completed"
        else:
            assert len(smtp.messages) == 1
            assert client.seen[-2]["status"] == "rejected"


@pytest.mark.slow
async def test_resumed_former_owner_is_fenced(nodes: Nodes, model: ScriptedModelServer) -> None:
    """It still assumes to own the run: its writes are refused, and its readers receive the new owner's events."""
    first, second = await nodes.start_pair()
    model.play(ScriptedTurn(text=TEXT, chunk_chars=4, hang_after=10))
    old, new = Follower("보고서"), Follower("보고서")
    async with first.stream("보고서") as stream:
        while len(answer(old.seen)) < 40:
            await old.collect(stream, of_type("content"))
        model.play(ScriptedTurn(text=TEXT, chunk_chars=4, hang_after=5))
        first.pause()
        await wait_for_takeover(second)
        new.seen = list(old.seen)
        await model.wait_for_requests(2)
        await new.read(second, of_type("content"))
        model.release()  # both turns continue; the first node must not write what it receives now
        first.resume()
        await asyncio.gather(old.collect(stream), new.read(second))
    for client in (old, new):
        check(client.seen)
        assert answer(client.seen) == TEXT
    assert [frame.raw for frame in old.seen] == [frame.raw for frame in new.seen]
    assert first.logged("node.lease_lost")
    # The node joins again under a new id, and accepts runs again.
    await first.ready()
    model.play(ScriptedTurn(text="다시"))
    next_run = Follower("다시")
    await eventually(lambda: first.logged("node.lease_lost"))
    async with asyncio.timeout(30):
        while not next_run.is_done:
            next_run.seen.clear()
            await next_run.read(first)
            if next_run.seen[0].type == "error":
                next_run.seen.clear()
    assert answer(next_run.seen) == "다시"


@pytest.mark.slow
async def test_resumed_former_owner_of_a_waiting_run_streams_the_new_owners_events(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes.start_pair(**mail_settings(smtp))
        model.play(mail_turn(), ScriptedTurn(text=DONE))
        old = Follower("메일")
        async with first.stream("메일") as stream:
            hitl = await old.collect(stream, of_type("hitl"))
            first.pause()
            await wait_for_takeover(second)
            assert (await second.decide("approve", hitl["requestId"])).status_code == 200
            await eventually(lambda: second.logged("run.ended"))
            first.resume()
            await old.collect(stream)
        check(old.seen)
        assert answer(old.seen) == DONE
        assert len(smtp.messages) == 1
