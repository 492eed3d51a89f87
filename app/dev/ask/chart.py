"""The timeline of a run as text: one line for each span, with a bar in proportion to the duration of the run."""

from __future__ import annotations

import io
import json

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from app.client.responses import ClientError, json_object
from app.dev.ask.view import format_tokens, strip_control_characters
from statemachine.views.snapshot import format_duration
from statemachine.views.timeline import Span, SpanKind, Timeline

_COLOURS: dict[SpanKind, str] = {"state": "cyan", "model": "magenta", "tool": "green", "wait": "yellow"}
_BAD_OUTCOMES = frozenset({"failed", "rejected", "expired", "lost"})
_MIN_BAR_WIDTH, _MAX_NAME_WIDTH = 16, 30


def parse_timeline(body: bytes) -> Timeline:
    """Parse the response body of the service. Raises `ClientError` where it is not a timeline."""
    try:
        return Timeline.model_validate(json_object(body).get("data"))
    except ValidationError as error:
        raise ClientError("the response is not a timeline of Aura") from error


def format_json(timeline: Timeline) -> str:
    return json.dumps(timeline.to_json_object(), ensure_ascii=False, indent=2) + "\n"


def format_chart(timeline: Timeline, *, width: int, is_coloured: bool) -> str:
    """The chart as text of at most `width` columns; only long notes may exceed it."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=is_coloured, highlight=False, markup=False, emoji=False, soft_wrap=True
    )
    console.print(_heading(timeline))
    names = [strip_control_characters(span.name)[:_MAX_NAME_WIDTH] for span in timeline.spans]
    column = max(map(len, names), default=0)
    bar_width = max(_MIN_BAR_WIDTH, width - column - 52)
    for span, name in zip(timeline.spans, names, strict=True):
        console.print(_line(span, name.ljust(column), timeline, bar_width))
    return file.getvalue()


def _heading(timeline: Timeline) -> Text:
    total = format_duration(timeline.duration_seconds) + (" so far" if timeline.is_open else "")
    waited = f", {format_duration(timeline.waited_seconds)} of it waiting for people" if timeline.waited_seconds else ""
    used = timeline.tokens
    tokens = f" · {format_tokens(used.total_tokens, used.cached_tokens)}" if used.total_tokens else ""
    return Text(f"{strip_control_characters(timeline.session_id)} · {timeline.state} · {total}{waited}{tokens}", "bold")


def _line(span: Span, name: str, timeline: Timeline, bar_width: int) -> Text:
    colour = "red" if span.outcome in _BAD_OUTCOMES else _COLOURS[span.kind]
    line = Text(f"{span.kind:<6}", colour)
    line.append(name, "bold" if span.kind == "state" else "")
    line.append(f" {format_duration(span.duration_seconds):>10} ")
    before, filled = _bar(span, timeline, bar_width)
    line.append(" " * before)
    line.append(("━" * filled) if filled else "╵", colour)
    line.append(" " * (bar_width - before - max(filled, 1) + 1))
    line.append(_note(span), "dim")
    line.rstrip()
    return line


def _bar(span: Span, timeline: Timeline, width: int) -> tuple[int, int]:
    """The number of characters before the bar and in it; 0 in it where the span is too short for one."""
    total_seconds = timeline.duration_seconds or 1
    start = min(width - 1, int((span.started_at - timeline.started_at) / total_seconds * width))
    end = min(width, round((span.ended_at - timeline.started_at) / total_seconds * width))
    return max(0, start), max(0, end - max(0, start))


def _note(span: Span) -> str:
    notes = ["…" if span.is_open else "", span.trigger or "", span.outcome or ""]
    if span.tokens is not None:
        notes.append(format_tokens(span.tokens.total_tokens, span.tokens.cached_tokens))
    notes.append(span.model or "")
    decision = span.decision
    if decision is not None:
        notes += [f"by {decision.decided_by}" if decision.decided_by else "", "edited" if decision.edited else ""]
        notes.append(f"“{decision.reason}”" if decision.reason else "")
    return strip_control_characters(" · ".join(note for note in notes if note))
