"""Prints a run to a terminal or a file. Text of the model and of tools is never interpreted as markup, and control
characters are removed from it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, assert_never

from rich.console import Console
from rich.text import Text

from app.client import events
from app.client.client import DecisionReply
from app.client.frames import ReceivedEvent
from app.client.stream import Interrupted, Item, Resumed
from app.text.hidden import escape_hidden, make_visible
from statemachine.stored import JsonObject

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""C0 without tab and newline, DEL, C1, and marks of the writing direction: a terminal interprets them."""
_RESULT_CHARACTERS = 600
_GUTTER = "  │ "
_STEP_MARKS = {"pending": "☐", "in_progress": "▶", "completed": "☑", "failed": "✗", "skipped": "–"}
_TOOL_STYLES = {"completed": "green", "failed": "red", "rejected": "red"}
_END_STYLES = {"completed": "bold green", "cancelled": "bold yellow"}


def strip_control_characters(text: str) -> str:
    """The text without the characters that a terminal interprets."""
    return _CONTROL_CHARACTERS.sub("", text)


def json_line(value: object) -> str:
    """The value as one line of JSON with escaped control characters and hidden ones."""
    text = escape_hidden(json.dumps(value, ensure_ascii=False, default=str))
    return _CONTROL_CHARACTERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def format_tokens(total: int, cached: int | None) -> str:
    """A number of tokens in words, and how many of them the model's server had in its cache, where it reported that."""
    return f"{total} tokens ({cached} cached)" if cached else f"{total} tokens"


def terminal() -> Console:
    """A console on stdout; characters that its encoding lacks are replaced."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


class View:
    """Prints the events of a run line by line; nothing that was printed is overwritten."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._is_midline = False
        self._titles: dict[str, str] = {}
        self._call_arguments: dict[str, JsonObject] = {}  # the last printed ones, by the id of the call
        self._approval_arguments: dict[str, JsonObject] = {}  # the last printed ones of an approval, by the tool

    def line(self, text: str = "", style: str = "", remark: str = "") -> None:
        """Print one line, which always begins at the left margin, with an optional remark in dim style."""
        self.start_new_line()
        self.console.print(
            Text.assemble((strip_control_characters(text), style), (strip_control_characters(remark), "dim"))
        )

    def start_new_line(self) -> None:
        if self._is_midline:
            self.console.print()
            self._is_midline = False

    def show_prompt(self, prompt: str) -> None:
        self.line(f"▶ {prompt}", "bold")

    def show(self, item: Item) -> None:
        match item:
            case ReceivedEvent():
                self._show_event(item)
            case Interrupted():
                self.line(f"… connection lost ({item.cause}); retry in {item.retry_delay_seconds:.1f} s", "yellow")
            case Resumed():
                self.line("… connected again, no event is lost", "yellow")
            case _:
                assert_never(item)

    def _show_event(self, item: ReceivedEvent) -> None:
        match item.event:
            case events.Start() as start:
                self.line(f"● {start.state}", "bold cyan", f"  {start.session_id}")
            case events.Thought() as thought:
                self._show_block(thought.content, "  ✻ ", "    ", "dim italic")
                for source in thought.sources:
                    self._show_block(_format_source(source), "    ↳ ", "      ", "dim")
            case events.PlanStepDeclared() | events.PlanStepUpdated() as plan_step:
                self._show_step(plan_step)
            case events.TimelineStepUpdated() as step:
                metadata = step.metadata
                arrow = f"{metadata.get('from', '?')} → {metadata.get('to', '?')}"
                self.line(f"● {arrow}", "bold cyan", f"  {metadata.get('trigger', '')} · {step.title}")
            case events.ToolExecution() as call:
                self._show_tool(call)
            case events.Hitl() as request:
                self._show_approval(request)
            case events.Content() as piece:
                self.console.print(Text(strip_control_characters(piece.content)), end="")
                if piece.content:
                    self._is_midline = not piece.content.endswith("\n")
            case events.ErrorRaised() as error:
                self.line(f"✗ {error.error_type}: {error.message}", "red")
            case events.End() as end:
                self._show_end(end)
            case _:
                self.line(f"  {item.type or 'event'} {json_line(item.fields)[:_RESULT_CHARACTERS]}", "dim")

    def _show_block(self, text: str, first: str, later: str, style: str = "") -> None:
        """Print text of any number of lines. Each line gets a prefix, so that it cannot imitate a line of this view."""
        for number, part in enumerate(strip_control_characters(text).rstrip("\n").split("\n")):
            self.line(((later if number else first) + part).rstrip(), style)

    def _show_step(self, step: events.PlanStepDeclared | events.PlanStepUpdated) -> None:
        confidence = ""
        if step.confidence is not None:
            known = step.confidence_source not in (None, "none")
            confidence = f", confidence {step.confidence:.2f}" if known else ", confidence not known"
        mark = _STEP_MARKS.get(step.status, "?")
        if isinstance(step, events.PlanStepDeclared):
            self._titles[step.step_id] = step.title
            self.line(f"  {mark} {step.order}. {step.title}  ({step.status}{confidence})", "cyan")
            if step.description:
                self._show_block(step.description, "       ", "       ", "dim")
        else:
            title = self._titles.get(step.step_id, step.step_id)
            self.line(f"  {mark} {title}  ({step.status}{confidence})", "cyan")

    def _show_tool(self, call: events.ToolExecution) -> None:
        note = ", needs approval" if call.requires_approval and call.status == "pending" else ""
        cut = "  result shortened" if call.truncated else ""
        self.line(f"  ⚙ {call.tool_name}  {call.status}{note}", _TOOL_STYLES.get(call.status, "magenta"), cut)
        if not note and not self._was_shown(call):
            self.show_values(call.tool_args)
        if call.error:
            self._show_block(call.error, _GUTTER, _GUTTER, "red")
        elif call.result is not None:
            result = call.result if isinstance(call.result, str) else json_line(call.result)
            more = "…" if len(result) > _RESULT_CHARACTERS else ""
            self._show_block(f"→ {result[:_RESULT_CHARACTERS]}{more}", _GUTTER, _GUTTER, "dim")

    def _was_shown(self, call: events.ToolExecution) -> bool:
        """Whether the arguments of this call were printed before, with the call or with its approval request.

        If an approver has changed an argument, the result is False. The arguments are remembered for the next call of
        this method.
        """
        printed = self._call_arguments.get(call.tool_call_id, self._approval_arguments.pop(call.tool_name, None))
        self._call_arguments[call.tool_call_id] = call.tool_args
        return printed == call.tool_args

    def _show_approval(self, request: events.Hitl) -> None:
        self.line(f"⚠ {make_visible(request.message)}", "bold yellow")
        doubt = "; it may have been done already" if request.outcome_unknown else ""
        self.line(f"  {request.action_type}  {request.request_id}{doubt}", "yellow")
        self.show_values(request.context)
        for warning in request.warnings:
            self._show_block(f"{warning.code}  {warning.field}  {warning.message}", "  ‼ ", "    ", "bold red")
        self._approval_arguments[request.action_type] = request.context

    def show_values(self, values: Mapping[str, Any]) -> None:
        """Print names and values in two columns; a text may have several lines, and shows its hidden characters."""
        shown = {make_visible(name): value for name, value in values.items()}
        width = max(map(len, shown), default=0)
        for name, value in shown.items():
            text = make_visible(value) if isinstance(value, str) else json_line(value)
            self._show_block(text, f"{_GUTTER}{name:<{width}}  ", f"{_GUTTER}{'':<{width}}  ")

    def _show_end(self, end: events.End) -> None:
        usage = end.usage or {}
        used = f" · {format_tokens(usage['totalTokens'], usage.get('cachedTokens'))}" if "totalTokens" in usage else ""
        mark = "✔" if end.status == "completed" else "■"
        self.line(f"{mark} {end.status}{used} · {end.message}", _END_STYLES.get(end.status, "bold red"))

    # --- decisions ----------------------------------------------------------------------------------------------------

    def show_waiting(self, request: events.Hitl, commands: list[str]) -> None:
        """Print the commands that decide the request elsewhere, where this terminal cannot ask a person."""
        until = datetime.fromtimestamp(request.expires_at, UTC).astimezone()
        self.line(f"  waiting for a decision until {until:%H:%M:%S}; decide with --approve or --reject, or:", "yellow")
        for command in commands:
            self.line(f"    {command}")

    def show_decision(self, outcome: DecisionReply) -> None:
        earlier = "" if outcome.accepted else " already"
        reason = f": {outcome.reason}" if outcome.reason else ""
        self.line(f"  {'✔' if outcome.status == 'approved' else '✗'} {outcome.status}{earlier}{reason}", "yellow")


class JsonView(View):
    """Prints each event unchanged as one line of JSON to stdout, and everything else to stderr."""

    def __init__(self, console: Console) -> None:
        super().__init__(Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True))
        self._out = console

    def show_prompt(self, prompt: str) -> None:
        """Print nothing: the program that reads the output knows its prompt."""

    def _show_event(self, item: ReceivedEvent) -> None:
        self._out.print(Text(json_line({"eventId": item.id, **item.fields})))


def _format_source(source: Any) -> str:
    """A source of an answer: its title, type, time and id; another format than Aura's is printed as it is."""
    if isinstance(source, dict) and isinstance(source.get("title"), str):
        rest = ", ".join(str(source[name]) for name in ("type", "timestamp", "id") if source.get(name))
        return f"{source['title']}  ({rest})"
    return source if isinstance(source, str) else json_line(source)
