"""Draws the transition table as an SVG. All texts come from the table, the positions from `layout.py`.

Each state has `id` and `data-state`; each arrow has `data-trigger`, `data-from`, `data-to`, `data-guard` and
`data-number-at` (the position of its step numbers), so that a page can highlight them. Colours are attributes for a
light theme. A page can override them by class; the style in the picture does so for readers who prefer dark.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from html import escape

from statemachine.states import (
    INITIAL_STATE,
    STATE_ACTIVITIES,
    STATE_TITLES,
    State,
    Transition,
)
from statemachine.views.layout import BOXES, FRAME, HEIGHT, PANEL, ROUTES, WIDTH, Box, Route
from statemachine.views.snapshot import OpenApproval, PathStep, RunSnapshot, format_duration

# class → attribute → (colour for light themes, colour for dark themes)
_COLOURS: dict[str, dict[str, tuple[str, str]]] = {
    "ground": {"fill": ("#ffffff", "#0b1120")},
    "frame": {"fill": ("#f5f7fb", "#111a2e"), "stroke": ("#c3cede", "#33415c")},
    "box": {"fill": ("#ffffff", "#1b2640"), "stroke": ("#52627a", "#8fa0bb")},
    "done": {"fill": ("#e7f7ed", "#0f2e1d"), "stroke": ("#15803d", "#4ade80")},
    "failed": {"fill": ("#fdecec", "#3a1416"), "stroke": ("#c81e1e", "#f87171")},
    "rejected": {"fill": ("#fff0e2", "#3a2110"), "stroke": ("#c2500a", "#fb923c")},
    "timed_out": {"fill": ("#f2eeff", "#241a42"), "stroke": ("#6d3fd1", "#a78bfa")},
    "cancelled": {"fill": ("#eef1f5", "#1d2636"), "stroke": ("#64748b", "#94a3b8")},
    "current": {"fill": ("#ffc233", "#f5b301"), "stroke": ("#7a5900", "#ffe08a")},
    "word": {"fill": ("#0f172a", "#e8eef8")},
    "quiet": {"fill": ("#5b6b82", "#9aa9c0")},
    "on-current": {"fill": ("#241a00", "#241a00")},
    "arrow": {"stroke": ("#8090a6", "#7386a3")},
    "happy": {"stroke": ("#1e293b", "#dbe4f2")},
    "faint": {"stroke": ("#cbd5e1", "#3a4863")},
    "taken": {"stroke": ("#2563eb", "#60a5fa")},
    "badge": {"fill": ("#2563eb", "#60a5fa")},
    "on-badge": {"fill": ("#ffffff", "#071226")},
    "head-arrow": {"fill": ("#8090a6", "#7386a3")},
    "head-happy": {"fill": ("#1e293b", "#dbe4f2")},
    "head-faint": {"fill": ("#cbd5e1", "#3a4863")},
    "head-taken": {"fill": ("#2563eb", "#60a5fa")},
}
_FONTS = (
    "Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'Noto Sans KR', 'Apple SD Gothic Neo', 'Malgun Gothic', sans-serif"
)
_MAX_NUMBERS = 3
_PANEL_ROWS, _PANEL_COLUMNS = 7, 3


def svg(snapshot: RunSnapshot | None = None, *, korean: bool = True, fonts: str = _FONTS) -> str:
    """Return the picture. With a run it shows the current state, the numbered path and the open approval.

    With `korean=False` the Korean titles of the states are left out, for readers without a Korean font.
    """
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
            f' class="aura-machine" role="img" aria-labelledby="aura-machine-title" font-family="{escape(fonts)}">'
        ),
        f'<title id="aura-machine-title">{escape(_summary(snapshot))}</title>',
        _style(),
        _markers(),
        f'<rect {_paint("ground")} width="{WIDTH}" height="{HEIGHT}" rx="14"/>',
        *_header(snapshot),
        *_frame(),
        *(line for route in ROUTES for line in _arrow(route, snapshot)),
        *(line for state in State for line in _state(state, snapshot, korean=korean)),
        *(_legend() if snapshot is None else _path_panel(snapshot)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _summary(snapshot: RunSnapshot | None) -> str:
    if snapshot is None:
        return "The state machine of an Aura run"
    waiting = f"; waiting for a decision on {snapshot.open_approval.description}" if snapshot.open_approval else ""
    return f"Run {snapshot.session_id}: {snapshot.state} after {len(snapshot.path)} transitions{waiting}"


# --- the parts --------------------------------------------------------------------------------------------------------


def _header(snapshot: RunSnapshot | None) -> Iterable[str]:
    yield _text(24, 34, "Aura · the machine that runs", "word", size=18, weight=700)
    if snapshot is not None:
        yield _text(WIDTH - 24, 34, snapshot.session_id, "quiet", size=13, anchor="end")


def _frame() -> Iterable[str]:
    x, y = FRAME.x, FRAME.y
    yield '<g class="open-states">'
    yield _rect(FRAME, "frame", radius=16, attributes='stroke-dasharray="5 5"')
    yield _text(x + 16, y + 20, "open: every state in this frame can also fail or be cancelled", "quiet", size=11)
    start = BOXES[INITIAL_STATE]
    middle = start.y + start.height // 2
    yield f'<circle {_paint("word")} cx="56" cy="{middle}" r="7"/>'
    yield f'<path {_paint("happy")} d="M63 {middle} H{start.x}" stroke-width="2" marker-end="url(#aura-head-happy)"/>'
    yield "</g>"


def _arrow(route: Route, snapshot: RunSnapshot | None) -> Iterable[str]:
    rows = route.transitions()
    if not rows:
        return
    first = rows[0]
    steps = snapshot.steps_of(*rows) if snapshot else []
    style = _arrow_style(first, steps, snapshot)
    is_dashed = len(rows) > 1
    width = {"taken": 2.8, "happy": 2.4}.get(style, 1.6)
    sources = " ".join(row.source for row in rows)
    taken = ' data-taken="true"' if steps else ""
    guard = f' data-guard="{escape(first.guard)}"' if first.guard else ""
    x, y = route.badge
    yield (
        f'<g class="transition" data-trigger="{first.trigger}" data-from="{sources}" data-to="{first.dest}"'
        f' data-number-at="{x} {y}"{guard}{taken}>'
    )
    yield f"<title>{escape(_arrow_title(first, steps))}</title>"
    dashes = ' stroke-dasharray="7 5"' if is_dashed else ""
    yield (
        f'<path {_paint(style)} d="{route.path}" fill="none" stroke-width="{width}"{dashes}'
        f' marker-end="url(#aura-head-{style})"/>'
    )
    label = [first.trigger.value, *(_wrap(f"[{first.guard}]", 24) if first.guard else ())]
    x, y = route.label
    for index, line in enumerate(label):
        colour, size, weight = ("word", 13, 600) if index == 0 else ("quiet", 11, 400)
        yield _text(x, y - 14 * (len(label) - 1 - index), line, colour, size=size, weight=weight, anchor=route.anchor)
    if steps:
        yield from _badge(*route.badge, steps)
    yield "</g>"


def _arrow_style(row: Transition, steps: list[PathStep], snapshot: RunSnapshot | None) -> str:
    if snapshot is not None:
        return "taken" if steps else "faint"
    return "happy" if row.is_happy_path else "arrow"


def _arrow_title(row: Transition, steps: list[PathStep]) -> str:
    guard = f", only if: {row.guard}" if row.guard else ""
    times = f"; taken as {', '.join(step.description for step in steps)}" if steps else ""
    return f"{row.trigger} → {row.dest}{guard}{times}"


def _badge(x: int, y: int, steps: list[PathStep]) -> Iterable[str]:
    """Draw the numbers of the newest steps on an arrow."""
    numbers = ", ".join(str(step.number) for step in steps[-_MAX_NUMBERS:])
    label = f"… {numbers}" if len(steps) > _MAX_NUMBERS else numbers
    width = 10 + 7 * max(len(label), 2)
    yield f'<rect {_paint("badge")} x="{x - width / 2:g}" y="{y - 9}" width="{width}" height="18" rx="9"/>'
    yield _text(x, y + 4, label, "on-badge", size=11, weight=700, anchor="middle")


def _state(state: State, snapshot: RunSnapshot | None, *, korean: bool) -> Iterable[str]:
    box = BOXES[state]
    is_current = snapshot is not None and snapshot.state is state
    style = "current" if is_current else state.value if state.is_final else "box"
    word, quiet = ("on-current", "on-current") if is_current else ("word", "quiet")
    classes = f"{' final' if state.is_final else ''}{' is-current' if is_current else ''}"
    yield f'<g id="aura-state-{state}" class="state{classes}" data-state="{state}">'
    yield f"<title>{escape(f'{state} ({STATE_TITLES[state]}): {STATE_ACTIVITIES[state]}')}</title>"
    yield _rect(box, style, radius=12, attributes=f'stroke-width="{3 if is_current else 1.8}"')
    if state.is_final:
        inner = Box(box.x + 4, box.y + 4, box.width - 8, box.height - 8)
        yield _rect(inner, style, radius=9, attributes='fill-opacity="0" stroke-width="1.2"')
    left, right = box.x + 16, box.x + box.width - 16
    yield _text(left, box.y + 28, state, word, size=16, weight=700)
    y = box.y + 49
    if korean and state.is_final:
        yield _text(right, box.y + 28, STATE_TITLES[state], quiet, size=13, anchor="end")
    elif korean:
        yield _text(left, y, STATE_TITLES[state], quiet, size=13)
        y += 20
    for line in _wrap(STATE_ACTIVITIES[state], 27 if state.is_final else 28):
        yield _text(left, y, line, quiet, size=11 if state.is_final else 11.5)
        y += 15
    if is_current and snapshot is not None and snapshot.open_approval is not None:
        yield from _time_left(box, snapshot.open_approval)
    yield "</g>"


def _time_left(box: Box, approval: OpenApproval) -> Iterable[str]:
    """Draw the open approval and the time left for it in the lower half of a state's box."""
    left, y = box.x + 16, box.y + 112
    queued = f" (+{approval.queued} queued)" if approval.queued else ""
    yield f'<path d="M{left} {y} H{box.x + box.width - 16}" stroke="#7a5900" stroke-opacity="0.5"/>'
    yield _text(left, y + 24, f"{_truncate(approval.action_type, 22)}{queued}", "on-current", size=13, weight=600)
    seconds = f"{approval.seconds_left:.0f} s left"
    yield _text(left, y + 56, seconds, "on-current", size=24, weight=700, id="aura-time-left")


def _legend() -> Iterable[str]:
    x, y = PANEL.x + 16, PANEL.y + 30
    yield '<g class="legend">'
    entries = (
        ("happy", "", "the happy path: plan, use tools, answer"),
        ("arrow", "", "other transitions; [guard]: only if it holds"),
        ("arrow", ' stroke-dasharray="7 5"', "from every open state"),
    )
    for index, (style, dashes, description) in enumerate(entries):
        at = y + 28 * index
        yield (
            f'<path {_paint(style)} d="M{x} {at} H{x + 56}" fill="none" stroke-width="2"{dashes}'
            f' marker-end="url(#aura-head-{style})"/>'
        )
        yield _text(x + 72, at + 4, description, "quiet", size=12)
    at = y + 28 * len(entries)
    yield _rect(Box(x, at - 11, 56, 22), "cancelled", radius=7)
    yield _rect(Box(x + 3, at - 8, 50, 16), "cancelled", radius=5)
    yield _text(x + 72, at + 4, "a double line: the run has ended", "quiet", size=12)
    yield "</g>"


def _path_panel(snapshot: RunSnapshot) -> Iterable[str]:
    """Draw the newest steps of the path in columns, each with its number and time."""
    x, y = PANEL.x, PANEL.y
    yield '<g class="path">'
    last = f", the last {format_duration(snapshot.path[-1].after_seconds)} after the start" if snapshot.path else ""
    yield _text(x, y + 14, f"Path so far: {len(snapshot.path)} transitions{last}", "word", size=13, weight=600)
    max_steps = _PANEL_ROWS * _PANEL_COLUMNS
    for index, step in enumerate(snapshot.path[-max_steps:]):
        column, row = divmod(index, _PANEL_ROWS)
        left, at = x + 222 * column, y + 38 + 20 * row
        yield _text(left + 18, at, str(step.number), "word", size=11, weight=700, anchor="end")
        yield _text(left + 26, at, step.trigger, "word", size=11)
        yield _text(left + 204, at, format_duration(step.after_seconds), "quiet", size=11, anchor="end")
    yield "</g>"


# --- elements ---------------------------------------------------------------------------------------------------------


def _paint(name: str) -> str:
    """Return the SVG attributes of an element: the CSS class `aura-{name}` and the colours of the light theme.

    The style sheet of `_style` replaces these colours in the dark theme.
    """
    colours = " ".join(f'{attribute}="{light}"' for attribute, (light, _) in _COLOURS[name].items())
    return f'class="aura-{name}" {colours}'


def _style() -> str:
    rules = "".join(
        f".aura-machine .aura-{name}{{{';'.join(f'{attribute}:{dark}' for attribute, (_, dark) in colours.items())}}}"
        for name, colours in _COLOURS.items()
    )
    return f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"


def _markers() -> str:
    heads = "".join(
        f'<marker id="aura-{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="10" markerHeight="10"'
        f' markerUnits="userSpaceOnUse" orient="auto"><path {_paint(name)} d="M0 0.5 L10 5 L0 9.5 z"/></marker>'
        for name in _COLOURS
        if name.startswith("head-")
    )
    return f"<defs>{heads}</defs>"


def _rect(box: Box, style: str, *, radius: int, attributes: str = "") -> str:
    position = f'x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}"'
    return f'<rect {_paint(style)} {position} rx="{radius}" {attributes}/>'


def _text(
    x: float, y: float, text: str, colour: str, *, size: float, weight: int = 400, anchor: str = "start", id: str = ""
) -> str:
    id_attribute = f' id="{id}"' if id else ""
    return (
        f'<text{id_attribute} {_paint(colour)} x="{x:g}" y="{y:g}" font-size="{size:g}" font-weight="{weight}"'
        f' text-anchor="{anchor}">{escape(_truncate(text, 100))}</text>'
    )


def _wrap(text: str, width: int) -> list[str]:
    """Break a text that is longer than `width` at its commas or, if it has none, between words."""
    if len(text) > width and ", " in text:
        *parts, last = text.split(", ")
        return [*(f"{part}," for part in parts), last]
    return textwrap.wrap(text, width)


def _truncate(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else f"{text[: max_characters - 1]}…"
