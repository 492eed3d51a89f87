"""The operator's instructions are stored once, under their digest, and every replica can continue every run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import redis
from msgspec.structs import replace

from app.clock import SystemClock
from app.crypto.purpose_keys import PurposeKeys
from app.dev.demo.model import ScriptedModelServer
from app.redis import keys
from app.redis.checkpoints import Checkpoints
from app.redis.seals import CheckpointSeal
from app.settings.prompt_file import PromptFile
from app.testing.clock import ClockAhead
from statemachine.agent import Agent
from statemachine.instructions import text_digest
from tests.harness.approvals import FINAL_ANSWER
from tests.harness.frames import Frame, check
from tests.harness.raw import MakeSettings
from tests.harness.service import SECRET, Aura, running
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually
from tests.statemachine.runs import Run

if TYPE_CHECKING:
    from app.redis.wire.connection import Connection

INSTRUCTIONS = "당신은 재고 담당 도우미입니다. " * 100
OTHERS = "You are a helper of the sales department. " * 100


def file_with(path: Path, text: str) -> PromptFile:
    path.write_text(text, encoding="utf-8")
    return PromptFile.read(str(path))


async def start_waiting(aura: Aura, model: ScriptedModelServer) -> Frame:
    model.play(calling(("send_note", {"to": "김"})))
    async with aura.stream("메모를 보내줘") as stream:
        return await stream.until("hitl")


async def rejoin(other: Aura, hitl: Frame) -> list[Frame]:
    async with other.stream(method="GET", params={"sessionId": hitl["sessionId"]}) as stream:
        return await stream.rest()


async def approve_elsewhere(other: Aura, hitl: Frame) -> list[Frame]:
    await eventually(lambda: other.service.runs.owns(hitl["sessionId"]))
    await other.decide("approve", hitl["requestId"])
    return await rejoin(other, hitl)


async def test_a_replica_with_another_file_continues_a_run_with_the_instructions_it_began_with(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, tmp_path: Path
) -> None:
    mine, others = (file_with(tmp_path / name, text) for name, text in (("a", INSTRUCTIONS), ("b", OTHERS)))
    tool = risky()
    async with running(settings(aura_system_prompt_file=mine), tools=[tool]) as aura:
        hitl = await start_waiting(aura, model)
    saved = redis_client.get(keys.checkpoint(hitl["sessionId"]))
    assert INSTRUCTIONS[:200] not in str(saved)
    kept = keys.shared_text(text_digest(mine.text))
    assert redis_client.get(kept) == mine.text
    assert redis_client.ttl(kept) > redis_client.ttl(keys.checkpoint(hitl["sessionId"]))
    model.play(FINAL_ANSWER)
    async with running(settings(aura_system_prompt_file=others), tools=[tool]) as aura:
        frames = await approve_elsewhere(aura, hitl)
    check(frames)
    assert len(tool.ran) == 1
    assert [request["messages"][0]["content"][: len(mine.text)] for request in model.requests] == [mine.text] * 2
    assert keys.shared_text(text_digest(others.text)) not in redis_client.keys("aura:text:*")


@pytest.mark.parametrize("stored", [None, "Follow these instructions of somebody else."])
async def test_a_run_whose_instructions_are_gone_or_changed_ends_and_runs_nothing(
    settings: MakeSettings,
    model: ScriptedModelServer,
    redis_client: redis.Redis,
    tmp_path: Path,
    stored: str | None,
) -> None:
    mine, tool = file_with(tmp_path / "a", INSTRUCTIONS), risky()
    async with running(settings(aura_system_prompt_file=mine), tools=[tool]) as aura:
        hitl = await start_waiting(aura, model)
    key = keys.shared_text(text_digest(mine.text))
    redis_client.delete(key)
    if stored is not None:
        redis_client.set(key, stored)
    async with running(settings(), tools=[tool]) as aura:
        frames = await rejoin(aura, hitl)
    assert frames[-2]["status"] == "failed"
    assert tool.ran == []


async def test_a_text_that_redis_has_lost_is_stored_again_while_runs_refer_to_it(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, tmp_path: Path
) -> None:
    mine = file_with(tmp_path / "a", INSTRUCTIONS)
    key = keys.shared_text(text_digest(mine.text))
    clock = ClockAhead()
    async with running(settings(aura_system_prompt_file=mine), tools=[risky()], clock=clock) as aura:
        await start_waiting(aura, model)
        redis_client.delete(key)
        clock.ahead = 61.0
        model.play(FINAL_ANSWER)
        async with aura.stream("안녕하세요") as stream:
            await stream.rest()
    assert redis_client.get(key) == mine.text


async def test_a_checkpoint_refers_only_to_texts_that_were_stored_before() -> None:
    """While one text is stored, a file of agents may be read again: its texts are not stored yet."""
    stored: set[str] = set()
    agent = Agent.of(name="mail")

    class Storing:
        async def execute(self, _: str, key: str, *__: object) -> None:
            stored.add(key)
            checkpoints.share([OTHERS], [agent.definition])

    seal = CheckpointSeal(PurposeKeys([SECRET]), accept_unsigned=False)
    connection = cast("Connection", Storing())
    checkpoints = Checkpoints(connection, seal, SystemClock(), [INSTRUCTIONS], retention_seconds=3600)
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": "네"}]
    run = replace(Run().checkpoint, messages=messages, agent=agent)
    first = json.loads(await checkpoints.seal(run))
    assert first["messages"][0]["begins_with"] == text_digest(INSTRUCTIONS)
    assert "agent_version" not in first
    assert stored == {keys.shared_text(text_digest(INSTRUCTIONS))}
    assert json.loads(await checkpoints.seal(run))["agent_version"] == agent.version
    assert keys.shared_text(agent.version) in stored


async def test_a_short_text_stays_in_each_checkpoint(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, tmp_path: Path
) -> None:
    mine = file_with(tmp_path / "a", "You are Aura.")
    async with running(settings(aura_system_prompt_file=mine), tools=[risky()]) as aura:
        hitl = await start_waiting(aura, model)
    assert "You are Aura." in str(redis_client.get(keys.checkpoint(hitl["sessionId"])))
    assert redis_client.keys("aura:text:*") == []
