"""Checks properties of the transition table as a graph, for example that every state is reachable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from statemachine.checking.proof import Proof
from statemachine.states import FINAL_STATES, INITIAL_STATE, OPEN_STATES, State, Transition, Trigger


def table_proofs(table: tuple[Transition, ...]) -> Iterator[Proof]:
    paths = _paths_from(INITIAL_STATE, table)
    longest = max(paths.values(), key=len)
    unreached = [state for state in State if state not in paths]
    yield Proof(
        "every state is reachable",
        f"{len(State)} states, {len(table)} transitions; the longest path has {len(longest)} transitions",
        f"no path leads from {INITIAL_STATE} to {unreached[0]}" if unreached else None,
    )
    for trigger, end in ((Trigger.FAIL, State.FAILED), (Trigger.CANCEL, State.CANCELLED)):
        missing = [
            state
            for state in OPEN_STATES
            if not any((row.trigger, row.source, row.dest, row.guard) == (trigger, state, end, None) for row in table)
        ]
        yield Proof(
            f"every open state leads to {end}, by {trigger}, without a guard",
            f"{len(OPEN_STATES)} open states",
            f"{_describe(paths.get(missing[0], ()), missing[0])}: no {trigger} → {end} without a guard"
            if missing
            else None,
        )
    stuck = [state for state in OPEN_STATES if not FINAL_STATES & set(_paths_from(state, table))]
    leaving = [row for row in table if row.source.is_final]
    cause = f"{_describe(paths.get(stuck[0], ()), stuck[0])}: no final state can be reached" if stuck else None
    if leaving:
        cause = f"{leaving[0].source} is final, but {leaving[0].trigger} leads to {leaving[0].dest}"
    yield Proof(
        "no dead end: every open state leads to a final state, and no transition leaves a final state",
        f"{len(OPEN_STATES)} open states, {len(FINAL_STATES)} final states",
        cause,
    )


def _paths_from(start: State, table: Iterable[Transition]) -> dict[State, tuple[Transition, ...]]:
    """Return a shortest path to each state that can be reached."""
    rows = list(table)
    paths: dict[State, tuple[Transition, ...]] = {start: ()}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for row in rows:
            if row.source is state and row.dest not in paths:
                paths[row.dest] = (*paths[state], row)
                queue.append(row.dest)
    return paths


def _describe(path: Iterable[Transition], state: State) -> str:
    """Describe a path from the initial state, or only the state if the path is empty."""
    steps = [f"─{row.trigger}→ {row.dest}" for row in path]
    return " ".join([INITIAL_STATE, *steps]) if steps else state.value
