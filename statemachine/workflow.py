"""`advance()`: a checkpoint, a fact and the time → the next checkpoint, the events to publish, the effect to carry out.

Pure: no await, no clock, no log. Every (state, fact) pair is either legal or refused by name (`FactRefused`), and a
refused fact changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from msgspec.structs import replace

from statemachine import endings
from statemachine.checkpoint import (
    Approval,
    CallStatus,
    Checkpoint,
    Confidence,
    Grant,
    JsonObject,
    Limits,
    PlanStep,
    RunRequest,
    ToolCall,
    canonical_json,
    digest,
)
from statemachine.errors import FactRefused
from statemachine.events import Content, Hitl, Start, Thought
from statemachine.messages import (
    AnswerArrived,
    AnswerFinished,
    ApprovalGranted,
    ApprovalRejected,
    AwaitDecision,
    CallModel,
    CancelRequested,
    Continue,
    DeadlinePassed,
    Effect,
    Fact,
    InternalErrorOccurred,
    ModelFailed,
    RequestedCall,
    RunRecovered,
    RunResumed,
    RunTools,
    Step,
    ThoughtArrived,
    ToolFinished,
    ToolsRequested,
)
from statemachine.states import OPEN_STATES, State, Trigger
from statemachine.step_builder import StepBuilder

_MODEL_TURN = frozenset({State.PLANNING, State.CONTENT})
_ANY_OPEN = frozenset(OPEN_STATES)

ACCEPTED: dict[type[Fact], frozenset[State]] = {
    ThoughtArrived: _MODEL_TURN,
    AnswerArrived: _MODEL_TURN,
    ToolsRequested: _MODEL_TURN,
    AnswerFinished: _MODEL_TURN,
    ModelFailed: _MODEL_TURN,
    ToolFinished: frozenset({State.TOOL}),
    ApprovalGranted: frozenset({State.AWAITING_APPROVAL}),
    ApprovalRejected: frozenset({State.AWAITING_APPROVAL}),
    DeadlinePassed: _ANY_OPEN,
    CancelRequested: _ANY_OPEN,
    InternalErrorOccurred: _ANY_OPEN,
    RunRecovered: _ANY_OPEN,
    RunResumed: frozenset({State.AWAITING_APPROVAL}),
}
"""Where each fact is legal; everywhere else it is refused."""


def begin(request: RunRequest, messages: list[JsonObject], limits: Limits, now: float) -> Step:
    """Open a run: it is seen before the model is asked (§4). `messages` end with the user's prompt."""
    checkpoint = Checkpoint(request=request, limits=limits, created_at=now, updated_at=now, messages=messages)
    builder = StepBuilder(checkpoint, "RunRequest", now)
    builder.begin_turn(now)
    events = (
        Start(
            message="요청을 받았습니다.",
            session_id=request.session_id,
            thread_id=request.thread_id,
            state=State.PLANNING.value,
        ),
        Thought(thought_type="analysis", content="사용자의 요청을 분석하고 있습니다..."),
    )
    return Step(builder.checkpoint, events, CallModel(tuple(messages)))


def advance(checkpoint: Checkpoint, fact: Fact, now: float) -> Step:
    """The step that `fact` makes at `now` (Unix s). Raises `FactRefused`."""
    if checkpoint.state not in ACCEPTED[type(fact)]:
        raise FactRefused(type(fact).__name__, checkpoint.state, "the fact is not legal here")
    builder = StepBuilder(checkpoint, type(fact).__name__, now)
    return builder.build(_apply(builder, fact))


def advance_all(checkpoint: Checkpoint, facts: Iterable[Fact], now: float) -> Step:
    """One step of facts that came at the same moment, as far as the first that does not just `Continue`."""
    step = Step(checkpoint, (), Continue())
    for fact in facts:
        following = advance(step.checkpoint, fact, now)
        step = Step(following.checkpoint, step.events + following.events, following.effect)
        if not isinstance(step.effect, Continue):
            break
    return step


def _apply(builder: StepBuilder, fact: Fact) -> Effect:  # noqa: C901, PLR0911, PLR0912 - one case a fact
    match fact:
        case ThoughtArrived(text=text, thought_type=thought_type):
            builder.add_event(Thought(thought_type=thought_type, content=text))
            return Continue()
        case AnswerArrived():
            return _answer_arrived(builder, fact)
        case ToolsRequested():
            return _tools_requested(builder, fact)
        case AnswerFinished():
            return _answer_finished(builder, fact)
        case ModelFailed():
            return _model_failed(builder, fact)
        case ToolFinished():
            return _tool_finished(builder, fact)
        case ApprovalGranted():
            return _granted(builder, fact)
        case ApprovalRejected():
            return _rejected(builder, fact)
        case DeadlinePassed():
            return _deadline_passed(builder)
        case CancelRequested():
            return endings.cancel(builder, fact.cancelled_by)
        case InternalErrorOccurred():
            return endings.fail(builder, fact.error_type, fact.error_code, fact.message, retryable=True)
        case RunRecovered():
            return _recovered(builder, fact)
        case RunResumed():
            return _resumed(builder)
        case _:
            assert_never(fact)


# --- the model's turn -------------------------------------------------------------------------------------------------


def _answer_arrived(builder: StepBuilder, fact: AnswerArrived) -> Effect:
    builder.add_event(Content(content=_begin_answer(builder) + fact.text, chunk=True))
    return Continue()


def _answer_finished(builder: StepBuilder, fact: AnswerFinished) -> Effect:
    rest = _begin_answer(builder) + fact.rest
    builder.add_message({"role": "assistant", "content": fact.text})
    builder.update(usage=builder.checkpoint.usage.plus(fact.usage))
    builder.end_turn("answer", fact.usage)
    builder.add_event(Content(content=rest, chunk=False))
    return endings.complete(builder)


def _begin_answer(builder: StepBuilder) -> str:
    """Enter `content`, if the turn is not there yet; what goes between this turn's text and an earlier one's."""
    if builder.checkpoint.state is not State.PLANNING:
        return ""
    has_text = any(record.dest is State.CONTENT for record in builder.checkpoint.path)
    builder.transition(Trigger.ANSWER)
    return "\n\n" if has_text else ""


_BACKOFF_SECONDS = 0.5
_MOST_PATIENCE_SECONDS = 30.0


def _model_failed(builder: StepBuilder, fact: ModelFailed) -> Effect:
    """Ask again where that can help and little of the user's time is lost; else end with the precise cause."""
    builder.end_turn("failed")
    attempt = builder.checkpoint.model_attempt
    pause = fact.retry_after_seconds or _BACKOFF_SECONDS * 2 ** (attempt - 1)
    again = fact.failure in ("unavailable", "interrupted") and pause <= _MOST_PATIENCE_SECONDS
    if again and attempt < builder.checkpoint.limits.model_attempts:
        builder.update(model_attempt=attempt + 1, retry_at=builder.now + pause)
        builder.begin_turn(builder.now + pause)
        return CallModel(tuple(builder.checkpoint.messages), fact.streamed, builder.checkpoint.retry_at)
    match fact.failure:
        case "not_configured":
            return endings.fail(builder, "LLMNotConfigured", "E5000", fact.message, retryable=False)
        case "timeout":
            return endings.fail(builder, "ModelTimeout", "E5001", fact.message, retryable=True)
        case "truncated":
            return endings.fail(builder, "LimitExceeded", "E5000", fact.message, retryable=False)
        case "refused" | "unavailable" | "interrupted":
            return endings.fail(builder, "ModelError", "E5000", fact.message, retryable=fact.failure != "refused")
        case _:
            assert_never(fact.failure)


# --- tools ------------------------------------------------------------------------------------------------------------


def _tools_requested(builder: StepBuilder, fact: ToolsRequested) -> Effect:
    """Write the whole turn down; start what is safe. Intent and start of a safe call are one commit: nothing is
    between them, so a crash before it asks the model again and a crash after it finds the call started."""
    if not fact.calls:
        raise FactRefused("ToolsRequested", builder.checkpoint.state, "it asks for no call")
    builder.transition(Trigger.REQUEST_TOOLS)
    calls = _with_unique_ids(builder, fact.calls)
    builder.add_message(
        {
            "role": "assistant",
            "content": fact.text or None,
            "tool_calls": [
                {"id": id, "type": "function", "function": {"name": call.name, "arguments": _arguments_text(call)}}
                for id, call in calls
            ],
        }
    )
    builder.update(usage=builder.checkpoint.usage.plus(fact.usage))
    builder.end_turn("tools", fact.usage)
    for _, call in calls:
        if call.plan:
            builder.set_plan(call.plan)
    for id, call in calls:
        _admit(builder, id, call, fact.confidence)
    return _proceed(builder)


_MOST_ID_CHARACTERS = 128
"""Ids stand in a frame up to four times and must not fill it; no server that is known makes longer ones."""


def _with_unique_ids(builder: StepBuilder, requested: Iterable[RequestedCall]) -> list[tuple[str, RequestedCall]]:
    """Some servers number the calls of each turn anew, repeat an id within one, or send none at all."""
    taken = {call["id"] for message in builder.checkpoint.messages for call in message.get("tool_calls") or ()}
    calls = []
    for index, call in enumerate(requested):
        usable = 0 < len(call.id) <= _MOST_ID_CHARACTERS and call.id.isascii()
        own = call.id if usable else f"call-{builder.checkpoint.turn}-{index}"
        while own in taken:
            own = f"{own}-{builder.checkpoint.turn}-{index}"
        taken.add(own)
        calls.append((own, call))
    return calls


def _arguments_text(call: RequestedCall) -> str:
    """What goes back to the model as its own call: some servers refuse a history with malformed arguments."""
    return call.raw_arguments if call.refusal is None else canonical_json(call.arguments)


def _admit(builder: StepBuilder, id: str, requested: RequestedCall, confidence: Confidence) -> None:
    """Enter one call in the ledger: refused, queued for approval, or started."""
    if requested.plan is not None:
        builder.answer_call(id, requested.refusal or "The plan is recorded and shown to the user.")
        return
    call = ToolCall(
        id=id,
        name=requested.name,
        title=requested.title,
        arguments=requested.arguments,
        shown_arguments=requested.shown_arguments,
        needs_approval=requested.needs_approval,
        idempotent=requested.idempotent,
        question=requested.question,
        confidence=confidence,
        turn=builder.checkpoint.turn,
    )
    builder.update(calls=[*builder.checkpoint.calls, call])
    if not builder.checkpoint.plan_declared:
        title = requested.title or requested.name
        builder.add_step(PlanStep(id=id, title=title, description=requested.question, confidence=confidence))
    if requested.refusal is not None:
        builder.end_call(call, CallStatus.FAILED, answer=requested.refusal, error=requested.refusal)
    elif requested.needs_approval:
        _queue(builder, call, first=False)
    else:
        _start(builder, call)


def _queue(builder: StepBuilder, call: ToolCall, *, first: bool) -> None:
    question = call.question or f"{call.title or call.name}: 실행하시겠습니까?"
    if call.outcome_unknown:
        question = f"이 작업은 이미 실행되었을 수 있습니다. 다시 실행하시겠습니까? ({question})"
    asked = f"{builder.checkpoint.session_id}:{call.id}:{len(builder.checkpoint.path)}"
    approval = Approval(
        request_id=f"req-{digest(asked)[:12]}",
        call_id=call.id,
        action_type=call.name,
        message=question,
        arguments_digest=digest(call.arguments),
        outcome_unknown=call.outcome_unknown,
    )
    queue = builder.checkpoint.pending_approvals
    builder.update(pending_approvals=[approval, *queue] if first else [*queue, approval])


def _start(builder: StepBuilder, call: ToolCall) -> None:
    call = replace(call, status=CallStatus.STARTED, started_at=builder.now)
    builder.put_call(call)
    builder.add_event(builder.tool_event(call, "executing"))
    builder.mark_step(call.id, "in_progress")


def _proceed(builder: StepBuilder) -> Effect:
    """What comes next in `tool`: wait for running calls, ask for the next approval, or go back to the model."""
    if builder.checkpoint.running:
        return RunTools(tuple(builder.checkpoint.running))
    if builder.checkpoint.pending_approvals:
        return _ask(builder)
    turn = builder.checkpoint.turn + 1
    if turn > builder.checkpoint.limits.turns:
        limit = builder.checkpoint.limits.turns
        message = f"모델 호출 횟수 한도({limit}회)에 도달하여 작업을 중단했습니다."
        return endings.fail(builder, "LimitExceeded", "E1000", message, retryable=False)
    builder.update(turn=turn, model_attempt=1, retry_at=None)
    builder.begin_turn(builder.now)
    builder.transition(Trigger.REPORT_RESULTS)
    return CallModel(tuple(builder.checkpoint.messages))


def _ask(builder: StepBuilder) -> Effect:
    """Ask a person about the first of the queue. The `hitl` comes last: nothing may follow it in a write (§2.1)."""
    approval = builder.checkpoint.pending_approvals[0]
    call = builder.call(approval.call_id)
    builder.add_event(builder.tool_event(call, "pending"))
    builder.transition(Trigger.ASK_APPROVAL)
    # a person is never given time that the run does not have
    deadline_at = min(builder.now + builder.checkpoint.limits.approval_seconds, builder.checkpoint.run_deadline_at)
    builder.update(deadline_at=deadline_at)
    builder.begin_review(approval, deadline_at)
    builder.add_event(
        Hitl(
            request_id=approval.request_id,
            session_id=builder.checkpoint.session_id,
            action_type=approval.action_type,
            message=approval.message,
            context=call.shown_arguments,
            confidence=call.confidence.value,
            confidence_source=call.confidence.source,
            step_id=builder.step_id_for(call),
            expires_at=int(deadline_at),
            timeout_seconds=max(1, round(deadline_at - builder.now)),
            outcome_unknown=True if approval.outcome_unknown else None,
        )
    )
    return AwaitDecision(approval, deadline_at)


def _tool_finished(builder: StepBuilder, fact: ToolFinished) -> Effect:
    call = builder.checkpoint.call(fact.call_id)
    if call is None or call.status is not CallStatus.STARTED:
        raise FactRefused("ToolFinished", builder.checkpoint.state, f"call {fact.call_id} is not running")
    status = CallStatus.COMPLETED if fact.error is None else CallStatus.FAILED
    builder.end_call(call, status, answer=fact.answer, result=fact.result, error=fact.error)
    if fact.sources:
        # in the same commit as the result: the model may think nothing aloud, or the node may die before it does
        found = f"{call.title or call.name}: 근거 자료 {len(fact.sources)}건을 찾았습니다."
        builder.add_event(Thought(thought_type="analysis", content=found, sources=fact.sources))
    return Continue() if builder.checkpoint.running else _proceed(builder)


# --- decisions and deadlines ------------------------------------------------------------------------------------------


def _granted(builder: StepBuilder, fact: ApprovalGranted) -> Effect:
    builder.transition(Trigger.APPROVE, request_id=fact.request_id, decided_at=fact.decided_at)
    edited = fact.arguments is not None
    builder.end_review("approved", decided_at=fact.decided_at, decided_by=fact.decided_by, edited=edited)
    approved = builder.checkpoint.pending_approvals[0]
    call = builder.take_open_approval()
    arguments = call.arguments if fact.arguments is None else fact.arguments
    grant = Grant(
        request_id=fact.request_id,
        # what the person saw, not what the ledger says now: where they differ, nothing runs
        arguments_digest=approved.arguments_digest if fact.arguments is None else digest(fact.arguments),
        decided_by=fact.decided_by,
        decided_at=fact.decided_at,
        edited=edited,
    )
    shown = call.shown_arguments if fact.shown_arguments is None else fact.shown_arguments
    _start(builder, replace(call, arguments=arguments, shown_arguments=shown, grant=grant, outcome_unknown=False))
    return _proceed(builder)


def _rejected(builder: StepBuilder, fact: ApprovalRejected) -> Effect:
    reason = fact.reason or "사용자가 요청을 거절했습니다."
    if fact.skip or builder.checkpoint.limits.on_reject == "replan":
        builder.transition(Trigger.DECLINE, request_id=fact.request_id, decided_at=fact.decided_at)
        _end_rejected_review(builder, fact)
        call = builder.take_open_approval()
        known = "It may have run before" if call.outcome_unknown else "It was not run"
        answer = f"A person refused this call: {reason} {known}; do not try it again unchanged."
        builder.end_call(call, CallStatus.REJECTED, answer=answer, error=reason)
        return _proceed(builder)
    builder.transition(Trigger.REJECT, request_id=fact.request_id, decided_at=fact.decided_at)
    _end_rejected_review(builder, fact)
    return endings.reject(builder, reason)


def _end_rejected_review(builder: StepBuilder, fact: ApprovalRejected) -> None:
    reason = fact.reason or None
    builder.end_review("rejected", decided_at=fact.decided_at, decided_by=fact.decided_by, reason=reason)


def _deadline_passed(builder: StepBuilder) -> Effect:
    """The earlier deadline counts, however late it is looked at."""
    checkpoint = builder.checkpoint
    approval_ends_at, run_ends_at = checkpoint.deadline_at, checkpoint.run_deadline_at
    if approval_ends_at is not None and approval_ends_at < run_ends_at and builder.now >= approval_ends_at:
        builder.transition(Trigger.EXPIRE)
        builder.end_review("expired")
        return endings.time_out(builder)
    if builder.now >= run_ends_at:
        message = f"실행 시간 한도({checkpoint.limits.run_seconds:g}초)를 초과하여 작업을 중단했습니다."
        return endings.fail(builder, "LimitExceeded", "E5001", message, retryable=True)
    raise FactRefused("DeadlinePassed", checkpoint.state, "no deadline has passed")


def _recovered(builder: StepBuilder, fact: RunRecovered) -> Effect:
    """Perform the effect again. A started call without an outcome is repeated only where that is harmless; of any
    other a person decides, knowing that it may already have happened."""
    checkpoint = builder.checkpoint
    if checkpoint.state is State.TOOL:
        for call in reversed([call for call in checkpoint.running if not call.idempotent]):
            unknown = replace(call, status=CallStatus.REQUESTED, needs_approval=True, outcome_unknown=True, grant=None)
            builder.put_call(unknown)
            _queue(builder, unknown, first=True)
        return _proceed(builder)
    if checkpoint.state is State.AWAITING_APPROVAL:
        return _resumed(builder)
    builder.end_turn("lost")
    builder.begin_turn(max(builder.now, checkpoint.retry_at or 0))
    return CallModel(tuple(checkpoint.messages), fact.streamed, checkpoint.retry_at)


def _resumed(builder: StepBuilder) -> Effect:
    """Wait on for the open approval, until the deadline that it had."""
    checkpoint = builder.checkpoint
    if checkpoint.open_approval is None or checkpoint.deadline_at is None:
        raise FactRefused("RunResumed", checkpoint.state, "no approval is open")
    return AwaitDecision(checkpoint.open_approval, checkpoint.deadline_at)
