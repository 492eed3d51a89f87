"""Carries out what the core asks for and tells it what happened: the model's turn, the tools, a person's decision."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import assert_never

from app.errors import FieldInvalid, ModelError
from app.ports.clock import Clock
from app.ports.decisions import DecisionBus, RequestStatus
from app.ports.model import Model
from app.ports.tools import Toolbox, ToolContext
from statemachine.checkpoint import Checkpoint, JsonObject
from statemachine.decisions import Decision, SignalIgnored
from statemachine.messages import (
    AnswerFinished,
    ApprovalGranted,
    ApprovalRejected,
    AwaitDecision,
    CallModel,
    Continue,
    DeadlinePassed,
    Effect,
    Fact,
    ModelFailed,
    RunTools,
    Stop,
    ToolFinished,
    ToolsRequested,
)
from statemachine.prompt import with_continuation
from statemachine.turn import AnswerCompleted, ToolCallsCompleted, TurnBuffer

GATHER_SECONDS = 0.024
"""Text that arrives within so long of other text may wait for it; the first never does."""


class _Beat:
    """One timer for all runs, so that what they read, commit and tell goes together: most of what a piece of text costs
    is the process being woken for it."""

    def __init__(self) -> None:
        self._next: asyncio.Event | None = None

    async def next(self) -> None:
        if self._next is None:
            self._next = asyncio.Event()
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._strike)
        await self._next.wait()

    def _strike(self) -> None:
        if self._next is not None:
            self._next.set()
            self._next = None


class Effects:
    """The one place where the outside world is touched for a run."""

    def __init__(self, model: Model, tools: Toolbox, decisions: DecisionBus, clock: Clock) -> None:
        self._model = model
        self._tools = tools
        self._decisions = decisions
        self._clock = clock
        self._beat = _Beat()

    def perform(self, checkpoint: Checkpoint, effect: Effect) -> AsyncIterator[Sequence[Fact]]:
        """The facts that the effect comes to, in order, those of one moment together; closing the iterator stops it.

        Waiting for a person is one look: it comes to nothing while nobody has decided.
        """
        match effect:
            case CallModel():
                return self._call_model(checkpoint, effect)
            case RunTools():
                return self._run_tools(checkpoint, effect)
            case AwaitDecision():
                return self._await_decision(checkpoint, effect)
            case Continue() | Stop():
                raise ValueError(f"{effect} is nothing to carry out")
            case _:
                assert_never(effect)

    # --- the model ----------------------------------------------------------------------------------------------------

    async def _call_model(self, checkpoint: Checkpoint, effect: CallModel) -> AsyncIterator[Sequence[Fact]]:
        while effect.not_before is not None and self._clock.now() < effect.not_before:
            await self._clock.wait(asyncio.Event(), effect.not_before)
        tools = self._tools.schemas()
        turn, arrived = TurnBuffer(streamed=effect.streamed, may_call=bool(tools)), asyncio.Event()
        messages = with_continuation(effect.messages, effect.streamed) if effect.streamed else effect.messages
        pump = asyncio.create_task(self._pump(messages, tools, turn, arrived))
        try:
            while not pump.done():
                until = min(turn.release_at or checkpoint.run_deadline_at, checkpoint.run_deadline_at)
                await self._clock.wait(arrived, until)
                arrived.clear()
                now = self._clock.now()
                if now >= checkpoint.run_deadline_at:
                    yield (*turn.take_facts(now), DeadlinePassed())
                    return
                if not pump.done() and (facts := turn.take_facts(now)):
                    yield facts
            yield self._turn_end(turn, pump.result())
        finally:
            if not pump.done():
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)

    async def _pump(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], turn: TurnBuffer, arrived: asyncio.Event
    ) -> ModelError | None:
        """From the model into the turn, at the model's pace; how it failed, if it did."""
        try:
            async with self._model.stream(messages, tools) as arrivals:
                async for delta in arrivals:
                    turn.add_delta(delta, self._clock.now())
                    arrived.set()
                    if turn.is_too_long:
                        return ModelError("truncated", "the model's turn is longer than a turn may be")
                    if not turn.is_urgent:
                        await self._beat.next()
            return None
        except ModelError as error:
            return error
        finally:
            arrived.set()

    def _turn_end(self, turn: TurnBuffer, failure: ModelError | None) -> list[Fact]:
        if failure is not None:
            return self._failed(turn, failure)
        facts, end = turn.finish()
        match end:
            case AnswerCompleted(text=text, rest=rest, usage=usage):
                return [*facts, AnswerFinished(text, rest, usage)]
            case ToolCallsCompleted(calls=calls, text=text, usage=usage, confidence=confidence):
                resolved = tuple(self._tools.resolve(call.id, call.name, call.arguments) for call in calls)
                return [*facts, ToolsRequested(resolved, text, usage, confidence)]
            case ModelFailed():
                return self._failed(turn, ModelError(end.failure, end.message))
            case _:
                assert_never(end)

    def _failed(self, turn: TurnBuffer, error: ModelError) -> list[Fact]:
        """With what clients may see of the turn: another attempt goes on from there."""
        shown = turn.take_facts(self._clock.now())
        return [*shown, ModelFailed(error.kind, error.message, turn.streamed, error.model_retry_after_seconds)]

    # --- tools --------------------------------------------------------------------------------------------------------

    async def _run_tools(self, checkpoint: Checkpoint, effect: RunTools) -> AsyncIterator[Sequence[Fact]]:
        request, ended = checkpoint.request, asyncio.Event()
        running: set[asyncio.Task[ToolFinished]] = set()
        for call in effect.calls:
            context = ToolContext(
                session_id=request.session_id,
                tenant_id=request.tenant_id,
                user_id=request.user_id,
                idempotency_key=f"{request.session_id}:{call.id}",
            )
            task = asyncio.create_task(self._tools.execute(call, context))
            task.add_done_callback(lambda _: ended.set())
            running.add(task)
        try:
            while running:
                await self._clock.wait(ended, checkpoint.run_deadline_at)
                ended.clear()
                done = [task for task in running if task.done()]
                running.difference_update(done)
                if done:
                    yield [task.result() for task in done]
                if running and self._clock.now() >= checkpoint.run_deadline_at:
                    yield [DeadlinePassed()]
                    return
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    # --- a person -----------------------------------------------------------------------------------------------------

    async def _await_decision(self, checkpoint: Checkpoint, effect: AwaitDecision) -> AsyncIterator[Sequence[Fact]]:
        approval = effect.approval
        call = checkpoint.call(approval.call_id)
        original = call.arguments if call else {}

        def accept(decision: Decision) -> None:
            if decision.verdict == "approved" and decision.arguments is not None:
                try:
                    self._tools.validate_edit(approval.action_type, decision.arguments, original)
                except FieldInvalid as error:
                    raise SignalIgnored(error.message) from error

        until = min(effect.deadline_at, checkpoint.run_deadline_at)
        decision = await self._decisions.look(checkpoint.session_id, until, accept)
        if decision is None:
            if self._clock.now() < until:
                return
            # Whoever decides in this very moment either gets in before the request is closed, or is told `expired`.
            faster = await self._decisions.close_request(approval.request_id, RequestStatus.EXPIRED, until)
            decision = faster if faster is not None and _holds(accept, faster) else None
        yield [DeadlinePassed() if decision is None else self._decided(decision, approval.action_type, original)]

    def _decided(self, decision: Decision, tool: str, original: JsonObject) -> Fact:
        if decision.verdict == "rejected":
            return ApprovalRejected(
                decision.request_id, decision.decided_at, decision.decided_by, decision.reason or "", decision.skip
            )
        if decision.arguments is None:
            return ApprovalGranted(decision.request_id, decision.decided_at, decision.decided_by)
        edited = self._tools.validate_edit(tool, decision.arguments, original)
        return ApprovalGranted(decision.request_id, decision.decided_at, decision.decided_by, *edited)


def _holds(accept: Callable[[Decision], None], decision: Decision) -> bool:
    try:
        accept(decision)
    except SignalIgnored:
        return False
    return True
