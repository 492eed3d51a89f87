"""The one table in every text form: Mermaid, DOT, SVG, XState's JSON, a table; a run's state and path marked in it.

Derived from `TRANSITIONS`, the states' words and the guards' words alone: what is drawn is what runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

from statemachine.checkpoint import JsonObject
from statemachine.states import (
    INITIAL_STATE,
    OPEN_STATES,
    STATE_ACTIVITIES,
    STATE_TITLES,
    TRANSITIONS,
    State,
    Transition,
)
from statemachine.views.snapshot import RunSnapshot
from statemachine.views.svg import svg

Format = Literal["mermaid", "dot", "svg", "json", "table"]

README_BEGIN, README_END = "<!-- diagram -->", "<!-- /diagram -->"


def mermaid(snapshot: RunSnapshot | None = None) -> str:
    """A `stateDiagram-v2`. Final states lead to `[*]`; the current state of a run is filled, its passages numbered."""
    lines = ["stateDiagram-v2", f"    [*] --> {INITIAL_STATE}"]
    lines += [f"    {arrow.source} --> {arrow.dest} : {_label(arrow, snapshot)}" for arrow in _ordered()]
    lines += [f"    {state} --> [*]" for state in State if state.is_final]
    for state in State:
        lines += [f"    {state} : {state} ({STATE_TITLES[state]})", f"    {state} : {STATE_ACTIVITIES[state]}"]
    if snapshot is not None:
        if snapshot.waiting is not None:
            lines.append(f"    note right of {snapshot.state} : {snapshot.waiting.words}")
        lines += ["    classDef current fill:#f5b301,stroke:#7a5900,color:#000", f"    class {snapshot.state} current"]
    return "\n".join(lines) + "\n"


def dot(snapshot: RunSnapshot | None = None) -> str:
    """A Graphviz digraph. Final states have a double line; ways out of every open state are dashed."""
    lines = ["digraph aura {", "  rankdir=LR;", "  node [shape=box, style=rounded];", "  start [shape=point];"]
    for state in State:
        look = ", peripheries=2" if state.is_final else ""
        is_current = snapshot is not None and snapshot.state is state
        if is_current:
            look += ', style="rounded,filled", fillcolor="#f5b301"'
        words = f"{state} ({STATE_TITLES[state]})\n{STATE_ACTIVITIES[state]}"
        if is_current and snapshot is not None and snapshot.waiting is not None:
            words += f"\n{snapshot.waiting.words}"
        lines.append(f"  {state} [label={_quoted(words)}{look}];")
    lines.append(f"  start -> {INITIAL_STATE};")
    for arrow in _ordered():
        look = ", style=dashed, color=gray, constraint=false" if _is_way_out(arrow) else ""
        lines.append(f"  {arrow.source} -> {arrow.dest} [label={_quoted(_label(arrow, snapshot))}{look}];")
    return "\n".join([*lines, "}"]) + "\n"


def machine_config(snapshot: RunSnapshot | None = None) -> JsonObject:
    """A machine config that XState's `createMachine` loads; a guard is named by its words.

    With a run, `meta` holds its `current` state, the `path` it took, and its `pendingApproval`.
    """
    states: JsonObject = {}
    for state in State:
        words = {"description": STATE_ACTIVITIES[state], "meta": {"title": STATE_TITLES[state]}}
        states[state.value] = {"type": "final", **words} if state.is_final else {**words, "on": {}}
    for arrow in _ordered():
        target = {"target": arrow.dest.value} | ({"guard": arrow.guard.value} if arrow.guard else {})
        states[arrow.source.value]["on"][arrow.trigger.value] = target
    config: JsonObject = {"id": "aura", "initial": INITIAL_STATE.value, "states": states}
    if snapshot is not None:
        config["meta"] = snapshot.to_json_object()
    return config


def table(snapshot: RunSnapshot | None = None) -> str:
    """Two plain tables: the states, then the arrows; the current state of a run is marked `>`."""
    states = [("", "state", "kind", "what happens in it")]
    for state in State:
        kind = "final" if state.is_final else "initial" if state is INITIAL_STATE else ""
        mark = ">" if snapshot is not None and snapshot.state is state else ""
        states.append((mark, state.value, kind, STATE_ACTIVITIES[state]))
    arrows = [("from", "trigger", "to", "only if", "taken as" if snapshot else "")]
    for arrow in _ordered():
        words = arrow.guard.value if arrow.guard else ""
        arrows.append((arrow.source.value, arrow.trigger.value, arrow.dest.value, words, _taken(arrow, snapshot)))
    waiting = f"\nwaiting for a decision: {snapshot.waiting.words}\n" if snapshot and snapshot.waiting else ""
    return f"{_columns(states)}\n{_columns(arrows)}{waiting}"


def render(format: Format, snapshot: RunSnapshot | None = None) -> str:
    """The diagram in that format, ending with a line end."""
    return _RENDERERS[format](snapshot)


def readme_section() -> str:
    """What stands in README.md between `README_BEGIN` and `README_END`, a line each."""
    return f"```mermaid\n{mermaid()}```\n"


def _json(snapshot: RunSnapshot | None) -> str:
    return json.dumps(machine_config(snapshot), ensure_ascii=False, indent=2) + "\n"


_RENDERERS: dict[Format, Callable[[RunSnapshot | None], str]] = {
    "mermaid": mermaid,
    "dot": dot,
    "svg": svg,
    "json": _json,
    "table": table,
}


def _ordered() -> list[Transition]:
    """The rows of the table: the happy path first, and last what leaves every open state."""
    return sorted(TRANSITIONS, key=lambda row: (not row.is_happy_path, _is_way_out(row)))


def _is_way_out(arrow: Transition) -> bool:
    sources = {other.source for other in TRANSITIONS if (other.trigger, other.dest) == (arrow.trigger, arrow.dest)}
    return sources == set(OPEN_STATES)


def _label(arrow: Transition, snapshot: RunSnapshot | None) -> str:
    guard = f" [{arrow.guard}]" if arrow.guard else ""
    taken = _taken(arrow, snapshot)
    return f"{arrow.trigger}{guard}" + (f" ({taken})" if taken else "")


_MOST_TIMES = 3


def _taken(arrow: Transition, snapshot: RunSnapshot | None) -> str:
    """The newest passages of the run that took this arrow: their numbers, counted from 1, and times."""
    steps = snapshot.along(arrow) if snapshot is not None else []
    more = "…, " if len(steps) > _MOST_TIMES else ""
    return more + ", ".join(step.words for step in steps[-_MOST_TIMES:])


def _quoted(text: str) -> str:
    """A DOT string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths).rstrip(), *lines[1:]]) + "\n"
