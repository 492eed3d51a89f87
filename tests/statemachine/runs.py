"""Runs of the core for tests: builders with defaults, a driver that applies facts, and the invariants of each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from app.dev.demo.request_rules import PRIVATE_KEY, history_problems
from statemachine.call import CallStatus
from statemachine.checkpoint import Checkpoint, Limits, RunRequest
from statemachine.events import End, Event, TimelineStepUpdated, ToolExecution
from statemachine.messages import (
    AnswerArrived,
    AnswerFinished,
    ApprovalGranted,
    ApprovalRejected,
    CallModel,
    CancelRequested,
    DeadlinePassed,
    Effect,
    Fact,
    InternalErrorOccurred,
    RequestedCall,
    Stop,
    ToolFinished,
    ToolsRequested,
)
from statemachine.prompt import NO_HISTORY, History, conversation
from statemachine.states import INITIAL_STATE, State
from statemachine.stored import JsonObject, digest
from statemachine.workflow import advance, begin

NOW = 1_706_156_400.0
SESSION = "session_user1_1706156400_a1b2"
EventT = TypeVar("EventT", bound=Event)
OUTCOMES = ("completed", "failed", "rejected")


def request(**changes: Any) -> RunRequest:
    values: dict[str, Any] = {
        "session_id": SESSION,
        "thread_id": "thread-1",
        "user_id": "user1",
        "tenant_id": "tenant1",
        "trace_id": "trace-1",
        "prompt": "메일을 보내주세요",
        "context": {"activeApp": "mail", "selectedItemIds": [1, 2, 3]},
    }
    return RunRequest(**{**values, **changes})


def safe(id: str = "c1", *, name: str = "get_current_time", **changes: Any) -> RequestedCall:
    """Return a call that needs no approval and is idempotent."""
    values: dict[str, Any] = {"arguments": {}, "raw_arguments": "{}", "title": "현재 시각", "idempotent": True}
    return RequestedCall(id=id, name=name, **{**values, **changes})


def risky(id: str = "c1", *, name: str = "send_email", **changes: Any) -> RequestedCall:
    """Return a call that needs an approval and is not idempotent."""
    values: dict[str, Any] = {
        "arguments": {"to": "a@example.com", "subject": "회의"},
        "raw_arguments": '{"to":"a@example.com","subject":"회의"}',
        "title": "이메일 발송",
        "question": "이메일을 발송하시겠습니까?",
        "needs_approval": True,
    }
    return RequestedCall(id=id, name=name, **{**values, **changes})


class Run:
    """A run to which facts are applied. It keeps all events and the last effect, and checks the invariants."""

    def __init__(self, prompt: str = "메일을 보내주세요", history: History = NO_HISTORY, /, **limits: Any) -> None:
        run_request = request(prompt=prompt)
        messages = conversation(prompt, run_request.context, history)
        step = begin(run_request, messages, Limits(**limits), NOW, history)
        self.checkpoint: Checkpoint = step.checkpoint
        self.effect: Effect = step.effect
        self.events: list[Event] = list(step.events)
        self.last_events: tuple[Event, ...] = step.events
        self.now = NOW

    def apply(self, fact: Fact, *, at: float | None = None) -> Effect:
        """Apply a fact. `at` sets the clock, in seconds after the start of the run."""
        self.now = self.now if at is None else NOW + at
        step = advance(self.checkpoint, fact, self.now)
        self.checkpoint, self.effect, self.last_events = step.checkpoint, step.effect, step.events
        self.events += step.events
        check_invariants(self.checkpoint, self.events, self.effect)
        return step.effect

    def request_tools(self, *calls: RequestedCall, **more: Any) -> Effect:
        return self.apply(ToolsRequested(calls, **more))

    def finish_call(self, call_id: str = "c1", **more: Any) -> Effect:
        return self.apply(ToolFinished(call_id, **{"answer": "ok", "result": {"ok": True}, **more}))

    def approve(self, *, at: float | None = None, **more: Any) -> Effect:
        """Approve the open request, at the present time or at `at` seconds after the start of the run."""
        moment = self.now if at is None else NOW + at
        return self.apply(ApprovalGranted(self.open_request_id, moment, "boss", **more), at=at)

    def reject(self, **more: Any) -> Effect:
        return self.apply(ApprovalRejected(self.open_request_id, self.now, "boss", **more))

    @property
    def open_request_id(self) -> str:
        assert self.checkpoint.open_approval is not None
        return self.checkpoint.open_approval.request_id

    @property
    def state(self) -> State:
        return self.checkpoint.state

    @property
    def model_answers(self) -> dict[str, str]:
        """The text that the model reads about each call."""
        return {m["tool_call_id"]: m["content"] for m in self.checkpoint.messages if m["role"] == "tool"}

    def outcomes(self, call_id: str = "c1") -> list[str]:
        """Return the statuses of the call's `tool_execution` events, in order."""
        return [e.status for e in self.events if isinstance(e, ToolExecution) and e.tool_call_id == call_id]


def of_type(kind: type[EventT], events: Iterable[Event]) -> list[EventT]:
    return [event for event in events if isinstance(event, kind)]


def in_state(state: State) -> Run:
    """Return a shortest run in that state. If it has a call, its id is `c1`."""
    run = Run()
    match state:
        case State.PLANNING:
            pass
        case State.TOOL:
            run.request_tools(safe())
        case State.AWAITING_APPROVAL | State.REJECTED | State.TIMED_OUT:
            run.request_tools(risky())
        case State.CONTENT | State.DONE:
            run.apply(AnswerArrived("안녕"))
        case State.FAILED:
            run.apply(InternalErrorOccurred("broken"))
        case State.CANCELLED:
            run.apply(CancelRequested("user1"))
    match state:
        case State.REJECTED:
            run.reject()
        case State.TIMED_OUT:
            run.apply(DeadlinePassed(), at=300)
        case State.DONE:
            run.apply(AnswerFinished("안녕하세요", "하세요"))
    assert run.state is state
    return run


# --- invariants -------------------------------------------------------------------------------------------------------


def check_invariants(checkpoint: Checkpoint, events: Sequence[Event], effect: Effect) -> None:
    _check_state(checkpoint, effect)
    _check_ledger(checkpoint)
    _check_tokens(checkpoint, effect)
    _check_events(checkpoint, events)
    check_history(checkpoint.messages, finished=checkpoint.state.is_final or checkpoint.state is State.PLANNING)
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint


def _check_state(checkpoint: Checkpoint, effect: Effect) -> None:
    state = checkpoint.state
    assert (state is State.TOOL) == bool(checkpoint.running)
    assert (state is State.AWAITING_APPROVAL) == (checkpoint.deadline_at is not None)
    assert (state is State.AWAITING_APPROVAL) == (checkpoint.open_approval is not None)
    assert isinstance(effect, Stop) == state.is_final
    assert (checkpoint.ending is not None) == (state.is_final and state is not State.DONE)
    if state not in (State.TOOL, State.AWAITING_APPROVAL):
        assert checkpoint.pending_approvals == []
    if state.is_final:
        assert {step.status for step in checkpoint.plan} <= {"completed", "failed", "skipped"}
    path_end = INITIAL_STATE
    for record in checkpoint.path:
        assert record.source is path_end
        path_end = record.dest
    assert path_end is state


def _check_ledger(checkpoint: Checkpoint) -> None:
    assert max(Counter(call.id for call in checkpoint.calls).values(), default=1) == 1
    waiting = {call.id for call in checkpoint.calls if call.status is CallStatus.REQUESTED}
    assert waiting == {approval.call_id for approval in checkpoint.pending_approvals}
    assert max(Counter(a.request_id for a in checkpoint.pending_approvals).values(), default=1) == 1
    for call in checkpoint.calls:
        assert (call.ended_at is not None) == (call.status.value in OUTCOMES)
        if call.needs_approval and call.status in (CallStatus.STARTED, CallStatus.COMPLETED):
            assert call.grant is not None, f"{call.id} ran without an approval"
            assert call.grant.arguments_digest == digest(call.arguments)


def _check_tokens(checkpoint: Checkpoint, effect: Effect) -> None:
    """A turn is open exactly while tokens are reserved for it, and the model is called only within the budget."""
    open_turns = [turn for turn in checkpoint.model_turns if turn.outcome is None]
    assert open_turns in ([], checkpoint.model_turns[-1:])
    assert bool(open_turns) == bool(checkpoint.reserved_tokens)
    assert bool(open_turns) == (checkpoint.state in (State.PLANNING, State.CONTENT))
    if isinstance(effect, CallModel):
        assert checkpoint.reserved_tokens > checkpoint.limits.completion_tokens
        if checkpoint.limits.tokens:
            assert checkpoint.spent_tokens + checkpoint.reserved_tokens <= checkpoint.limits.tokens
    finished = [turn for turn in checkpoint.model_turns if turn.outcome not in (None, "failed")]
    assert checkpoint.spent_tokens >= len(finished)


def _check_events(checkpoint: Checkpoint, events: Sequence[Event]) -> None:
    ends = [index for index, event in enumerate(events) if isinstance(event, End)]
    assert ends == ([len(events) - 1] if checkpoint.state.is_final else [])
    published = [event.metadata for event in events if isinstance(event, TimelineStepUpdated)]
    expected = [{"from": p.source.value, "to": p.dest.value, "trigger": p.trigger.value} for p in checkpoint.path]
    assert published == expected
    ended = Counter(e.tool_call_id for e in events if isinstance(e, ToolExecution) and e.status in OUTCOMES)
    assert ended == Counter(call.id for call in checkpoint.calls if call.status.value in OUTCOMES)
    last = {e.tool_call_id: e.status for e in events if isinstance(e, ToolExecution)}
    for call_id in ended if not checkpoint.state.is_final else last:
        assert last[call_id] in OUTCOMES, f"the last event of {call_id} is {last[call_id]}"


def check_history(messages: Sequence[JsonObject], *, finished: bool) -> None:
    """Check the rules of the chat API and of the strictest servers; `finished`: the next prompt may follow."""
    sent = [{key: value for key, value in message.items() if key != PRIVATE_KEY} for message in messages]
    if finished and sent[-1]["role"] == "assistant":
        sent.append({"role": "user", "content": "그리고?"})
    assert history_problems(sent, is_open=not finished) == []
