"""The state `tool`: records the calls of a model turn, and decides what follows (run, request an approval, report)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from statemachine import endings
from statemachine.call import CallStatus, Confidence, ToolCall
from statemachine.checkpoint import Approval, PlanStep
from statemachine.errors import FactRefused
from statemachine.events import Hitl, Thought
from statemachine.ledger import add_tool_message, end_call, get_call, start_call, tool_event
from statemachine.messages import (
    AwaitDecision,
    Continue,
    Effect,
    RequestedCall,
    RunTools,
    ToolFinished,
    ToolsRequested,
)
from statemachine.model_turns import request_turn
from statemachine.outside_text import guarded, joined, source_of
from statemachine.plan import add_step, step_id_for, update_plan
from statemachine.provider_fields import portable_id, with_provider_fields
from statemachine.states import Trigger
from statemachine.step_builder import StepBuilder
from statemachine.stored import JsonObject, canonical_json, digest


def tools_requested(builder: StepBuilder, fact: ToolsRequested) -> Effect:
    """Record all calls of the turn and start the safe ones.

    The request and the start of a safe call are one commit. After a crash before it, the model is requested again;
    after a crash behind it, recovery finds the call started. Calls beyond `limits.calls_per_turn` are not considered.
    """
    if not fact.calls:
        raise FactRefused("ToolsRequested", builder.checkpoint.state, "it contains no call")
    builder.transition(Trigger.REQUEST_TOOLS)
    limit = _calls_per_turn(builder)
    calls = _with_unique_ids(builder, fact.calls[:_MAX_CALLS_IN_MESSAGE])
    message: JsonObject = {
        "role": "assistant",
        "content": fact.text or None,
        "tool_calls": [
            {
                "id": id,
                "type": "function",
                "function": {
                    "name": _name_text(call),
                    "arguments": _arguments_text(call) if place < limit else "{}",
                },
            }
            for place, (id, call) in enumerate(calls)
        ],
    }
    builder.add_message(with_provider_fields(message, fact.source, fact.extras, [call.extras for _, call in calls]))
    builder.end_turn("tools", fact.usage, fact.source, wrote=builder.checkpoint.messages[-1])
    for _, call in calls[:limit]:
        if call.plan:
            update_plan(builder, call.plan)
    for id, call in calls[:limit]:
        _record_call(builder, id, call, fact.confidence)
    _refuse_surplus(builder, [id for id, _ in calls[limit:]], len(fact.calls))
    return next_tool_effect(builder)


_MAX_CALLS_IN_MESSAGE = 128
"""OpenAI refuses a message with more. The calls beyond the limit of a turn stay in the conversation up to this number,
each with its refusal. The rest is removed from the message: it would fill every later request."""


def _calls_per_turn(builder: StepBuilder) -> int:
    """Return how many calls of the turn are considered, so that at least one of the others can tell of its refusal."""
    return min(builder.checkpoint.limits.calls_per_turn, _MAX_CALLS_IN_MESSAGE - 1)


def _refuse_surplus(builder: StepBuilder, ids: Sequence[str], requested: int) -> None:
    """Answer the calls of a turn that are beyond its limit: in the conversation, and to the user as one thought."""
    if not ids:
        return
    limit = _calls_per_turn(builder)
    refusal = (
        f"Not run: one turn may ask for {limit} tool calls, and this one asked for {requested}."
        " Read the results of the others, then ask again for what is still needed."
    )
    for id in ids:
        add_tool_message(builder, id, refusal)
    explanation = f"모델이 한 번에 도구 호출 {requested}개를 요청하여, 한도인 처음 {limit}개만 처리합니다."
    builder.add_event(Thought(thought_type="decision", content=explanation))


_MAX_ID_CHARACTERS = 128
"""A frame contains an id up to four times, and ids must not fill it. No known server makes longer ids."""


def _with_unique_ids(builder: StepBuilder, requested: Iterable[RequestedCall]) -> list[tuple[str, RequestedCall]]:
    """Pair each call with an id that is unique in the run.

    Some servers restart their numbers in each turn, repeat an id within a turn, or send no ids.
    """
    used = {call["id"] for message in builder.checkpoint.messages for call in message.get("tool_calls") or ()}
    calls = []
    for index, call in enumerate(requested):
        is_usable = 0 < len(call.id) <= _MAX_ID_CHARACTERS and call.id.isascii() and call.id.isprintable()
        seed = f"{builder.checkpoint.session_id}:{builder.checkpoint.turn}:{index}"
        id = call.id if is_usable else portable_id(seed)
        while id in used:
            seed = f"{id}:{seed}"
            id = portable_id(seed)
        used.add(id)
        calls.append((id, call))
    return calls


_FOREIGN_CHARACTERS = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_NAME_CHARACTERS = 64


def _name_text(call: RequestedCall) -> str:
    """Return the name for the conversation, in the form that servers accept. An unknown tool may have any name."""
    return _FOREIGN_CHARACTERS.sub("_", call.name)[:_MAX_NAME_CHARACTERS] or "unnamed"


def _arguments_text(call: RequestedCall) -> str:
    """Return the arguments for the conversation. Some servers refuse a conversation with malformed arguments."""
    return call.raw_arguments if call.refusal is None else canonical_json(call.arguments)


def _record_call(builder: StepBuilder, id: str, requested: RequestedCall, confidence: Confidence) -> None:
    """Add one call to the ledger: failed if it is refused, queued if it needs an approval, else started."""
    if requested.plan is not None:
        add_tool_message(builder, id, requested.refusal or "The plan is recorded and shown to the user.")
        return
    call = ToolCall.of(requested, id=id, confidence=confidence, turn=builder.checkpoint.turn)
    call = guarded(builder.checkpoint, call)
    builder.put_call(call)
    if not builder.checkpoint.plan_declared:
        title = requested.title or requested.name
        add_step(builder, PlanStep(id=id, title=title, description=requested.question, confidence=confidence))
    if requested.refusal is not None:
        end_call(builder, call, CallStatus.FAILED, answer=requested.refusal, error=requested.refusal)
    elif call.needs_approval:
        _queue_within_limit(builder, call)
    else:
        start_call(builder, call)


def _queue_within_limit(builder: StepBuilder, call: ToolCall) -> None:
    """Queue the approval of a call, or refuse the call if the run has as many as it may have."""
    limit = builder.checkpoint.limits.open_approvals
    if len(builder.checkpoint.pending_approvals) < limit:
        queue_approval(builder, call, first=False)
        return
    refusal = (
        f"Not run: at most {limit} calls of a run may wait for a person's approval at a time."
        " Ask for this one again when the others have been decided."
    )
    end_call(builder, call, CallStatus.FAILED, answer=refusal, error=refusal)


def tool_finished(builder: StepBuilder, fact: ToolFinished) -> Effect:
    """Record the outcome of a running call."""
    call = builder.find_call(fact.call_id)
    if call is None or call.status is not CallStatus.STARTED:
        raise FactRefused("ToolFinished", builder.checkpoint.state, f"call {fact.call_id} is not running")
    if call.untrusted:
        sources = joined(builder.checkpoint.outside_text, [source_of(call)])
        builder.update(outside_text=sources)
    if fact.outcome_unknown and not call.idempotent:
        queue_repetition(builder, replace(call, error=fact.error))
        return Continue() if builder.checkpoint.running else next_tool_effect(builder)
    status = CallStatus.COMPLETED if fact.error is None else CallStatus.FAILED
    end_call(builder, call, status, answer=fact.answer, result=fact.result, error=fact.error)
    if fact.sources:
        # In the same commit as the result: the model may send no reasoning, or the node may stop before it does.
        summary = f"{call.title or call.name}: 근거 자료 {len(fact.sources)}건을 찾았습니다."
        builder.add_event(Thought(thought_type="analysis", content=summary, sources=fact.sources))
    return Continue() if builder.checkpoint.running else next_tool_effect(builder)


def next_tool_effect(builder: StepBuilder) -> Effect:
    """Return what follows in `tool`: run the started calls, request the next approval, or call the model again."""
    if builder.checkpoint.running:
        return RunTools(tuple(builder.checkpoint.running))
    if builder.checkpoint.pending_approvals:
        return _request_approval(builder)
    turn, max_turns = builder.checkpoint.turn + 1, builder.checkpoint.limits.turns
    if turn > max_turns:
        message = f"모델 호출 횟수 한도({max_turns}회)에 도달하여 작업을 중단했습니다."
        return endings.fail(builder, "LimitExceeded", "E1000", message, retryable=False)
    builder.update(turn=turn, model_attempt=1, retry_at=None)
    builder.transition(Trigger.REPORT_RESULTS)
    return request_turn(builder)


def queue_repetition(builder: StepBuilder, call: ToolCall) -> None:
    """Queue a started call of which nobody knows whether it ran: a person decides whether it is repeated."""
    unknown = replace(call, status=CallStatus.REQUESTED, needs_approval=True, outcome_unknown=True, grant=None)
    builder.put_call(unknown)
    queue_approval(builder, unknown, first=True)


def queue_approval(builder: StepBuilder, call: ToolCall, *, first: bool) -> None:
    """Add the approval of a call to the queue, at its front if `first`."""
    question = call.question or f"{call.title or call.name}: 실행하시겠습니까?"
    if call.outcome_unknown:
        question = f"이 작업은 이미 실행되었을 수 있습니다. 다시 실행하시겠습니까? ({question})"
    # The random seed of the run makes an id that nobody can guess, and the length of the path makes that of a second
    # request for the same call another one.
    checkpoint = builder.checkpoint
    seed = f"{checkpoint.seed}:{checkpoint.session_id}:{call.id}:{len(checkpoint.path)}"
    approval = Approval(
        request_id=f"req-{digest(seed)[:12]}",
        call_id=call.id,
        action_type=call.name,
        message=question,
        arguments_digest=digest(call.arguments),
        outcome_unknown=call.outcome_unknown,
    )
    queue = builder.checkpoint.pending_approvals
    builder.update(pending_approvals=[approval, *queue] if first else [*queue, approval])


def _request_approval(builder: StepBuilder) -> Effect:
    """Open the first approval of the queue. Its `hitl` is the last event: nothing may follow it in a write (§2.1)."""
    approval = builder.checkpoint.pending_approvals[0]
    call = get_call(builder, approval.call_id)
    builder.add_event(tool_event(call, "pending"))
    builder.transition(Trigger.ASK_APPROVAL)
    deadline_at = builder.now + builder.checkpoint.limits.approval_seconds
    if builder.checkpoint.run_deadline_at <= builder.now:  # the run has no time left, so a decision could do nothing
        deadline_at = builder.checkpoint.run_deadline_at
    builder.update(deadline_at=deadline_at)
    builder.begin_review(approval, deadline_at)
    position, total = builder.checkpoint.approval_place
    confidence, source = call.confidence.if_known
    builder.add_event(
        Hitl(
            request_id=approval.request_id,
            session_id=builder.checkpoint.session_id,
            action_type=approval.action_type,
            message=approval.message,
            context=call.shown_arguments,
            warnings=call.warnings,
            confidence=confidence,
            confidence_source=source,
            step_id=step_id_for(builder, call),
            expires_at=int(deadline_at),
            timeout_seconds=max(1, round(deadline_at - builder.now)),
            outcome_unknown=True if approval.outcome_unknown else None,
            arguments_digest=approval.arguments_digest,
            position=position,
            total=total,
        )
    )
    return AwaitDecision(approval, deadline_at)
