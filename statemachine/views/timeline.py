"""The timeline of a run, made from its checkpoint: states, model turns, tools and waits; also as a Chrome trace.

It reads no clock: a span that is still open lasts until the `now` that is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from statemachine.call import CallStatus, ToolCall, Via
from statemachine.checkpoint import Checkpoint, ModelTurn, Review, Usage
from statemachine.states import INITIAL_STATE, State
from statemachine.stored import JsonObject

SpanKind = Literal["state", "model", "tool", "wait"]


class _ApiModel(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    def to_json_object(self) -> JsonObject:
        """Return the JSON with the names of the HTTP API, without fields that are null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Tokens(_ApiModel):
    """Reported tokens. `cached_tokens` is set where the server had a part of the prompt in its cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int | None = None


class SpanDecision(_ApiModel):
    """The result of a wait for a person's decision.

    `via` is the way by which the decision came. `decider_told`: another service told who decided.
    """

    request_id: str
    verdict: str | None = None
    decided_by: str | None = None
    decided_at: float | None = None
    reason: str | None = None
    edited: bool = False
    via: Via | None = None
    decider_told: bool = False


class Span(_ApiModel):
    """An interval of time. Times are Unix seconds; an open span lasts until the moment the timeline was made.

    A span of kind `state` is the time in a state, which the run entered from `source` by `trigger`. Model turns, tools
    and waits have an `outcome`. `model` is the name of the model that answered a turn.
    """

    kind: SpanKind
    name: str
    started_at: float
    duration_seconds: float
    is_open: bool = False
    source: State | None = None
    trigger: str | None = None
    turn: int | None = None
    attempt: int | None = None
    tool_call_id: str | None = None
    outcome: str | None = None
    model: str | None = None
    tokens: Tokens | None = None
    decision: SpanDecision | None = None

    @property
    def ended_at(self) -> float:
        return self.started_at + self.duration_seconds


class Timeline(_ApiModel):
    """The spans of a run, ordered by their start. `waited_seconds` is the part of `duration_seconds` spent on waits."""

    session_id: str
    state: State
    started_at: float
    duration_seconds: float
    waited_seconds: float
    is_open: bool
    tokens: Tokens
    spans: tuple[Span, ...]


def timeline(run: Checkpoint, now: float) -> Timeline:
    """Return the timeline of a run at `now` (Unix s)."""
    until = run.path[-1].at if run.state.is_final else max(now, run.created_at)
    spans = [
        *_state_spans(run, until),
        *(_model_span(turn, until) for turn in run.model_turns if turn.started_at <= until),
        *(_tool_span(call, until) for call in run.calls if call.started_at is not None),
        *(_wait_span(review, run, until) for review in run.reviews),
    ]
    order: dict[SpanKind, int] = {"state": 0, "model": 1, "wait": 2, "tool": 3}
    return Timeline(
        session_id=run.session_id,
        state=run.state,
        started_at=run.created_at,
        duration_seconds=_seconds(run.created_at, until),
        waited_seconds=round(sum(span.duration_seconds for span in spans if span.kind == "wait"), 6),
        is_open=not run.state.is_final,
        tokens=_tokens(run.usage),
        spans=tuple(sorted(spans, key=lambda span: (span.started_at, order[span.kind]))),
    )


def _state_spans(run: Checkpoint, until: float) -> Iterable[Span]:
    moments = [record.at for record in run.path]
    ends = [*moments, until]
    yield Span(
        kind="state",
        name=INITIAL_STATE,
        started_at=run.created_at,
        duration_seconds=_seconds(run.created_at, ends[0]),
        is_open=not run.path,
    )
    for record, end in zip(run.path, ends[1:], strict=True):
        yield Span(
            kind="state",
            name=record.dest,
            started_at=record.at,
            duration_seconds=_seconds(record.at, end),
            is_open=record is run.path[-1] and not record.dest.is_final,
            source=record.source,
            trigger=record.trigger,
        )


def _model_span(turn: ModelTurn, until: float) -> Span:
    attempt = f", attempt {turn.attempt}" if turn.attempt > 1 else ""
    return Span(
        kind="model",
        name=f"model turn {turn.turn}{attempt}",
        started_at=turn.started_at,
        duration_seconds=_seconds(turn.started_at, until if turn.ended_at is None else turn.ended_at),
        is_open=turn.ended_at is None,
        turn=turn.turn,
        attempt=turn.attempt,
        outcome=turn.outcome,
        model=turn.model,
        tokens=None if turn.usage is None else _tokens(turn.usage),
    )


def _tool_span(call: ToolCall, until: float) -> Span:
    started_at = call.started_at or until
    is_open = call.status is CallStatus.STARTED
    return Span(
        kind="tool",
        name=call.name,
        started_at=started_at,
        duration_seconds=_seconds(started_at, until if call.ended_at is None else call.ended_at),
        is_open=is_open,
        turn=call.turn,
        tool_call_id=call.id,
        outcome=None if is_open else call.status.value,
    )


def _wait_span(review: Review, run: Checkpoint, until: float) -> Span:
    call = run.call(review.call_id)
    return Span(
        kind="wait",
        name=f"approval of {call.name if call else review.call_id}",
        started_at=review.asked_at,
        duration_seconds=_seconds(review.asked_at, until if review.ended_at is None else review.ended_at),
        is_open=review.ended_at is None,
        tool_call_id=review.call_id,
        outcome=review.verdict,
        decision=SpanDecision(
            request_id=review.request_id,
            verdict=review.verdict,
            decided_by=review.decided_by,
            decided_at=review.decided_at,
            reason=review.reason,
            edited=review.edited,
            via=review.via,
            decider_told=review.decider_told,
        ),
    )


def _seconds(start: float, end: float) -> float:
    """Return the duration. It is never negative, although the clocks of two nodes may differ a little."""
    return round(max(0.0, end - start), 6)


def _tokens(usage: Usage) -> Tokens:
    counts = usage.to_json_object()
    return Tokens(**{**counts, "cached_tokens": usage.cached_tokens or None})


# --- Chrome's trace format --------------------------------------------------------------------------------------------

_PROCESS = 1


def chrome_trace(run: Timeline) -> JsonObject:
    """Return a trace that Perfetto and chrome://tracing open: complete events (`ph` X) with times in µs.

    States, model turns and waits have one lane each. Tools that ran at the same time have separate lanes.
    """
    lanes: dict[str, int] = {"states": 1, "model": 2, "waits": 3}
    tool_lanes = _Lanes()
    events: list[JsonObject] = []
    for span in run.spans:
        lane = _LANES.get(span.kind) or f"tools {tool_lanes.assign(span)}"
        events.append(
            {
                "ph": "X",
                "name": span.name,
                "cat": span.kind,
                "ts": round(span.started_at * 1e6),
                "dur": round(span.duration_seconds * 1e6),
                "pid": _PROCESS,
                "tid": lanes.setdefault(lane, len(lanes) + 1),
                "args": span.to_json_object(),
            }
        )
    names = [_metadata("process_name", run.session_id, 0)]
    names += [_metadata("thread_name", lane, thread) for lane, thread in lanes.items()]
    return {"traceEvents": [*names, *events], "displayTimeUnit": "ms"}


_LANES: dict[SpanKind, str] = {"state": "states", "model": "model", "wait": "waits"}


class _Lanes:
    """Distributes spans over lanes. The complete events of one lane must not overlap."""

    def __init__(self) -> None:
        self._busy_until: list[float] = []

    def assign(self, span: Span) -> int:
        """Return the number (from 1) of the first lane that is free when the span starts, and occupy it."""
        number = next((n for n, end in enumerate(self._busy_until) if end <= span.started_at), len(self._busy_until))
        self._busy_until[number : number + 1] = [span.ended_at]
        return number + 1


def _metadata(kind: str, name: str, thread: int) -> JsonObject:
    return {"ph": "M", "name": kind, "pid": _PROCESS, "tid": thread, "args": {"name": name}}
