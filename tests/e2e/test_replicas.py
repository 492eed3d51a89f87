"""The master of Redis and the node die in the same moment: with `AURA_REDIS_REPLICAS` no tool runs twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from functools import partial

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.redis_deployments import SentinelServers
from app.dev.demo.scenarios import Scenario
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from tests.e2e.mail import mail_settings
from tests.e2e.test_storage import NodesOn
from tests.harness.process import ServeProcess
from tests.harness.service import headers
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

ROUNDS = 3
RUNS = 10
"""Risky calls in each round; they are approved just before everything dies."""


def scenario(subject: str) -> Scenario:
    mail = {"to": ["kim@example.com"], "subject": subject, "body": "내일 10시에 만나요."}
    turns = [ScriptedTurn(tool_calls=[ScriptedCall(name="send_email", arguments=mail)]), ScriptedTurn(text="네.")]
    return Scenario(description=subject, match=[rf"\[{subject}\]"], turns=turns)


async def start_waiting_run(node: ServeProcess, subject: str) -> str:
    """Return the request id of a run that waits for a person; each is of its own user."""
    async with node.stream(f"메일 [{subject}]", headers=headers(f"user{subject}")) as stream:
        return str((await stream.until("hitl"))["requestId"])


def has_received(smtp: SmtpSink, count: int) -> bool:
    return len(smtp.messages) >= count


def is_replaced(servers: SentinelServers, master: RedisServer) -> bool:
    return servers.master() is not master


async def test_master_and_node_killed_together_send_no_mail_twice(
    nodes_on: NodesOn, model: ScriptedModelServer
) -> None:
    """With one replica, which must have the start of a call before the mail is sent."""
    sent: Counter[str] = Counter()
    with SentinelServers(replicas=1) as servers:
        async with SmtpSink() as smtp:
            nodes = nodes_on(servers.url)
            settings = {**mail_settings(smtp), "AURA_REDIS_REPLICAS": "1", "AURA_REDIS_TIMEOUT_SECONDS": "2"}
            survivor = await nodes.start(**settings)
            for round_ in range(ROUNDS):
                doomed = await nodes.start(**settings)
                subjects = [f"{round_}-{number}" for number in range(RUNS)]
                model.add(*map(scenario, subjects))
                requests = await asyncio.gather(*(start_waiting_run(doomed, subject) for subject in subjects))
                decisions = [
                    asyncio.create_task(doomed.decide("approve", request_id, as_=headers(f"user{subject}")))
                    for request_id, subject in zip(requests, subjects, strict=True)
                ]
                sent_before, some = len(smtp.messages), random.randint(1, RUNS - 2)  # noqa: S311 - any moment will do
                await eventually(partial(has_received, smtp, sent_before + some))
                master = servers.master()
                master.kill()
                doomed.kill()
                await asyncio.gather(*decisions, return_exceptions=True)
                await eventually(partial(is_replaced, servers, master))
                master.start()
                await eventually(servers.is_whole)
                await eventually(lambda: survivor.logged("run.taken_over"))
                await asyncio.sleep(3)  # what was taken over would send again now
            sent.update(mail.subject for mail in smtp.messages)
    assert len(sent) >= ROUNDS
    assert [subject for subject, count in sent.items() if count > 1] == []
