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
    ModelFailed,
    RequestedCall,
    RunBroke,
    RunRecovered,
    RunTools,
    Step,
    ThoughtArrived,
    ToolFinished,
    ToolsRequested,
)
from statemachine.states import OPEN_STATES, State, Trigger
from statemachine.step_builder import Draft

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
    RunBroke: _ANY_OPEN,
    RunRecovered: _ANY_OPEN,
}
"""Where each fact is legal; everywhere else it is refused."""


def begin(request: RunRequest, messages: list[JsonObject], limits: Limits, now: float) -> Step:
    """Open a run: it is seen before the model is asked (§4). `messages` end with the user's prompt."""
    checkpoint = Checkpoint(request=request, limits=limits, created_at=now, updated_at=now, messages=messages)
    draft = Draft(checkpoint, "RunRequest", now)
    draft.begin_turn(now)
    events = (
        Start(
            message="요청을 받았습니다.",
            session_id=request.session_id,
            thread_id=request.thread_id,
            state=State.PLANNING.value,
        ),
        Thought(thought_type="analysis", content="사용자의 요청을 분석하고 있습니다..."),
    )
    return Step(draft.now_is, events, CallModel(tuple(messages)))


def advance(checkpoint: Checkpoint, fact: Fact, now: float) -> Step:
    """The step that `fact` makes at `now` (Unix s). Raises `FactRefused`."""
    if checkpoint.state not in ACCEPTED[type(fact)]:
        raise FactRefused(type(fact).__name__, checkpoint.state, "the fact is not legal here")
    draft = Draft(checkpoint, type(fact).__name__, now)
    return draft.step(_apply(draft, fact))


def advance_all(checkpoint: Checkpoint, facts: Iterable[Fact], now: float) -> Step:
    """One step of facts that came at the same moment, as far as the first that does not just `Continue`."""
    step = Step(checkpoint, (), Continue())
    for fact in facts:
        following = advance(step.checkpoint, fact, now)
        step = Step(following.checkpoint, step.events + following.events, following.effect)
        if not isinstance(step.effect, Continue):
            break
    return step


def _apply(draft: Draft, fact: Fact) -> Effect:  # noqa: C901, PLR0911, PLR0912 - one case a fact
    match fact:
        case ThoughtArrived(text=text, thought_type=thought_type):
            draft.emit(Thought(thought_type=thought_type, content=text))
            return Continue()
        case AnswerArrived():
            return _answer_arrived(draft, fact)
        case ToolsRequested():
            return _tools_requested(draft, fact)
        case AnswerFinished():
            return _answer_finished(draft, fact)
        case ModelFailed():
            return _model_failed(draft, fact)
        case ToolFinished():
            return _tool_finished(draft, fact)
        case ApprovalGranted():
            return _granted(draft, fact)
        case ApprovalRejected():
            return _rejected(draft, fact)
        case DeadlinePassed():
            return _deadline_passed(draft)
        case CancelRequested():
            return endings.cancel(draft, fact.cancelled_by)
        case RunBroke():
            return endings.fail(draft, fact.error_type, fact.error_code, fact.message, retryable=True)
        case RunRecovered():
            return _recovered(draft, fact)
        case _:
            assert_never(fact)


# --- the model's turn -------------------------------------------------------------------------------------------------


def _answer_arrived(draft: Draft, fact: AnswerArrived) -> Effect:
    draft.emit(Content(content=_begin_answer(draft) + fact.text, chunk=True))
    return Continue()


def _answer_finished(draft: Draft, fact: AnswerFinished) -> Effect:
    rest = _begin_answer(draft) + fact.rest
    draft.say({"role": "assistant", "content": fact.text})
    draft.change(usage=draft.now_is.usage.plus(fact.usage))
    draft.end_turn("answer", fact.usage)
    draft.emit(Content(content=rest, chunk=False))
    return endings.complete(draft)


def _begin_answer(draft: Draft) -> str:
    """Enter `content`, if the turn is not there yet; what goes between this turn's text and an earlier one's."""
    if draft.now_is.state is not State.PLANNING:
        return ""
    has_text = any(passage.dest is State.CONTENT for passage in draft.now_is.path)
    draft.move(Trigger.ANSWER)
    return "\n\n" if has_text else ""


_BACKOFF_SECONDS = 0.5
_MOST_PATIENCE_SECONDS = 30.0


def _model_failed(draft: Draft, fact: ModelFailed) -> Effect:
    """Ask again where that can help and little of the user's time is lost; else end with the precise cause."""
    draft.end_turn("failed")
    attempt = draft.now_is.model_attempt
    pause = fact.retry_after_seconds or _BACKOFF_SECONDS * 2 ** (attempt - 1)
    again = fact.failure in ("unavailable", "interrupted") and pause <= _MOST_PATIENCE_SECONDS
    if again and attempt < draft.now_is.limits.model_attempts:
        draft.change(model_attempt=attempt + 1, retry_at=draft.now + pause)
        draft.begin_turn(draft.now + pause)
        return CallModel(tuple(draft.now_is.messages), fact.streamed, draft.now_is.retry_at)
    match fact.failure:
        case "not_configured":
            return endings.fail(draft, "LLMNotConfigured", "E5000", fact.message, retryable=False)
        case "timeout":
            return endings.fail(draft, "ModelTimeout", "E5001", fact.message, retryable=True)
        case "truncated":
            return endings.fail(draft, "LimitExceeded", "E5000", fact.message, retryable=False)
        case "refused" | "unavailable" | "interrupted":
            return endings.fail(draft, "ModelError", "E5000", fact.message, retryable=fact.failure != "refused")
        case _:
            assert_never(fact.failure)


# --- tools ------------------------------------------------------------------------------------------------------------


def _tools_requested(draft: Draft, fact: ToolsRequested) -> Effect:
    """Write the whole turn down; start what is safe. Intent and start of a safe call are one commit: nothing is
    between them, so a crash before it asks the model again and a crash after it finds the call started."""
    if not fact.calls:
        raise FactRefused("ToolsRequested", draft.now_is.state, "it asks for no call")
    draft.move(Trigger.REQUEST_TOOLS)
    calls = _with_unique_ids(draft, fact.calls)
    draft.say(
        {
            "role": "assistant",
            "content": fact.text or None,
            "tool_calls": [
                {"id": id, "type": "function", "function": {"name": call.name, "arguments": _arguments_text(call)}}
                for id, call in calls
            ],
        }
    )
    draft.change(usage=draft.now_is.usage.plus(fact.usage))
    draft.end_turn("tools", fact.usage)
    for _, call in calls:
        if call.plan:
            draft.set_plan(call.plan)
    for id, call in calls:
        _admit(draft, id, call, fact.confidence)
    return _proceed(draft)


_MOST_ID_CHARACTERS = 128
"""Ids stand in a frame up to four times and must not fill it; no server that is known makes longer ones."""


def _with_unique_ids(draft: Draft, requested: Iterable[RequestedCall]) -> list[tuple[str, RequestedCall]]:
    """Some servers number the calls of each turn anew, repeat an id within one, or send none at all."""
    taken = {call["id"] for message in draft.now_is.messages for call in message.get("tool_calls") or ()}
    calls = []
    for index, call in enumerate(requested):
        usable = 0 < len(call.id) <= _MOST_ID_CHARACTERS and call.id.isascii()
        own = call.id if usable else f"call-{draft.now_is.turn}-{index}"
        while own in taken:
            own = f"{own}-{draft.now_is.turn}-{index}"
        taken.add(own)
        calls.append((own, call))
    return calls


def _arguments_text(call: RequestedCall) -> str:
    """What goes back to the model as its own call: some servers refuse a history with malformed arguments."""
    return call.raw_arguments if call.refusal is None else canonical_json(call.arguments)


def _admit(draft: Draft, id: str, requested: RequestedCall, confidence: Confidence) -> None:
    """Enter one call in the ledger: refused, queued for approval, or started."""
    if requested.plan is not None:
        draft.answer_call(id, requested.refusal or "The plan is recorded and shown to the user.")
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
        turn=draft.now_is.turn,
    )
    draft.change(calls=[*draft.now_is.calls, call])
    if not draft.now_is.plan_declared:
        title = requested.title or requested.name
        draft.add_step(PlanStep(id=id, title=title, description=requested.question, confidence=confidence))
    if requested.refusal is not None:
        draft.end_call(call, CallStatus.FAILED, answer=requested.refusal, error=requested.refusal)
    elif requested.needs_approval:
        _queue(draft, call, first=False)
    else:
        _start(draft, call)


def _queue(draft: Draft, call: ToolCall, *, first: bool) -> None:
    question = call.question or f"{call.title or call.name}: 실행하시겠습니까?"
    if call.outcome_unknown:
        question = f"이 작업은 이미 실행되었을 수 있습니다. 다시 실행하시겠습니까? ({question})"
    asked = f"{draft.now_is.session_id}:{call.id}:{len(draft.now_is.path)}"
    approval = Approval(
        request_id=f"req-{digest(asked)[:12]}",
        call_id=call.id,
        action_type=call.name,
        message=question,
        arguments_digest=digest(call.arguments),
        outcome_unknown=call.outcome_unknown,
    )
    queue = draft.now_is.pending_approvals
    draft.change(pending_approvals=[approval, *queue] if first else [*queue, approval])


def _start(draft: Draft, call: ToolCall) -> None:
    call = replace(call, status=CallStatus.STARTED, started_at=draft.now)
    draft.put_call(call)
    draft.emit(draft.tool_event(call, "executing"))
    draft.mark_step(call.id, "in_progress")


def _proceed(draft: Draft) -> Effect:
    """What comes next in `tool`: wait for running calls, ask for the next approval, or go back to the model."""
    if draft.now_is.running:
        return RunTools(tuple(draft.now_is.running))
    if draft.now_is.pending_approvals:
        return _ask(draft)
    turn = draft.now_is.turn + 1
    if turn > draft.now_is.limits.turns:
        limit = draft.now_is.limits.turns
        message = f"모델 호출 횟수 한도({limit}회)에 도달하여 작업을 중단했습니다."
        return endings.fail(draft, "LimitExceeded", "E1000", message, retryable=False)
    draft.change(turn=turn, model_attempt=1, retry_at=None)
    draft.begin_turn(draft.now)
    draft.move(Trigger.REPORT_RESULTS)
    return CallModel(tuple(draft.now_is.messages))


def _ask(draft: Draft) -> Effect:
    """Ask a person about the first of the queue. The `hitl` comes last: nothing may follow it in a write (§2.1)."""
    approval = draft.now_is.pending_approvals[0]
    call = draft.call(approval.call_id)
    draft.emit(draft.tool_event(call, "pending"))
    draft.move(Trigger.ASK_APPROVAL)
    # a person is never given time that the run does not have
    deadline_at = min(draft.now + draft.now_is.limits.approval_seconds, draft.now_is.run_deadline_at)
    draft.change(deadline_at=deadline_at)
    draft.begin_review(approval, deadline_at)
    draft.emit(
        Hitl(
            request_id=approval.request_id,
            session_id=draft.now_is.session_id,
            action_type=approval.action_type,
            message=approval.message,
            context=call.shown_arguments,
            confidence=call.confidence.value,
            confidence_source=call.confidence.source,
            step_id=draft.step_id_for(call),
            expires_at=int(deadline_at),
            timeout_seconds=max(1, round(deadline_at - draft.now)),
            outcome_unknown=True if approval.outcome_unknown else None,
        )
    )
    return AwaitDecision(approval, deadline_at)


def _tool_finished(draft: Draft, fact: ToolFinished) -> Effect:
    call = draft.now_is.call(fact.call_id)
    if call is None or call.status is not CallStatus.STARTED:
        raise FactRefused("ToolFinished", draft.now_is.state, f"call {fact.call_id} is not running")
    status = CallStatus.COMPLETED if fact.error is None else CallStatus.FAILED
    draft.end_call(call, status, answer=fact.answer, result=fact.result, error=fact.error)
    if fact.sources:
        # in the same commit as the result: the model may think nothing aloud, or the node may die before it does
        found = f"{call.title or call.name}: 근거 자료 {len(fact.sources)}건을 찾았습니다."
        draft.emit(Thought(thought_type="analysis", content=found, sources=fact.sources))
    return Continue() if draft.now_is.running else _proceed(draft)


# --- decisions and deadlines ------------------------------------------------------------------------------------------


def _granted(draft: Draft, fact: ApprovalGranted) -> Effect:
    draft.move(Trigger.APPROVE, request_id=fact.request_id, decided_at=fact.decided_at)
    edited = fact.arguments is not None
    draft.end_review("approved", decided_at=fact.decided_at, decided_by=fact.decided_by, edited=edited)
    approved = draft.now_is.pending_approvals[0]
    call = draft.take_open_approval()
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
    _start(draft, replace(call, arguments=arguments, shown_arguments=shown, grant=grant, outcome_unknown=False))
    return _proceed(draft)


def _rejected(draft: Draft, fact: ApprovalRejected) -> Effect:
    reason = fact.reason or "사용자가 요청을 거절했습니다."
    if fact.skip or draft.now_is.limits.on_reject == "replan":
        draft.move(Trigger.DECLINE, request_id=fact.request_id, decided_at=fact.decided_at)
        _end_rejected_review(draft, fact)
        call = draft.take_open_approval()
        known = "It may have run before" if call.outcome_unknown else "It was not run"
        answer = f"A person refused this call: {reason} {known}; do not try it again unchanged."
        draft.end_call(call, CallStatus.REJECTED, answer=answer, error=reason)
        return _proceed(draft)
    draft.move(Trigger.REJECT, request_id=fact.request_id, decided_at=fact.decided_at)
    _end_rejected_review(draft, fact)
    return endings.reject(draft, reason)


def _end_rejected_review(draft: Draft, fact: ApprovalRejected) -> None:
    reason = fact.reason or None
    draft.end_review("rejected", decided_at=fact.decided_at, decided_by=fact.decided_by, reason=reason)


def _deadline_passed(draft: Draft) -> Effect:
    """The earlier deadline counts, however late it is looked at."""
    checkpoint = draft.now_is
    approval_ends_at, run_ends_at = checkpoint.deadline_at, checkpoint.run_deadline_at
    if approval_ends_at is not None and approval_ends_at < run_ends_at and draft.now >= approval_ends_at:
        draft.move(Trigger.EXPIRE)
        draft.end_review("expired")
        return endings.time_out(draft)
    if draft.now >= run_ends_at:
        message = f"실행 시간 한도({checkpoint.limits.run_seconds:g}초)를 초과하여 작업을 중단했습니다."
        return endings.fail(draft, "LimitExceeded", "E5001", message, retryable=True)
    raise FactRefused("DeadlinePassed", checkpoint.state, "no deadline has passed")


def _recovered(draft: Draft, fact: RunRecovered) -> Effect:
    """Perform the effect again. A started call without an outcome is repeated only where that is harmless; of any
    other a person decides, knowing that it may already have happened."""
    checkpoint = draft.now_is
    if checkpoint.state is State.TOOL:
        for call in reversed([call for call in checkpoint.running if not call.idempotent]):
            unknown = replace(call, status=CallStatus.REQUESTED, needs_approval=True, outcome_unknown=True, grant=None)
            draft.put_call(unknown)
            _queue(draft, unknown, first=True)
        return _proceed(draft)
    if checkpoint.open_approval is not None and checkpoint.deadline_at is not None:
        return AwaitDecision(checkpoint.open_approval, checkpoint.deadline_at)
    draft.end_turn("lost")
    draft.begin_turn(max(draft.now, checkpoint.retry_at or 0))
    return CallModel(tuple(checkpoint.messages), fact.streamed, checkpoint.retry_at)
