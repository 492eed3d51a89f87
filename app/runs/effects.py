"""Performs the effects of the core and returns facts: the model's turn, the tools, a person's decision."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import assert_never

import structlog

from app.errors import AuraError, FieldInvalid, ModelError
from app.ports.audit import AuditTrail, ToolEnded, ToolOutcome
from app.ports.clock import Clock
from app.ports.decisions import ApprovalRequests, RequestStatus
from app.ports.model import Model, ModelChoice
from app.ports.quotas import WaitingQuota
from app.ports.tools import Toolbox, ToolContext
from app.retry import retry_until_available
from app.runs.audit_events import tool_started
from statemachine.agent import Agent
from statemachine.call import ToolCall
from statemachine.call_pieces import RawCall
from statemachine.checkpoint import Approval, Checkpoint
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
    RequestedCall,
    RunTools,
    Stop,
    ToolFinished,
    ToolsRequested,
)
from statemachine.prompt import with_continuation
from statemachine.stored import JsonObject
from statemachine.turn import AnswerCompleted, ToolCallsCompleted, TurnBuffer

log = structlog.get_logger(__name__)

COALESCING_SECONDS = 0.024
"""Coalescing window for streamed text; the first chunk of an answer is sent at once."""


class _Ticker:
    """One timer for all runs, so that they read, commit and send at the same moments: most of the cost of a piece of
    text is waking the process for it."""

    def __init__(self) -> None:
        self._tick: asyncio.Event | None = None

    async def wait(self) -> None:
        """Wait for the next tick, at most `COALESCING_SECONDS`."""
        if self._tick is None:
            self._tick = asyncio.Event()
            asyncio.get_running_loop().call_later(COALESCING_SECONDS, self._fire)
        await self._tick.wait()

    def _fire(self) -> None:
        if self._tick is not None:
            self._tick.set()
            self._tick = None


class Effects:
    """The only code that calls the model and the tools for a run."""

    def __init__(
        self,
        model: Model,
        tools: Toolbox,
        requests: ApprovalRequests,
        clock: Clock,
        audit: AuditTrail,
        waiting: WaitingQuota,
    ) -> None:
        self._audit = audit
        self._model = model
        self._tools = tools
        self._requests = requests
        self._clock = clock
        self._waiting = waiting
        self._ticker = _Ticker()

    def perform(self, checkpoint: Checkpoint, effect: Effect) -> AsyncIterator[Sequence[Fact]]:
        """Return an iterator of the facts that the effect leads to, in order, with those of one moment in one batch.

        Closing the iterator stops the effect.
        """
        match effect:
            case CallModel():
                return self._call_model(checkpoint, effect)
            case RunTools():
                return self._run_tools(checkpoint, effect)
            case AwaitDecision() | Continue() | Stop():
                raise ValueError(f"{type(effect).__name__} is not performed outside the run's own loop")
            case _:
                assert_never(effect)

    # --- the model ----------------------------------------------------------------------------------------------------

    async def _call_model(self, checkpoint: Checkpoint, effect: CallModel) -> AsyncIterator[Sequence[Fact]]:
        while effect.not_before is not None and self._clock.now() < effect.not_before:
            await self._clock.wait(asyncio.Event(), effect.not_before)
        agent = checkpoint.agent
        tools = self._tools.schemas(None if agent is None else agent.tools)
        names = frozenset(tool["function"]["name"] for tool in tools)
        turn, arrived = TurnBuffer(streamed=effect.streamed, tool_names=names), asyncio.Event()
        messages = with_continuation(effect.messages, effect.streamed) if effect.streamed else effect.messages
        reader = asyncio.create_task(self._read_model(agent, messages, tools, turn, arrived))
        try:
            while not reader.done():
                until = min(turn.release_at or checkpoint.run_deadline_at, checkpoint.run_deadline_at)
                await self._clock.wait(arrived, until)
                arrived.clear()
                now = self._clock.now()
                if now >= checkpoint.run_deadline_at:
                    yield (*turn.take_facts(now), DeadlinePassed())
                    return
                if not reader.done() and (facts := turn.take_facts(now)):
                    yield facts
            end = self._turn_end(checkpoint, turn, reader.result())
            yield [await self._within_quota(checkpoint, fact) for fact in end]
        finally:
            if not reader.done():
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)

    async def _read_model(
        self,
        agent: Agent | None,
        messages: Sequence[JsonObject],
        tools: Sequence[JsonObject],
        turn: TurnBuffer,
        arrived: asyncio.Event,
    ) -> ModelError | None:
        """Feed the model's stream into the turn as it arrives. Returns the error that ended it, or None."""
        choice = None if agent is None else ModelChoice(agent.model, agent.options)
        try:
            async with self._model.stream(messages, tools, choice=choice) as arrivals:
                async for delta in arrivals:
                    turn.add_delta(delta, self._clock.now())
                    arrived.set()
                    if turn.is_too_long:
                        return ModelError("truncated", "the model's turn is longer than a turn may be")
                    if not turn.is_urgent:
                        await self._ticker.wait()
            return None
        except ModelError as error:
            return error
        finally:
            arrived.set()

    def _turn_end(self, checkpoint: Checkpoint, turn: TurnBuffer, failure: ModelError | None) -> list[Fact]:
        agent, max_calls = checkpoint.agent, checkpoint.limits.calls_per_turn
        if failure is not None:
            return self._failed_turn(agent, turn, failure)
        facts, end = turn.finish()
        match end:
            case AnswerCompleted():
                return [*facts, AnswerFinished(end.text, end.rest, end.usage, end.extras, turn.source)]
            case ToolCallsCompleted():
                # The core does not consider the calls after the first `max_calls`, so they are not checked, either.
                checked = [self._resolved(agent, call) for call in end.calls[:max_calls]]
                calls = (*checked, *map(_unchecked, end.calls[max_calls:]))
                return [*facts, ToolsRequested(calls, end.text, end.usage, end.confidence, end.extras, turn.source)]
            case ModelFailed():
                return [*facts, *self._failed_turn(agent, turn, ModelError(end.failure, end.message))]
            case _:
                assert_never(end)

    async def _within_quota(self, checkpoint: Checkpoint, fact: Fact) -> Fact:
        """Return the fact with its calls that need an approval refused, if the user has no room for a waiting run."""
        if not isinstance(fact, ToolsRequested) or not fact.asks_a_person(checkpoint):
            return fact
        refusal = await retry_until_available(
            lambda: self._waiting.reserve(checkpoint.request, checkpoint.run_deadline_at),
            on_unavailable=lambda error: log.warning("run.paused", cause=error.cause),
        )
        return fact if refusal is None else fact.without_approvals(checkpoint, refusal)

    def _resolved(self, agent: Agent | None, call: RawCall) -> RequestedCall:
        allowed = None if agent is None else agent.tools
        return self._tools.resolve(call.id, call.name, call.arguments, allowed).with_extras(call.extras)

    def _failed_turn(self, agent: Agent | None, turn: TurnBuffer, error: ModelError) -> list[Fact]:
        """Return the facts of a failed turn, with the text that clients have not received yet.

        Another attempt continues after that text.
        """
        chosen = (agent.model if agent is not None else None) or self._model.name
        model = turn.source.model if turn.source is not None else chosen
        log.warning("model.failed", model=model, kind=error.kind, cause=error.cause, detail=error.detail or None)
        remaining = turn.take_facts(self._clock.now())
        return [*remaining, turn.failed(error.kind, error.message, error.model_retry_after_seconds)]

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
                email=request.email,
            )
            task = asyncio.create_task(self._run_tool(checkpoint, call, context))
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

    async def _run_tool(self, checkpoint: Checkpoint, call: ToolCall, context: ToolContext) -> ToolFinished:
        """Run one tool, with its entries in the record. A call that needs an approval waits until its entry is stored:
        without it, it does not run."""
        tenant_id, started = context.tenant_id, tool_started(checkpoint, call)
        ended = partial(ToolEnded, session=context.session_id, call=call.id, tool=call.name)
        outcome: ToolOutcome = "cancelled"
        try:
            if call.needs_approval or call.grant is not None:
                await self._audit.write(tenant_id, started)
            else:
                self._audit.record(tenant_id, started)
            log.info("tool.started", tool=call.name, callId=call.id)
            finished = await self._tools.execute(call, context)
            outcome = "completed" if finished.error is None else "failed"
            return finished
        except AuraError:
            outcome = "refused"
            raise
        finally:
            self._audit.record(tenant_id, ended(outcome=outcome))
            log.info("tool.ended", tool=call.name, callId=call.id, outcome=outcome)

    # --- decisions of people ------------------------------------------------------------------------------------------

    def accept(self, checkpoint: Checkpoint, decision: Decision) -> None:
        """Raise `SignalIgnored` where the decision's edited arguments do not fit the tool of the open request."""
        approval = checkpoint.open_approval
        if approval is None or decision.verdict != "approved" or decision.arguments is None:
            return
        try:
            self._tools.validate_edit(approval.action_type, decision.arguments, _arguments(checkpoint, approval))
        except FieldInvalid as error:
            raise SignalIgnored(error.message) from error

    async def decision_fact(
        self, checkpoint: Checkpoint, effect: AwaitDecision, decision: Decision | None
    ) -> Fact | None:
        """Return the fact that ends the wait: the decision, or else the deadline. None while there is neither.

        When the deadline has passed the request is closed first. A person who decides in that moment is either faster,
        and the decision counts, or gets the status `expired`. Raises `StorageUnavailable`.
        """
        until = min(effect.deadline_at, checkpoint.run_deadline_at)
        if decision is None:
            if self._clock.now() < until:
                return None
            closed = await self._requests.close(effect.approval.request_id, RequestStatus.EXPIRED)
            faster = closed.decision if closed is not None and closed.shows(effect.approval) else None
            in_time = faster is not None and faster.decided_at < until and self._is_accepted(checkpoint, faster)
            decision = faster if in_time else None
        return DeadlinePassed() if decision is None else self._decided(checkpoint, effect.approval, decision)

    def _is_accepted(self, checkpoint: Checkpoint, decision: Decision) -> bool:
        try:
            self.accept(checkpoint, decision)
        except SignalIgnored:
            return False
        return True

    def _decided(self, checkpoint: Checkpoint, approval: Approval, decision: Decision) -> Fact:
        if decision.verdict == "rejected":
            return ApprovalRejected(
                decision.request_id,
                decision.decided_at,
                decision.decided_by,
                decision.reason or "",
                decision.skip,
                decision.via,
            )
        granted = ApprovalGranted(decision.request_id, decision.decided_at, decision.decided_by, via=decision.via)
        if decision.arguments is None:
            return granted
        original = _arguments(checkpoint, approval)
        return granted.edited(*self._tools.validate_edit(approval.action_type, decision.arguments, original))


def _unchecked(call: RawCall) -> RequestedCall:
    """Return a call that is beyond the limit of its turn."""
    refusal = "it is beyond the limit of the turn"
    unchecked = RequestedCall(id=call.id, name=call.name, arguments={}, raw_arguments="{}", refusal=refusal)
    return unchecked.with_extras(call.extras)


def _arguments(checkpoint: Checkpoint, approval: Approval) -> JsonObject:
    """Return the arguments of the call that an approval is about."""
    call = checkpoint.call(approval.call_id)
    return call.arguments if call is not None else {}
