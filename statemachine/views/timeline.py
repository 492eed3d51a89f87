"""Where a run's time went, read from its checkpoint: states, model turns, tools, waits; also as a Chrome trace.

Pure: what is still under way lasts until the `now` that is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from statemachine.checkpoint import CallStatus, Checkpoint, JsonObject, ModelTurn, Review, ToolCall, Usage
from statemachine.states import INITIAL_STATE, State

SpanKind = Literal["state", "model", "tool", "wait"]


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    def to_json_object(self) -> JsonObject:
        """Named as the API names things, without what is null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Tokens(_Shown):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class SpanDecision(_Shown):
    """What came of a wait for a person."""

    request_id: str
    verdict: str | None = None
    decided_by: str | None = None
    decided_at: float | None = None
    reason: str | None = None
    edited: bool = False


class Span(_Shown):
    """Something that took time. Times are Unix seconds; an open one lasts until the moment the timeline was made.

    `state`: the time in a state, entered by `trigger` from `source`. `outcome` is a turn's, a tool's or a wait's.
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
    tokens: Tokens | None = None
    decision: SpanDecision | None = None

    @property
    def ended_at(self) -> float:
        return self.started_at + self.duration_seconds


class Timeline(_Shown):
    """A run's spans by their start. `waited_seconds` is what people took, of `duration_seconds` in all."""

    session_id: str
    state: State
    started_at: float
    duration_seconds: float
    waited_seconds: float
    is_open: bool
    tokens: Tokens
    spans: tuple[Span, ...]


def timeline(run: Checkpoint, now: float) -> Timeline:
    """The run as it stood at `now` (Unix s)."""
    until = run.path[-1].at if run.state.is_final else max(now, run.created_at)
    spans = [
        *_states(run, until),
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


def _states(run: Checkpoint, until: float) -> Iterable[Span]:
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
    again = f", attempt {turn.attempt}" if turn.attempt > 1 else ""
    return Span(
        kind="model",
        name=f"model turn {turn.turn}{again}",
        started_at=turn.started_at,
        duration_seconds=_seconds(turn.started_at, until if turn.ended_at is None else turn.ended_at),
        is_open=turn.ended_at is None,
        turn=turn.turn,
        attempt=turn.attempt,
        outcome=turn.outcome,
        tokens=None if turn.usage is None else _tokens(turn.usage),
    )


def _tool_span(call: ToolCall, until: float) -> Span:
    began = call.started_at or until
    is_open = call.status is CallStatus.STARTED
    return Span(
        kind="tool",
        name=call.name,
        started_at=began,
        duration_seconds=_seconds(began, until if call.ended_at is None else call.ended_at),
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
        ),
    )


def _seconds(start: float, end: float) -> float:
    """Clocks of two nodes may differ a little: never less than nothing."""
    return round(max(0.0, end - start), 6)


def _tokens(usage: Usage) -> Tokens:
    return Tokens(**usage.to_json_object())


# --- Chrome's trace format --------------------------------------------------------------------------------------------

_PROCESS = 1


def chrome_trace(shown: Timeline) -> JsonObject:
    """A trace that Perfetto and chrome://tracing open: complete events (`ph` X), times in µs, a lane each for states,
    model and waits; tools that ran at the same time have lanes of their own.
    """
    lanes: dict[str, int] = {"states": 1, "model": 2, "waits": 3}
    tool_lane = _Lanes()
    events: list[JsonObject] = []
    for span in shown.spans:
        lane = _LANES.get(span.kind) or f"tools {tool_lane.of(span)}"
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
    named = [_name("process_name", shown.session_id, 0)]
    named += [_name("thread_name", lane, thread) for lane, thread in lanes.items()]
    return {"traceEvents": [*named, *events], "displayTimeUnit": "ms"}


_LANES: dict[SpanKind, str] = {"state": "states", "model": "model", "wait": "waits"}


class _Lanes:
    """The first lane that is free when a span begins: complete events of one lane must not overlap."""

    def __init__(self) -> None:
        self._busy_until: list[float] = []

    def of(self, span: Span) -> int:
        number = next((n for n, end in enumerate(self._busy_until) if end <= span.started_at), len(self._busy_until))
        self._busy_until[number : number + 1] = [span.ended_at]
        return number + 1


def _name(what: str, name: str, thread: int) -> JsonObject:
    return {"ph": "M", "name": what, "pid": _PROCESS, "tid": thread, "args": {"name": name}}
