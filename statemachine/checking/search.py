"""Properties of all runs, found by a search through the situations that `advance()` can reach.

The search calls `advance` itself, from `begin` on, with each of `facts` in each situation. Runs that differ only in
texts, ids and closed calls behave alike (`_Situation.key`), so each situation is explored once, by a shortest path.
That path is the counterexample if a property does not hold. What a person has approved is derived from facts and
effects alone, independent of guards and grants.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from statemachine import states
from statemachine.call import CallStatus, ToolCall
from statemachine.checking.facts import facts
from statemachine.checking.proof import Proof
from statemachine.checking.table import table_proofs
from statemachine.checkpoint import Checkpoint, Limits, RunRequest
from statemachine.errors import FactRefused
from statemachine.messages import (
    REFUSALS,
    ApprovalGranted,
    AwaitDecision,
    CallModel,
    CancelRequested,
    Fact,
    InternalErrorOccurred,
    ModelFailed,
    RunRecovered,
    Step,
    ToolFinished,
)
from statemachine.prompt import History
from statemachine.states import State, Transition, Trigger
from statemachine.stored import JsonObject
from statemachine.tokens import estimate_prompt
from statemachine.workflow import advance, begin

DEPTH = 16
"""The number of facts in a row. With `_LIMITS` the search reaches every situation within it."""
_LIMITS = Limits(turns=2, model_attempts=2, run_seconds=900, approval_seconds=300)
_BUDGET_LIMITS = replace(_LIMITS, tokens=230, completion_tokens=100)
"""Enough for two attempts at the first turn, or for one attempt at each of the two turns."""


def check(depth: int = DEPTH) -> list[Proof]:
    """Check all properties of the current table and of all runs of up to `depth` facts."""
    table = states.TRANSITIONS
    search = _search(depth)
    return [*table_proofs(table), *_run_proofs(search, table, depth)]


@dataclass(frozen=True, slots=True)
class _Situation:
    """A checkpoint, the time, and what an observer of only facts and effects knows.

    `started` are the ids of the calls that ran at least once, `approved` those that a person approved and that have not
    run since. `open_request` is the request id, call id and deadline of the last `AwaitDecision`. `has_read`: text from
    outside is in the run or in its history.
    """

    checkpoint: Checkpoint
    now: float
    started: frozenset[str] = frozenset()
    approved: frozenset[str] = frozenset()
    open_request: tuple[str, str, float] | None = None
    has_read: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that determines how the run continues. Of a time, how far away it is, or that it has passed."""
        run = self.checkpoint
        run_seconds_left = max(0.0, run.run_deadline_at - self.now)
        decision_seconds_left = None if run.deadline_at is None else max(0.0, run.deadline_at - self.now)
        open_calls = [call for call in run.calls if call.status in (CallStatus.REQUESTED, CallStatus.STARTED)]
        position = {call.id: index for index, call in enumerate(open_calls)}
        calls = tuple(
            (
                *(call.needs_approval, call.idempotent, call.status, call.outcome_unknown),
                *(call.outward, call.untrusted),
                *(call.id in self.started, call.id in self.approved),
            )
            for call in open_calls
        )
        queue = tuple(position.get(approval.call_id) for approval in run.pending_approvals)
        request = self.open_request and (position.get(self.open_request[1]), max(0.0, self.open_request[2] - self.now))
        return (
            *(run.state, run.turn, run.model_attempt, run.limits.on_reject, run_seconds_left, decision_seconds_left),
            *(calls, queue, request, self.has_read, bool(run.outside_text)),
            *((run.spent_tokens, run.reserved_tokens, estimate_prompt(run.messages)) if run.limits.tokens else ()),
        )


@dataclass(slots=True)
class _Search:
    """What the search found. `violations` maps the claims that do not hold to a path."""

    situations: int = 0
    steps: int = 0
    refused: int = 0
    paths: int = 0
    depth: int = 0
    is_complete: bool = True
    waits: int = 0
    model_calls: int = 0
    executions: int = 0
    sendings: int = 0
    taken: set[tuple[Trigger, State, State]] = field(default_factory=set)
    violations: dict[str, str] = field(default_factory=dict)


_APPROVED = "no risky call runs, and no call that is not idempotent runs again, without a person's approval in time"
_OUTWARD = "once text from outside is in a run or its history, no call sends anything to others without an approval"
_DEADLINE = "awaiting_approval always has a deadline, within the run's, and it is the one that was shown"
_BUDGET = "the model is called only with a reservation within the token budget, and accepted attempts are counted"
_IN_TABLE = "a run makes only transitions of the table"
_ALL_TAKEN = "every transition is made by some run"
_ENDS = "every open run can be cancelled and can fail, at any moment; a final state accepts nothing"


def _run_proofs(search: _Search, table: tuple[Transition, ...], depth: int) -> Iterator[Proof]:
    scope = "no situation left out" if search.is_complete else "deeper situations not checked"
    coverage = (
        f"{search.executions} such runs; {search.situations} situations, up to {search.depth} facts deep, {scope}"
    )
    coverage += f"; they represent {search.paths:.1e} paths of up to {depth} facts"
    yield Proof(_APPROVED, coverage, search.violations.get(_APPROVED))
    yield Proof(_OUTWARD, f"{search.sendings} such calls started", search.violations.get(_OUTWARD))
    yield Proof(_DEADLINE, f"{search.waits} waits", search.violations.get(_DEADLINE))
    yield Proof(_BUDGET, f"{search.model_calls} model calls", search.violations.get(_BUDGET))
    yield Proof(_ENDS, f"{search.situations} situations, {search.refused} facts refused", search.violations.get(_ENDS))
    yield Proof(_IN_TABLE, f"{search.steps} steps", search.violations.get(_IN_TABLE))
    unused = [row for row in table if (row.trigger, row.source, row.dest) not in search.taken]
    cause = f"no run makes {unused[0].source} ─{unused[0].trigger}→ {unused[0].dest}" if unused else None
    yield Proof(_ALL_TAKEN, f"{len(search.taken)} of {len(table)} transitions made", cause)


def _search(depth: int) -> _Search:
    """Search breadth first, so that the first path that violates a property is a shortest one."""
    search = _Search()
    known: dict[tuple[object, ...], int] = {}
    edges: list[list[int]] = []
    queue: deque[tuple[_Situation, tuple[str, ...]]] = deque()

    def enter(situation: _Situation, path: tuple[str, ...]) -> int:
        number = known.setdefault(situation.key, len(known))
        if number == len(edges):
            edges.append([])
            queue.append((situation, path))
        return number

    for start in _initial_situations():
        enter(start, ("begin",))
    start_count = len(known)
    while queue:
        situation, path = queue.popleft()
        number = known[situation.key]
        if len(path) > depth:
            search.is_complete = False
            continue
        search.depth = max(search.depth, len(path))
        for description, fact, now in facts(situation.checkpoint, situation.now):
            successor = _apply(search, situation, fact, now, (*path, description))
            if successor is not None:
                edges[number].append(enter(successor, (*path, description)))
    search.situations = len(known)
    search.paths = _count_paths(edges, start_count, depth)
    return search


def _count_paths(edges: list[list[int]], start_count: int, depth: int) -> int:
    """Count the sequences of up to `depth` accepted facts that the situations represent."""
    ends = dict.fromkeys(range(start_count), 1)
    paths = 0
    for _ in range(depth):
        next_ends: dict[int, int] = {}
        for number, count in ends.items():
            for successor in edges[number]:
                next_ends[successor] = next_ends.get(successor, 0) + count
        paths += sum(next_ends.values())
        ends = next_ends
    return paths


def _apply(search: _Search, situation: _Situation, fact: Fact, now: float, path: tuple[str, ...]) -> _Situation | None:
    """Return the situation that the fact leads to, after checking the step; None if the fact is refused."""
    before = situation.checkpoint
    must_end = isinstance(fact, (CancelRequested, InternalErrorOccurred)) and not before.state.is_final
    try:
        step = advance(before, fact, now)
    except FactRefused as refusal:
        search.refused += 1
        if must_end:
            _add_violation(search, _ENDS, path, str(refusal))
        return None
    search.steps += 1
    if before.state.is_final or (must_end and not step.checkpoint.state.is_final):
        _add_violation(search, _ENDS, path, f"{before.state} went on to {step.checkpoint.state}")
    _check_transitions(search, before, step, path)
    _check_wait(search, step, path)
    _check_budget(search, before, fact, step, path)
    started, approved = _check_executions(search, situation, fact, step, path)
    has_read = situation.has_read or _reads_outside_text(situation, fact)
    open_request = None
    if isinstance(step.effect, AwaitDecision):
        approval = step.effect.approval
        open_request = (approval.request_id, approval.call_id, step.effect.deadline_at)
    return _Situation(step.checkpoint, now, started, approved, open_request, has_read)


def _reads_outside_text(situation: _Situation, fact: Fact) -> bool:
    """Return whether the fact brings a result that others wrote into the run."""
    if not isinstance(fact, ToolFinished):
        return False
    return any(call.id == fact.call_id and call.untrusted for call in situation.checkpoint.running)


def _add_violation(search: _Search, claim: str, path: tuple[str, ...], cause: str) -> None:
    search.violations.setdefault(claim, f"{' → '.join(path)}: {cause}")


def _check_transitions(search: _Search, before: Checkpoint, step: Step, path: tuple[str, ...]) -> None:
    table = {(row.trigger, row.source, row.dest) for row in states.TRANSITIONS}
    state = before.state
    for record in step.checkpoint.path[len(before.path) :]:
        transition = (record.trigger, record.source, record.dest)
        search.taken.add(transition)
        if transition not in table or record.source is not state:
            _add_violation(search, _IN_TABLE, path, f"{record.source} ─{record.trigger}→ {record.dest}")
        state = record.dest
    if state is not step.checkpoint.state:
        _add_violation(search, _IN_TABLE, path, f"{state} became {step.checkpoint.state} without a transition")


def _check_wait(search: _Search, step: Step, path: tuple[str, ...]) -> None:
    run, effect = step.checkpoint, step.effect
    if run.state is not State.AWAITING_APPROVAL:
        return
    search.waits += 1
    if run.deadline_at is None:
        _add_violation(search, _DEADLINE, path, "the run waits without a deadline")
    elif run.deadline_at > run.run_deadline_at:
        _add_violation(search, _DEADLINE, path, "the deadline is after the end of the run")
    elif not isinstance(effect, AwaitDecision) or effect.deadline_at != run.deadline_at:
        _add_violation(search, _DEADLINE, path, f"the deadline is not the one of the effect {type(effect).__name__}")


def _check_budget(search: _Search, before: Checkpoint, fact: Fact, step: Step, path: tuple[str, ...]) -> None:
    run, budget = step.checkpoint, step.checkpoint.limits.tokens
    if isinstance(step.effect, CallModel):
        search.model_calls += 1
        if not run.reserved_tokens:
            _add_violation(search, _BUDGET, path, "the model is called without a reservation")
        elif budget and run.spent_tokens + run.reserved_tokens > budget:
            _add_violation(search, _BUDGET, path, f"{run.spent_tokens} + {run.reserved_tokens} of {budget} tokens")
    ended = [turn for turn in run.model_turns[len(before.model_turns) - 1 :] if turn.outcome is not None]
    if not before.reserved_tokens or not ended:
        return  # no attempt was open, or it is still open, or it was not made
    if isinstance(fact, ModelFailed) and fact.failure in REFUSALS:
        return  # the server did no work
    least = before.reserved_tokens if ended[0].outcome == "lost" else 1
    if run.spent_tokens < before.spent_tokens + least:
        _add_violation(search, _BUDGET, path, f"an attempt ended as {ended[0].outcome}, and its tokens are not counted")


def _check_executions(
    search: _Search, situation: _Situation, fact: Fact, step: Step, path: tuple[str, ...]
) -> tuple[frozenset[str], frozenset[str]]:
    """Check that a person approved the calls that start now, if they need it. Return the new `started`, `approved`."""
    approved = set(situation.approved)
    if isinstance(fact, ApprovalGranted) and situation.open_request is not None:
        request_id, call_id, deadline_at = situation.open_request
        if fact.request_id == request_id and fact.decided_at < deadline_at:
            approved.add(call_id)
    running_before = set() if isinstance(fact, RunRecovered) else {call.id for call in situation.checkpoint.running}
    starting = [call for call in step.checkpoint.running if call.id not in running_before]
    for call in starting:
        is_repeated = call.id in situation.started
        _check_sending(search, situation, call, approved, path, is_repeated=is_repeated)
        if call.idempotent if is_repeated else not call.needs_approval:
            continue
        search.executions += 1
        if call.id not in approved:
            cause = f"{call.id} is run{' again' if is_repeated else ''}, and nobody approved it"
            _add_violation(search, _APPROVED, path, cause)
        approved.discard(call.id)
    return situation.started | {call.id for call in starting}, frozenset(approved)


def _check_sending(
    search: _Search,
    situation: _Situation,
    call: ToolCall,
    approved: set[str],
    path: tuple[str, ...],
    *,
    is_repeated: bool,
) -> None:
    """Check a call that starts now, if it sends something to others and the run has read text from outside.

    Whether it may be repeated is another property: what it sends was decided before.
    """
    if not call.outward or not situation.has_read or is_repeated:
        return
    search.sendings += 1
    if call.id not in approved:
        _add_violation(search, _OUTWARD, path, f"{call.id} is run, and nobody approved it")


def _initial_situations() -> Iterator[_Situation]:
    request = RunRequest(session_id="s", thread_id="t", user_id="u", tenant_id="t", trace_id="t", prompt="p")
    messages: list[JsonObject] = [{"role": "user", "content": "p"}]
    for limits in (_LIMITS, replace(_LIMITS, on_reject="replan"), _BUDGET_LIMITS):
        yield _Situation(begin(request, messages, limits, 0.0).checkpoint, 0.0)
    history = History(outside_text=("mail",))
    yield _Situation(begin(request, messages, _LIMITS, 0.0, history).checkpoint, 0.0, has_read=True)
