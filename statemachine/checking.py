"""What is proved of the machine: its table as a graph, and every run of `advance()` under every fact.

The walk drives `advance` itself, from `begin`, with each fact of an alphabet in each situation it meets. Two runs that
differ only in texts, ids and what is settled behave alike (`_Seen.key`), so each situation is entered once, by a
shortest path; it is the counterexample where a property does not hold. What a person approved is judged here, from
facts and effects alone, not from what guards or grants say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from statemachine import states
from statemachine.checkpoint import CallStatus, Checkpoint, Limits, RunRequest
from statemachine.errors import FactRefused
from statemachine.messages import (
    AnswerArrived,
    AnswerFinished,
    ApprovalGranted,
    ApprovalRejected,
    AwaitDecision,
    CancelRequested,
    DeadlinePassed,
    Fact,
    InternalErrorOccurred,
    ModelFailed,
    RequestedCall,
    RunRecovered,
    RunResumed,
    Step,
    ThoughtArrived,
    ToolFinished,
    ToolsRequested,
)
from statemachine.states import FINAL_STATES, INITIAL_STATE, OPEN_STATES, State, Transition, Trigger
from statemachine.workflow import advance, begin

DEPTH = 16
"""Facts in a row; with `_LIMITS` every situation is met within it."""
_LIMITS = Limits(turns=2, model_attempts=2, run_seconds=900, approval_seconds=300)


@dataclass(frozen=True, slots=True)
class Proof:
    """One property: its claim, what was looked at, and the path on which it does not hold, if there is one."""

    claim: str
    looked_at: str
    counterexample: str | None = None

    @property
    def holds(self) -> bool:
        return self.counterexample is None


def check(depth: int = DEPTH) -> list[Proof]:
    """All properties, of the table that runs now."""
    table = states.TRANSITIONS
    walk = _walk(depth)
    return [*_of_the_table(table), *_of_the_runs(walk, table, depth)]


# --- the table as a graph ---------------------------------------------------------------------------------------------


def _of_the_table(table: tuple[Transition, ...]) -> Iterator[Proof]:
    ways = _ways_from(INITIAL_STATE, table)
    farthest = max(ways.values(), key=len)
    unreached = [state for state in State if state not in ways]
    yield Proof(
        "every state is reachable",
        f"{len(State)} states, {len(table)} arrows; the farthest is {len(farthest)} transitions away",
        f"no path leads from {INITIAL_STATE} to {unreached[0]}" if unreached else None,
    )
    for trigger, end in ((Trigger.FAIL, State.FAILED), (Trigger.CANCEL, State.CANCELLED)):
        held = [
            state
            for state in OPEN_STATES
            if not any((it.trigger, it.source, it.dest, it.guard) == (trigger, state, end, None) for it in table)
        ]
        yield Proof(
            f"every open state leads to {end}, by {trigger}, under no condition",
            f"{len(OPEN_STATES)} open states",
            f"{_way_words(ways.get(held[0], ()), held[0])}: no unconditional {trigger} → {end}" if held else None,
        )
    stuck = [state for state in OPEN_STATES if not FINAL_STATES & set(_ways_from(state, table))]
    left = [arrow for arrow in table if arrow.source.is_final]
    cause = f"{_way_words(ways.get(stuck[0], ()), stuck[0])}: no end can be reached" if stuck else None
    if left:
        cause = f"{left[0].source} is an end, and yet {left[0].trigger} leads to {left[0].dest}"
    yield Proof(
        "no dead end: every open state leads to an end, and no end leads on",
        f"{len(OPEN_STATES)} open states, {len(FINAL_STATES)} ends",
        cause,
    )


def _ways_from(start: State, table: Iterable[Transition]) -> dict[State, tuple[Transition, ...]]:
    """A shortest way to each state that can be reached."""
    arrows = list(table)
    ways: dict[State, tuple[Transition, ...]] = {start: ()}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        for arrow in arrows:
            if arrow.source is here and arrow.dest not in ways:
                ways[arrow.dest] = (*ways[here], arrow)
                queue.append(arrow.dest)
    return ways


def _way_words(way: Iterable[Transition], state: State) -> str:
    taken = [f"─{arrow.trigger}→ {arrow.dest}" for arrow in way]
    return " ".join([INITIAL_STATE, *taken]) if taken else state.value


# --- the runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """A situation: the checkpoint, the time, and what an observer who sees only facts and effects knows.

    `begun` are the calls that were run once; `approved` those a person said yes to that have not been run since;
    `asked` is the question on the table: its request, call and deadline as the last `AwaitDecision` named them.
    """

    checkpoint: Checkpoint
    now: float
    begun: frozenset[str] = frozenset()
    approved: frozenset[str] = frozenset()
    asked: tuple[str, str, float] | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """All that decides how the run goes on."""
        run = self.checkpoint
        unsettled = [call for call in run.calls if call.status in (CallStatus.REQUESTED, CallStatus.STARTED)]
        place = {call.id: index for index, call in enumerate(unsettled)}
        calls = tuple(
            (
                *(call.needs_approval, call.idempotent, call.status, call.outcome_unknown),
                *(call.id in self.begun, call.id in self.approved),
            )
            for call in unsettled
        )
        queue = tuple(place.get(approval.call_id) for approval in run.pending_approvals)
        asked = self.asked and (place.get(self.asked[1]), self.asked[2])
        return (
            *(run.state, run.turn, run.model_attempt, run.limits.on_reject, run.deadline_at, self.now),
            *(calls, queue, asked),
        )


@dataclass(slots=True)
class _Walk:
    """What the walk met. `broken` has a path for each property that does not hold."""

    situations: int = 0
    steps: int = 0
    refused: int = 0
    paths: int = 0
    depth: int = 0
    is_complete: bool = True
    waits: int = 0
    executions: int = 0
    taken: set[tuple[Trigger, State, State]] = field(default_factory=set)
    broken: dict[str, str] = field(default_factory=dict)


_UNAPPROVED = "no risky call, and no second run of one that must not be repeated, without a person's yes to it, in time"
_DEADLINE = "awaiting_approval always has a deadline, within the run's, and it is the one the person was told"
_IN_TABLE = "a run moves along arrows of the table alone"
_EVERY_ARROW = "every arrow is taken by some run"
_ENDS = "every open run can be cancelled and can fail, at any moment; nothing is accepted after an end"


def _of_the_runs(walk: _Walk, table: tuple[Transition, ...], depth: int) -> Iterator[Proof]:
    reach = "no situation left out" if walk.is_complete else "deeper situations not looked at"
    looked = f"{walk.executions} such runs; {walk.situations} situations up to {walk.depth} facts deep, {reach}; "
    looked += f"they stand for {walk.paths:.1e} paths of up to {depth} facts"
    yield Proof(_UNAPPROVED, looked, walk.broken.get(_UNAPPROVED))
    yield Proof(_DEADLINE, f"{walk.waits} waits", walk.broken.get(_DEADLINE))
    yield Proof(_ENDS, f"{walk.situations} situations, {walk.refused} facts refused", walk.broken.get(_ENDS))
    yield Proof(_IN_TABLE, f"{walk.steps} steps", walk.broken.get(_IN_TABLE))
    idle = [arrow for arrow in table if (arrow.trigger, arrow.source, arrow.dest) not in walk.taken]
    cause = f"{idle[0].source} ─{idle[0].trigger}→ {idle[0].dest} is taken by no run" if idle else None
    yield Proof(_EVERY_ARROW, f"{len(walk.taken)} of {len(table)} arrows taken", cause)


def _walk(depth: int) -> _Walk:
    """Breadth first, so that the first path to break a property is a shortest one."""
    walk = _Walk()
    known: dict[tuple[object, ...], int] = {}
    steps_from: list[list[int]] = []
    queue: deque[tuple[_Seen, tuple[str, ...]]] = deque()

    def enter(seen: _Seen, path: tuple[str, ...]) -> int:
        number = known.setdefault(seen.key, len(known))
        if number == len(steps_from):
            steps_from.append([])
            queue.append((seen, path))
        return number

    for start in _starts():
        enter(start, ("begin",))
    starts = len(known)
    while queue:
        seen, path = queue.popleft()
        number = known[seen.key]
        if len(path) > depth:
            walk.is_complete = False
            continue
        walk.depth = max(walk.depth, len(path))
        for words, fact, now in _facts(seen):
            following = _told(walk, seen, fact, now, (*path, words))
            if following is not None:
                steps_from[number].append(enter(following, (*path, words)))
    walk.situations = len(known)
    walk.paths = _count_paths(steps_from, starts, depth)
    return walk


def _count_paths(steps_from: list[list[int]], starts: int, depth: int) -> int:
    """How many sequences of accepted facts, up to that length, the situations stand for."""
    here = dict.fromkeys(range(starts), 1)
    paths = 0
    for _ in range(depth):
        there: dict[int, int] = {}
        for number, count in here.items():
            for following in steps_from[number]:
                there[following] = there.get(following, 0) + count
        paths += sum(there.values())
        here = there
    return paths


def _told(walk: _Walk, seen: _Seen, fact: Fact, now: float, path: tuple[str, ...]) -> _Seen | None:
    """The situation that the fact leads to, looked at; None where it was refused."""
    before = seen.checkpoint
    must = isinstance(fact, (CancelRequested, InternalErrorOccurred)) and not before.state.is_final
    try:
        step = advance(before, fact, now)
    except FactRefused as refusal:
        walk.refused += 1
        if must:
            _break(walk, _ENDS, path, str(refusal))
        return None
    walk.steps += 1
    if before.state.is_final or (must and not step.checkpoint.state.is_final):
        _break(walk, _ENDS, path, f"{before.state} went on to {step.checkpoint.state}")
    _look_at_moves(walk, before, step, path)
    _look_at_wait(walk, step, path)
    begun, approved = _look_at_runs(walk, seen, fact, step, path)
    asked = None
    if isinstance(step.effect, AwaitDecision):
        approval = step.effect.approval
        asked = (approval.request_id, approval.call_id, step.effect.deadline_at)
    return _Seen(step.checkpoint, now, begun, approved, asked)


def _break(walk: _Walk, claim: str, path: tuple[str, ...], cause: str) -> None:
    walk.broken.setdefault(claim, f"{' → '.join(path)}: {cause}")


def _look_at_moves(walk: _Walk, before: Checkpoint, step: Step, path: tuple[str, ...]) -> None:
    table = {(arrow.trigger, arrow.source, arrow.dest) for arrow in states.TRANSITIONS}
    here = before.state
    for move in step.checkpoint.path[len(before.path) :]:
        arrow = (move.trigger, move.source, move.dest)
        walk.taken.add(arrow)
        if arrow not in table or move.source is not here:
            _break(walk, _IN_TABLE, path, f"{move.source} ─{move.trigger}→ {move.dest}")
        here = move.dest
    if here is not step.checkpoint.state:
        _break(walk, _IN_TABLE, path, f"{here} became {step.checkpoint.state} without a transition")


def _look_at_wait(walk: _Walk, step: Step, path: tuple[str, ...]) -> None:
    run, effect = step.checkpoint, step.effect
    if run.state is not State.AWAITING_APPROVAL:
        return
    walk.waits += 1
    if run.deadline_at is None:
        _break(walk, _DEADLINE, path, "it waits without a deadline")
    elif run.deadline_at > run.run_deadline_at:
        _break(walk, _DEADLINE, path, "the deadline is after the end of the run")
    elif not isinstance(effect, AwaitDecision) or effect.deadline_at != run.deadline_at:
        _break(walk, _DEADLINE, path, f"the deadline is not the one that {type(effect).__name__} told")


def _look_at_runs(
    walk: _Walk, seen: _Seen, fact: Fact, step: Step, path: tuple[str, ...]
) -> tuple[frozenset[str], frozenset[str]]:
    """Whether a person had said yes to what runs now; the calls that have run, and the yeses that are left."""
    approved = set(seen.approved)
    if isinstance(fact, ApprovalGranted) and seen.asked is not None:
        request_id, call_id, deadline_at = seen.asked
        if fact.request_id == request_id and fact.decided_at < deadline_at:
            approved.add(call_id)
    going_on = set() if isinstance(fact, RunRecovered) else {call.id for call in seen.checkpoint.running}
    run_now = [call for call in step.checkpoint.running if call.id not in going_on]
    for call in run_now:
        is_second = call.id in seen.begun
        if call.idempotent if is_second else not call.needs_approval:
            continue
        walk.executions += 1
        if call.id not in approved:
            _break(walk, _UNAPPROVED, path, f"{call.id} is run{' again' if is_second else ''}, and nobody approved it")
        approved.discard(call.id)
    return seen.begun | {call.id for call in run_now}, frozenset(approved)


# --- the alphabet -----------------------------------------------------------------------------------------------------


def _starts() -> Iterator[_Seen]:
    request = RunRequest(session_id="s", thread_id="t", user_id="u", tenant_id="t", trace_id="t", prompt="p")
    for on_reject in ("stop", "replan"):
        limits = replace(_LIMITS, on_reject=on_reject)
        yield _Seen(begin(request, [{"role": "user", "content": "p"}], limits, 0.0).checkpoint, 0.0)


_TURNS: dict[str, tuple[tuple[bool, bool], ...]] = {
    "a safe call": ((False, True),),
    "a safe call that may not be repeated": ((False, False),),
    "a risky call": ((True, False),),
    "a risky call that may be repeated": ((True, True),),
    "a safe and a risky call": ((False, True), (True, False)),
    "two risky calls and a safe one": ((True, False), (True, True), (False, False)),
}
"""What the model may ask for in a turn: calls, each (needs approval, may be repeated)."""


def _facts(seen: _Seen) -> Iterator[tuple[str, Fact, float]]:
    """Every fact, in every form that matters here, legal or not, with its words and the time it is told."""
    run, now = seen.checkpoint, seen.now
    yield from ((f"the model asks for {words}", _requested(run, calls), now) for words, calls in _TURNS.items())
    yield "the model asks for what cannot be run", _requested(run, ((True, False),), refusal="no such tool"), now
    yield "the model thinks", ThoughtArrived("…"), now
    yield "the answer begins", AnswerArrived("…"), now
    yield "the answer ends", AnswerFinished("…"), now
    yield "the model breaks off", ModelFailed("interrupted", "…"), now
    yield "the model refuses", ModelFailed("refused", "…"), now
    for call in run.running:
        yield f"{call.id} succeeds", ToolFinished(call.id, "…"), now
        yield f"{call.id} fails", ToolFinished(call.id, "…", error="…"), now
    yield "a call that is not running ends", ToolFinished("another", "…"), now
    yield from _decisions(run, now)
    for words, moment in (("at once", now), ("at the run's end", run.run_deadline_at)):
        yield f"a deadline is looked at {words}", DeadlinePassed(), max(now, moment)
    yield "it is cancelled", CancelRequested("u"), now
    yield "the service breaks", InternalErrorOccurred("…"), now
    yield "the node dies", RunRecovered(), now
    yield "the node dies until the run's end", RunRecovered(), max(now, run.run_deadline_at)
    yield "the run is loaded again", RunResumed(), now


def _decisions(run: Checkpoint, now: float) -> Iterator[tuple[str, Fact, float]]:
    request = run.open_approval.request_id if run.open_approval else "req-none"
    late = now if run.deadline_at is None else max(now, run.deadline_at)
    edit: dict[str, object] = {"edited": True}
    yield "a person approves", ApprovalGranted(request, now, "u"), now
    yield "a person edits and approves", ApprovalGranted(request, now, "u", edit, edit), now
    yield "a person approves in time, and it is heard late", ApprovalGranted(request, now, "u"), late
    yield "a person approves too late", ApprovalGranted(request, late, "u"), late
    yield "a person approves another request", ApprovalGranted("req-other", now, "u"), now
    yield "a person rejects", ApprovalRejected(request, now, "u"), now
    yield "a person rejects the call alone", ApprovalRejected(request, now, "u", skip=True), now
    yield "a person rejects too late", ApprovalRejected(request, late, "u"), late
    yield "a person rejects another request", ApprovalRejected("req-other", now, "u"), now
    yield "the approval's deadline passes", DeadlinePassed(), late


def _requested(run: Checkpoint, calls: Iterable[tuple[bool, bool]], refusal: str | None = None) -> ToolsRequested:
    requested = []
    for number, (is_risky, is_repeatable) in enumerate(calls, start=len(run.calls)):
        name = "risky" if is_risky else "safe"
        requested.append(
            RequestedCall(
                id=f"{name}-{number}",
                name=name,
                arguments={},
                raw_arguments="{}",
                needs_approval=is_risky,
                idempotent=is_repeatable,
                refusal=refusal,
            )
        )
    return ToolsRequested(tuple(requested))
