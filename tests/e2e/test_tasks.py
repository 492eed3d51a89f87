"""The agent task of a run (CONTRACT §6) continues after a takeover, and its end is reported after a kill."""

from __future__ import annotations

import json

import pytest
import redis

from app.dev.demo.main_service import MainServiceStandIn, is_ended
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from tests.e2e.conftest import Nodes
from tests.e2e.mail import mail_settings, mail_turn
from tests.harness.follow import Follower, of_type
from tests.harness.frames import check
from tests.harness.service import headers
from tests.harness.waiting import eventually


@pytest.mark.slow
async def test_takeover_continues_the_agent_task(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with SmtpSink() as smtp, MainServiceStandIn(accepts_plan=True) as main:
        settings = {**mail_settings(smtp), "MAIN_SERVICE_URL": main.url, "AURA_LEASE_SECONDS": 1}
        first, second = await nodes.start_pair(**settings)
        model.play(mail_turn(), ScriptedTurn(text="보냈습니다."))
        client = Follower("메일")
        hitl = await client.read(first, of_type("hitl"))
        key = f"hitl:request:{hitl['requestId']}"
        await eventually(lambda: redis_client.get("hitl:task:task-1") == hitl["requestId"])
        await eventually(lambda: json.loads(str(redis_client.get(key))).get("taskId") == "task-1")
        await eventually(lambda: main.tasks["task-1"].plan)
        first.kill()
        await first.wait_for_exit()
        assert (await second.decide("approve", hitl["requestId"])).status_code == 200
        await client.read(second)
        check(client.seen)
        (task,) = main.tasks.values()
        await eventually(lambda: is_ended(task))
        assert (task.status, [step["status"] for step in task.plan]) == ("COMPLETED", ["completed"])
        run = await second.client.get(f"/aura/runs/{client.session_id}", headers=headers())
        assert run.json()["data"]["taskId"] == "task-1"
        starts = [request for request in main.requests if request.path.endswith("/start")]
        assert len(starts) == 1


@pytest.mark.slow
async def test_another_node_reports_the_end_after_a_kill(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with MainServiceStandIn() as main:
        main.unblocked.clear()
        settings = {"MAIN_SERVICE_URL": main.url, "AURA_LEASE_SECONDS": 1}
        first, second = await nodes.start_pair(**settings)
        model.play(ScriptedTurn(text="안녕하세요"))
        client = Follower("인사")
        await client.read(first)
        await eventually(lambda: main.requests)
        first.kill()
        await first.wait_for_exit()
        main.unblocked.set()
        await eventually(lambda: [task.status for task in main.tasks.values()] == ["COMPLETED"], 30)
        await eventually(lambda: second.logged("task.adopted"))
        await eventually(lambda: redis_client.zcard("aura:tasks") == 0)
        secret = headers()["Authorization"].partition(" ")[2].partition(".")[0]
        assert secret not in first.output + second.output
