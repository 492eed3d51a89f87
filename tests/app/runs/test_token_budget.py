"""`AURA_RUN_TOKENS`: a turn above a run's budget is not requested, and a crash does not spend for free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from tests.harness.frames import Frame, check, types
from tests.harness.outcomes import completed, failed
from tests.harness.service import Aura, headers, running
from tests.harness.tools import NoteTool, calling
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
LONG_PROMPT = "가" * 2_000
"""About 2,000 tokens: a budget of 3,500 allows one attempt and no second one."""
CALL = ("write_note", {"to": "김"})


def usage(total: int) -> dict[str, int]:
    return {"prompt_tokens": total - 10, "completion_tokens": 10, "total_tokens": total}


async def run_prompt(aura: Aura, prompt: str = "메모를 써 줘") -> list[Frame]:
    async with asyncio.timeout(30), aura.stream(prompt) as stream:
        frames = await stream.rest()
    check(frames)
    return frames


async def record_of(aura: Aura, frames: list[Frame]) -> dict[str, Any]:
    response = await aura.client.get(f"/aura/runs/{frames[0]['sessionId']}", headers=headers())
    data: dict[str, Any] = response.json()["data"]
    return data


async def test_turn_that_the_budget_does_not_allow_is_not_requested(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(calling(CALL, usage=usage(4_900)))
    tool = NoteTool()
    async with running(settings(aura_run_tokens=5_000), tools=[tool]) as aura:
        frames = await run_prompt(aura)
        record = await record_of(aura, frames)
    message = failed(frames, "LimitExceeded", "E1000", retryable=False)
    assert message.startswith(
        "토큰 한도(5000개)에 도달하여 작업을 중단했습니다. (AURA_RUN_TOKENS is 5000: 4900 are spent"
    )
    assert (len(model.requests), len(tool.ran)) == (1, 1)
    assert frames[-2]["usage"]["totalTokens"] == 4_900
    assert (record["spentTokens"], record["reservedTokens"], record["limits"]["tokens"]) == (4_900, 0, 5_000)
    assert record["ending"]["message"] == message
    (turn,) = record["modelTurns"]
    assert (turn["turn"], turn["attempt"], turn["outcome"]) == (1, 1, "tools")
    assert turn["usage"] == {"promptTokens": 4_890, "completionTokens": 10, "totalTokens": 4_900}
    assert turn["startedAt"] <= turn["endedAt"]


async def test_run_within_its_budget_completes(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(calling(CALL, usage=usage(1_000)), ScriptedTurn(text="썼습니다.", usage=usage(1_500)))
    async with running(settings(aura_run_tokens=5_000), tools=[NoteTool()]) as aura:
        frames = await run_prompt(aura)
        record = await record_of(aura, frames)
    completed(frames, "썼습니다.")
    assert (record["spentTokens"], record["usage"]["totalTokens"]) == (2_500, 2_500)


async def test_prompt_above_the_budget_ends_the_run_before_the_model_is_asked(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="네."))
    async with running(settings(aura_run_tokens=1_000, aura_max_runs_per_user=1)) as aura:
        frames = await run_prompt(aura, "길다 " * 1_000)
        record = await record_of(aura, frames)
        assert model.requests == []
        short = await run_prompt(aura, "짧다")  # the first run is not active any more
    message = failed(frames, "LimitExceeded", "E1000", retryable=False)
    assert "AURA_RUN_TOKENS is 1000: 0 are spent" in message
    assert types(frames)[:2] == ["start", "thought"]
    assert (record["state"], record["modelTurns"], record["spentTokens"]) == ("failed", [], 0)
    completed(short, "네.")


async def test_attempts_of_a_model_that_is_down_use_up_the_budget(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(status=503))
    async with running(settings(aura_run_tokens=3_500)) as aura:
        frames = await run_prompt(aura, LONG_PROMPT)
        record = await record_of(aura, frames)
    assert "AURA_RUN_TOKENS is 3500" in failed(frames, "LimitExceeded", "E1000", retryable=False)
    assert len(model.requests) == 1
    assert record["spentTokens"] > 2_000


async def test_turn_that_is_lost_in_a_crash_stays_counted(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="네.", hang_after=0))
    made = settings(aura_run_tokens=3_500)
    async with running(made) as first, running(made), first.stream(LONG_PROMPT) as stream:
        await eventually(lambda: model.requests)
        first.service.runs.release_all()
        await first.service.stores.nodes.stop()
        async with asyncio.timeout(30):
            frames = await stream.rest()
        record = await record_of(first, frames)
    assert "AURA_RUN_TOKENS is 3500" in failed(frames, "LimitExceeded", "E1000", retryable=False)
    assert len(model.requests) == 1, "the second attempt would spend more than the budget"
    assert [turn["outcome"] for turn in record["modelTurns"]] == ["lost"]
    assert record["spentTokens"] > 2_000
