"""A run's timeline in the terminal: a line for each span, its bar in proportion to the whole."""

from __future__ import annotations

import io
import json

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from app.client.responses import ClientError, json_object
from app.dev.ask.view import plain
from statemachine.views.snapshot import format_duration
from statemachine.views.timeline import Span, SpanKind, Timeline

_COLOURS: dict[SpanKind, str] = {"state": "cyan", "model": "magenta", "tool": "green", "wait": "yellow"}
_BAD_OUTCOMES = frozenset({"failed", "rejected", "expired", "lost"})
_LEAST_BAR, _MOST_NAME = 16, 30


def timeline_of(body: bytes) -> Timeline:
    """Read from the service's answer. Raises `ClientError`."""
    try:
        return Timeline.model_validate(json_object(body).get("data"))
    except ValidationError as error:
        raise ClientError("the answer is not a timeline of Aura's") from error


def indented(shown: Timeline) -> str:
    return json.dumps(shown.to_json_object(), ensure_ascii=False, indent=2) + "\n"


def chart(shown: Timeline, *, width: int, is_coloured: bool) -> str:
    """The chart as text that fits in so many columns, but for long notes."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=is_coloured, highlight=False, markup=False, emoji=False, soft_wrap=True
    )
    console.print(_heading(shown))
    names = [plain(span.name)[:_MOST_NAME] for span in shown.spans]
    column = max(map(len, names), default=0)
    bar_width = max(_LEAST_BAR, width - column - 52)
    for span, name in zip(shown.spans, names, strict=True):
        console.print(_line(span, name.ljust(column), shown, bar_width))
    return file.getvalue()


def _heading(shown: Timeline) -> Text:
    total = format_duration(shown.duration_seconds) + (" so far" if shown.is_open else "")
    waited = f", {format_duration(shown.waited_seconds)} of it waiting for people" if shown.waited_seconds else ""
    tokens = f" · {shown.tokens.total_tokens} tokens" if shown.tokens.total_tokens else ""
    return Text(f"{plain(shown.session_id)} · {shown.state} · {total}{waited}{tokens}", "bold")


def _line(span: Span, name: str, shown: Timeline, bar_width: int) -> Text:
    colour = "red" if span.outcome in _BAD_OUTCOMES else _COLOURS[span.kind]
    line = Text(f"{span.kind:<6}", colour)
    line.append(name, "bold" if span.kind == "state" else "")
    line.append(f" {format_duration(span.duration_seconds):>10} ")
    before, filled = _bar(span, shown, bar_width)
    line.append(" " * before)
    line.append(("━" * filled) if filled else "╵", colour)
    line.append(" " * (bar_width - before - max(filled, 1) + 1))
    line.append(_note(span), "dim")
    line.rstrip()
    return line


def _bar(span: Span, shown: Timeline, width: int) -> tuple[int, int]:
    """How many characters stand before the bar, and how many are it; what is too short for one is a mark."""
    whole = shown.duration_seconds or 1
    start = min(width - 1, int((span.started_at - shown.started_at) / whole * width))
    end = min(width, round((span.ended_at - shown.started_at) / whole * width))
    return max(0, start), max(0, end - max(0, start))


def _note(span: Span) -> str:
    notes = ["…" if span.is_open else "", span.trigger or "", span.outcome or ""]
    if span.tokens is not None:
        notes.append(f"{span.tokens.total_tokens} tokens")
    decision = span.decision
    if decision is not None:
        notes += [f"by {decision.decided_by}" if decision.decided_by else "", "edited" if decision.edited else ""]
        notes.append(f"“{decision.reason}”" if decision.reason else "")
    return plain(" · ".join(note for note in notes if note))
