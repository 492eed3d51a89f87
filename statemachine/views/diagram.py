"""Renders the transition table as Mermaid, DOT, SVG, XState JSON or text, with the state and path of a run marked.

Everything comes from `TRANSITIONS` and the texts of states and guards, so that the drawing matches what runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

from statemachine.states import (
    INITIAL_STATE,
    OPEN_STATES,
    STATE_ACTIVITIES,
    STATE_TITLES,
    TRANSITIONS,
    State,
    Transition,
)
from statemachine.stored import JsonObject
from statemachine.views.snapshot import RunSnapshot
from statemachine.views.svg import svg

Format = Literal["mermaid", "dot", "svg", "json", "table"]

README_BEGIN, README_END = "<!-- diagram -->", "<!-- /diagram -->"


def mermaid(snapshot: RunSnapshot | None = None) -> str:
    """Return a Mermaid `stateDiagram-v2`. Final states lead to `[*]`; the current state of a run is filled."""
    lines = ["stateDiagram-v2", f"    [*] --> {INITIAL_STATE}"]
    lines += [f"    {row.source} --> {row.dest} : {_label(row, snapshot)}" for row in _ordered()]
    lines += [f"    {state} --> [*]" for state in State if state.is_final]
    for state in State:
        lines += [f"    {state} : {state} ({STATE_TITLES[state]})", f"    {state} : {STATE_ACTIVITIES[state]}"]
    if snapshot is not None:
        if snapshot.open_approval is not None:
            lines.append(f"    note right of {snapshot.state} : {snapshot.open_approval.description}")
        lines += ["    classDef current fill:#f5b301,stroke:#7a5900,color:#000", f"    class {snapshot.state} current"]
    return "\n".join(lines) + "\n"


def dot(snapshot: RunSnapshot | None = None) -> str:
    """Return a Graphviz digraph. Final states have a double line; transitions from every open state are dashed."""
    lines = ["digraph aura {", "  rankdir=LR;", "  node [shape=box, style=rounded];", "  start [shape=point];"]
    for state in State:
        attributes = ", peripheries=2" if state.is_final else ""
        is_current = snapshot is not None and snapshot.state is state
        if is_current:
            attributes += ', style="rounded,filled", fillcolor="#f5b301"'
        label = f"{state} ({STATE_TITLES[state]})\n{STATE_ACTIVITIES[state]}"
        if is_current and snapshot is not None and snapshot.open_approval is not None:
            label += f"\n{snapshot.open_approval.description}"
        lines.append(f"  {state} [label={_dot_string(label)}{attributes}];")
    lines.append(f"  start -> {INITIAL_STATE};")
    for row in _ordered():
        attributes = ", style=dashed, color=gray, constraint=false" if _leaves_every_open_state(row) else ""
        lines.append(f"  {row.source} -> {row.dest} [label={_dot_string(_label(row, snapshot))}{attributes}];")
    return "\n".join([*lines, "}"]) + "\n"


def machine_config(snapshot: RunSnapshot | None = None) -> JsonObject:
    """Return a machine config for XState's `createMachine`. The name of a guard is its description.

    With a run, `meta` contains its `current` state, its `path` and its `pendingApproval`.
    """
    states: JsonObject = {}
    for state in State:
        node = {"description": STATE_ACTIVITIES[state], "meta": {"title": STATE_TITLES[state]}}
        states[state.value] = {"type": "final", **node} if state.is_final else {**node, "on": {}}
    for row in _ordered():
        target = {"target": row.dest.value} | ({"guard": row.guard.value} if row.guard else {})
        states[row.source.value]["on"][row.trigger.value] = target
    config: JsonObject = {"id": "aura", "initial": INITIAL_STATE.value, "states": states}
    if snapshot is not None:
        config["meta"] = snapshot.to_json_object()
    return config


def table(snapshot: RunSnapshot | None = None) -> str:
    """Return two text tables: the states, then the transitions. The current state of a run is marked with `>`."""
    states = [("", "state", "kind", "what happens in it")]
    for state in State:
        kind = "final" if state.is_final else "initial" if state is INITIAL_STATE else ""
        mark = ">" if snapshot is not None and snapshot.state is state else ""
        states.append((mark, state.value, kind, STATE_ACTIVITIES[state]))
    transitions = [("from", "trigger", "to", "only if", "taken as" if snapshot else "")]
    for row in _ordered():
        guard = row.guard.value if row.guard else ""
        transitions.append((row.source.value, row.trigger.value, row.dest.value, guard, _steps_text(row, snapshot)))
    waiting = (
        f"\nwaiting for a decision: {snapshot.open_approval.description}\n"
        if snapshot and snapshot.open_approval
        else ""
    )
    return f"{_columns(states)}\n{_columns(transitions)}{waiting}"


def render(format: Format, snapshot: RunSnapshot | None = None) -> str:
    """Return the diagram of the machine, or of the run in `snapshot`, as text in `format`. It ends with a newline."""
    return _RENDERERS[format](snapshot)


def readme_section() -> str:
    """Return the text between the lines `README_BEGIN` and `README_END` of README.md."""
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
    """Return the rows of the table: first the happy path, last the transitions from every open state."""
    return sorted(TRANSITIONS, key=lambda row: (not row.is_happy_path, _leaves_every_open_state(row)))


def _leaves_every_open_state(row: Transition) -> bool:
    sources = {other.source for other in TRANSITIONS if (other.trigger, other.dest) == (row.trigger, row.dest)}
    return sources == set(OPEN_STATES)


def _label(row: Transition, snapshot: RunSnapshot | None) -> str:
    guard = f" [{row.guard}]" if row.guard else ""
    steps = _steps_text(row, snapshot)
    return f"{row.trigger}{guard}" + (f" ({steps})" if steps else "")


_MAX_STEPS = 3


def _steps_text(row: Transition, snapshot: RunSnapshot | None) -> str:
    """Return the numbers and times of the run's newest steps that made this transition."""
    steps = snapshot.steps_of(row) if snapshot is not None else []
    ellipsis = "…, " if len(steps) > _MAX_STEPS else ""
    return ellipsis + ", ".join(step.description for step in steps[-_MAX_STEPS:])


def _dot_string(text: str) -> str:
    """Return the text as a quoted string of the DOT language."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as a text table. The first row is the header."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths).rstrip(), *lines[1:]]) + "\n"
