"""The facts of an effect: those of one moment come together, so that they are one commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from app.clock import SystemClock
from app.errors import ModelError
from app.ports.decisions import ApprovalRequests
from app.ports.model import ModelChoice
from app.ports.quotas import WaitingQuota
from app.runs.effects import Effects
from app.tools.registry import ToolRegistry
from statemachine.call_pieces import CallPiece
from statemachine.checkpoint import Limits
from statemachine.messages import (
    AnswerArrived,
    AnswerFinished,
    Effect,
    Fact,
    ModelFailed,
    RunTools,
    ThoughtArrived,
    ToolFinished,
    ToolsRequested,
)
from statemachine.stored import JsonObject
from statemachine.turn import MAX_HOLD_CHUNKS, ModelDelta
from statemachine.workflow import advance, begin
from tests.harness.audit import KeptTrail
from tests.harness.tools import NoteTool
from tests.statemachine.runs import request

TOOL = NoteTool()
CALLS = tuple(CallPiece(index, f"c{index}", TOOL.name, '{"to": "김"}') for index in range(5))


class ReadyModel:
    """A model whose whole response has arrived when it is requested."""

    name = "ready"

    def __init__(self, *deltas: ModelDelta, failure: ModelError | None = None) -> None:
        self._deltas = deltas
        self._failure = failure

    @asynccontextmanager
    async def stream(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], *, choice: ModelChoice | None = None
    ) -> AsyncIterator[AsyncIterator[ModelDelta]]:
        yield self._deltas_then_failure()

    async def _deltas_then_failure(self) -> AsyncIterator[ModelDelta]:
        for delta in self._deltas:
            yield delta
        if self._failure is not None:
            raise self._failure


async def moments(effect: Effect | None = None, *deltas: ModelDelta, failure: ModelError | None = None) -> Any:
    """Return the batches of facts of an effect, by default of the first model turn."""
    clock = SystemClock()
    model = ReadyModel(*deltas, failure=failure)
    tools, requests, quota = ToolRegistry([TOOL]), cast("ApprovalRequests", None), cast("WaitingQuota", None)
    effects = Effects(model, tools, requests, clock, KeptTrail(), quota)
    opened = begin(request(), [{"role": "user", "content": "?"}], Limits(), clock.now())
    async with aclosing(cast("Any", effects.perform(opened.checkpoint, effect or opened.effect))) as found:
        return [list(facts) async for facts in found]


async def test_an_answer_that_arrives_at_once_is_one_batch_of_facts() -> None:
    delta = ModelDelta(reasoning="음…", text="네.", finish_reason="stop", chunk_count=2 * MAX_HOLD_CHUNKS)
    assert await moments(None, delta) == [[ThoughtArrived("음…"), AnswerFinished("네.", "네.")]]


async def test_thoughts_and_calls_of_a_turn_are_one_batch_of_facts() -> None:
    delta = ModelDelta(text="봅시다", calls=CALLS, finish_reason="tool_calls")
    ((thought, requested),) = await moments(None, delta)
    assert thought == ThoughtArrived("봅시다", "planning")
    assert isinstance(requested, ToolsRequested)
    assert len(requested.calls) == len(CALLS)


async def test_text_that_arrived_before_a_failure_is_published_with_it() -> None:
    ((shown, failed),) = await moments(None, ModelDelta(text="네", chunk_count=MAX_HOLD_CHUNKS, finish_reason="length"))
    assert shown == AnswerArrived("네")
    assert isinstance(failed, ModelFailed)
    assert (failed.failure, failed.streamed) == ("truncated", "네")
    broke = ModelError("interrupted", "it broke")
    found = await moments(None, ModelDelta(text="네", chunk_count=MAX_HOLD_CHUNKS), failure=broke)
    assert found == [[AnswerArrived("네")], [ModelFailed("interrupted", broke.message, "네")]]


async def test_calls_that_end_at_the_same_time_are_one_batch_of_facts() -> None:
    clock = SystemClock()
    opened = begin(request(), [], Limits(), clock.now())
    registry = ToolRegistry([TOOL])
    requested = tuple(registry.resolve(call.id, call.name, call.arguments) for call in CALLS)
    effect = advance(opened.checkpoint, ToolsRequested(requested), clock.now()).effect
    assert isinstance(effect, RunTools)
    (facts,) = await moments(effect)
    ended = [fact.call_id for fact in cast("list[Fact]", facts) if isinstance(fact, ToolFinished)]
    assert sorted(ended) == [call.id for call in CALLS]
