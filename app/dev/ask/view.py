"""How a run looks in a terminal, or line by line in a file. What the model and the tools say is never markup and never
reaches the terminal with control characters in it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, assert_never

from rich.console import Console
from rich.text import Text

from app.client.client import DecisionReply
from app.client.frames import ReceivedEvent
from app.client.stream import Interrupted, Item, Resumed
from statemachine import events
from statemachine.checkpoint import JsonObject

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""C0 without tab and newline, DEL, C1, and what turns the direction of writing: a terminal obeys them."""
_RESULT_CHARACTERS = 600
_GUTTER = "  │ "
_STEP_MARKS = {"pending": "☐", "in_progress": "▶", "completed": "☑", "failed": "✗", "skipped": "–"}
_TOOL_STYLES = {"completed": "green", "failed": "red", "rejected": "red"}
_END_STYLES = {"completed": "bold green", "cancelled": "bold yellow"}


def plain(text: str) -> str:
    """The text without what a terminal would obey."""
    return _CONTROLS.sub("", text)


def json_line(value: object) -> str:
    """JSON on one line; control characters are escaped."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def terminal() -> Console:
    """Where everything goes; an encoding that lacks a character does not break it."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def _is_part(shortened: Any, whole: Any) -> bool:
    """Whether a value is another one or what a frame's limit left of it."""
    match shortened, whole:
        case dict(), dict():
            return all(name in whole and _is_part(value, whole[name]) for name, value in shortened.items())
        case list(), list():
            return len(shortened) <= len(whole) and all(map(_is_part, shortened, whole))
        case str(), str() if shortened.endswith("…"):
            return shortened == whole or whole.startswith(shortened[:-1])
        case _:
            return bool(shortened == whole)


class View:
    """Shows a run as it goes; lines only, nothing is drawn over."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._is_midline = False
        self._titles: dict[str, str] = {}
        self._arguments: dict[str, JsonObject] = {}  # shown last, of each call
        self._asked: dict[str, JsonObject] = {}  # shown last in an approval, of each tool

    def line(self, text: str = "", style: str = "", remark: str = "") -> None:
        """One line of our own or of somebody else's; it always begins at the margin. The remark is dim."""
        self.fresh_line()
        self.console.print(Text.assemble((plain(text), style), (plain(remark), "dim")))

    def fresh_line(self) -> None:
        if self._is_midline:
            self.console.print()
            self._is_midline = False

    def asked(self, prompt: str) -> None:
        self.line(f"▶ {prompt}", "bold")

    def show(self, item: Item) -> None:
        match item:
            case ReceivedEvent():
                self._event(item)
            case Interrupted():
                self.line(f"… connection lost ({item.cause}); again in {item.retry_delay_seconds:.1f} s", "yellow")
            case Resumed():
                self.line("… connected again, nothing is lost", "yellow")
            case _:
                assert_never(item)

    def _event(self, item: ReceivedEvent) -> None:
        match item.event:
            case events.Start() as start:
                self.line(f"● {start.state}", "bold cyan", f"  {start.session_id}")
            case events.Thought() as thought:
                self._block(thought.content, "  ✻ ", "    ", "dim italic")
                for source in thought.sources:
                    self._block(_source(source), "    ↳ ", "      ", "dim")
            case events.PlanStepDeclared() | events.PlanStepUpdated() as step:
                self._step(step)
            case events.TimelineStepUpdated() as moved:
                said = moved.metadata
                arrow = f"{said.get('from', '?')} → {said.get('to', '?')}"
                self.line(f"● {arrow}", "bold cyan", f"  {said.get('trigger', '')} · {moved.title}")
            case events.ToolExecution() as call:
                self._tool(call)
            case events.Hitl() as request:
                self._approval(request)
            case events.Content() as piece:
                self.console.print(Text(plain(piece.content)), end="")
                if piece.content:
                    self._is_midline = not piece.content.endswith("\n")
            case events.ErrorRaised() as error:
                self.line(f"✗ {error.error_type}: {error.message}", "red")
            case events.End() as end:
                self._end(end)
            case _:
                self.line(f"  {item.type or 'event'} {json_line(item.fields)[:_RESULT_CHARACTERS]}", "dim")

    def _block(self, text: str, first: str, later: str, style: str = "") -> None:
        """Text of any number of lines, each behind a mark: it cannot pass for a line of ours."""
        for number, part in enumerate(plain(text).rstrip("\n").split("\n")):
            self.line(((later if number else first) + part).rstrip(), style)

    def _step(self, step: events.PlanStepDeclared | events.PlanStepUpdated) -> None:
        confidence = ""
        if step.confidence is not None:
            known = step.confidence_source not in (None, "none")
            confidence = f", confidence {step.confidence:.2f}" if known else ", confidence not known"
        mark = _STEP_MARKS.get(step.status, "?")
        if isinstance(step, events.PlanStepDeclared):
            self._titles[step.step_id] = step.title
            self.line(f"  {mark} {step.order}. {step.title}  ({step.status}{confidence})", "cyan")
            if step.description:
                self._block(step.description, "       ", "       ", "dim")
        else:
            title = self._titles.get(step.step_id, step.step_id)
            self.line(f"  {mark} {title}  ({step.status}{confidence})", "cyan")

    def _tool(self, call: events.ToolExecution) -> None:
        note = ", needs approval" if call.requires_approval and call.status == "pending" else ""
        cut = "  shortened" if call.truncated else ""
        self.line(f"  ⚙ {call.tool_name}  {call.status}{note}", _TOOL_STYLES.get(call.status, "magenta"), cut)
        if not note and not self._was_shown(call):
            self.values(call.tool_args)
        if call.error:
            self._block(call.error, _GUTTER, _GUTTER, "red")
        elif call.result is not None:
            result = call.result if isinstance(call.result, str) else json_line(call.result)
            more = "…" if len(result) > _RESULT_CHARACTERS else ""
            self._block(f"→ {result[:_RESULT_CHARACTERS]}{more}", _GUTTER, _GUTTER, "dim")

    def _was_shown(self, call: events.ToolExecution) -> bool:
        """Whether these arguments stand above already, there perhaps at greater length; an edit is shown again."""
        above = self._arguments.get(call.tool_call_id, self._asked.pop(call.tool_name, None))
        self._arguments[call.tool_call_id] = call.tool_args
        return above is not None and _is_part(call.tool_args, above)

    def _approval(self, request: events.Hitl) -> None:
        self.line(f"⚠ {request.message}", "bold yellow")
        doubt = "; it may have been done already" if request.outcome_unknown else ""
        self.line(f"  {request.action_type}  {request.request_id}{doubt}", "yellow")
        self.values(request.context)
        self._asked[request.action_type] = request.context

    def values(self, values: Mapping[str, Any]) -> None:
        """Names and values; a text may have lines."""
        width = max((len(plain(name)) for name in values), default=0)
        for name, value in values.items():
            text = value if isinstance(value, str) else json_line(value)
            self._block(text, f"{_GUTTER}{plain(name):<{width}}  ", f"{_GUTTER}{'':<{width}}  ")

    def _end(self, end: events.End) -> None:
        used = f" · {end.usage['totalTokens']} tokens" if end.usage and "totalTokens" in end.usage else ""
        mark = "✔" if end.status == "completed" else "■"
        self.line(f"{mark} {end.status}{used} · {end.message}", _END_STYLES.get(end.status, "bold red"))

    # --- decisions ----------------------------------------------------------------------------------------------------

    def waiting(self, request: events.Hitl, how: list[str]) -> None:
        """Nobody here can decide: say how it can be done elsewhere."""
        until = datetime.fromtimestamp(request.expires_at, UTC).astimezone()
        self.line(f"  waiting for a decision until {until:%H:%M:%S}; decide with --approve or --reject, or:", "yellow")
        for command in how:
            self.line(f"    {command}")

    def decided(self, outcome: DecisionReply) -> None:
        earlier = "" if outcome.accepted else " already"
        reason = f": {outcome.reason}" if outcome.reason else ""
        self.line(f"  {'✔' if outcome.status == 'approved' else '✗'} {outcome.status}{earlier}{reason}", "yellow")


class JsonView(View):
    """One JSON object a line on stdout, an event as it came; everything else on stderr."""

    def __init__(self, console: Console) -> None:
        super().__init__(Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True))
        self._out = console

    def asked(self, prompt: str) -> None:
        """A program reads this: it knows what it asked."""

    def _event(self, item: ReceivedEvent) -> None:
        self._out.print(Text(json_line({"eventId": item.id, **item.fields})))


def _source(source: Any) -> str:
    """What an answer rests on: its title and where it is from, or whatever else a server says."""
    if isinstance(source, dict) and isinstance(source.get("title"), str):
        rest = ", ".join(str(source[name]) for name in ("type", "timestamp", "id") if source.get(name))
        return f"{source['title']}  ({rest})"
    return source if isinstance(source, str) else json_line(source)
