"""Follows one run in the terminal: shows its events, obtains decisions, and determines the exit code of the command."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from app.client.client import AuraClient
from app.client.frames import ReceivedEvent
from app.client.responses import ApiError, ClientError
from app.client.stream import Item, RunStream
from app.dev.ask.keys import InvalidEdit, clear_line, edit, read_choice
from app.dev.ask.view import JsonView, View, terminal
from statemachine.checkpoint import JsonObject
from statemachine.events import End, ErrorRaised, Hitl, TimelineStepUpdated
from statemachine.states import State

COMPLETED, NOT_COMPLETED, REFUSED = 0, 1, 2
INTERRUPTED = 130
_ANSWER_SECONDS = 2.0

Verdict = Literal["approve", "reject"]


@dataclass(frozen=True, slots=True)
class ApprovalPolicy:
    """Who decides approval requests: the command line (`verdict`), or a person at this terminal (`is_interactive`).

    Where neither is set, the requests are decided elsewhere.
    """

    verdict: Verdict | None = None
    reason: str | None = None
    is_interactive: bool = False


def is_at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


class Conversation:
    """Follows one run in one terminal."""

    def __init__(self, client: AuraClient, view: View, policy: ApprovalPolicy) -> None:
        self._client, self._view, self._policy = client, view, policy
        self._approval_task: asyncio.Task[None] | None = None
        self._is_choosing = False
        self._screen_lock = asyncio.Lock()  # held while the editor is open

    async def follow(self, stream: RunStream) -> int:
        """Show the run to its end, and return the exit code."""
        try:
            return await self._follow(stream)
        except ClientError as error:
            self._view.line(f"aura: {error}", "red")
            if stream.last_event_id is None:
                return REFUSED
            self._view.line(f"the run continues: {attach_command(stream, self._client.url)}")
            return NOT_COMPLETED
        finally:
            await self._finish_approval_task()

    async def _finish_approval_task(self) -> None:
        if self._approval_task is None:
            return
        if not self._is_choosing:  # a decision is being sent
            await asyncio.wait({self._approval_task}, timeout=_ANSWER_SECONDS)
        self._approval_task.cancel()
        await asyncio.gather(self._approval_task, return_exceptions=True)

    async def _follow(self, stream: RunStream) -> int:
        code = NOT_COMPLETED
        async with aclosing(stream.items()) as items:
            while (item := await self._next_item(items)) is not None:
                async with self._screen_lock:
                    await self._cancel_settled_question(item)
                    if self._is_choosing:
                        clear_line(self._view.console)  # removes the question, which is printed again below
                    self._view.show(item)
                if isinstance(item, ReceivedEvent):
                    match item.event:
                        case Hitl() as request:
                            self._approval_task = asyncio.create_task(self._handle_approval(request))
                        case End(status="completed"):
                            code = COMPLETED
        return code

    async def _next_item(self, items: AsyncGenerator[Item, None]) -> Item | None:
        """The next item; None after the last one. Raises what the approval task raised."""
        upcoming = asyncio.create_task(_anext_or_none(items))
        try:
            while not upcoming.done():
                waits: set[asyncio.Task[Item | None] | asyncio.Task[None]] = {upcoming}
                if self._approval_task is not None:
                    waits.add(self._approval_task)
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if self._approval_task is not None and self._approval_task.done():
                    finished, self._approval_task = self._approval_task, None
                    if not finished.cancelled():
                        finished.result()
            return upcoming.result()
        finally:
            if not upcoming.done():
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)

    async def _cancel_settled_question(self, item: Item) -> None:
        """Stop asking the person once the run has left the approval. A decision that is being sent is not cancelled."""
        if self._approval_task is None or not self._is_choosing or not isinstance(item, ReceivedEvent):
            return
        match item.event:
            case TimelineStepUpdated(metadata=step) if step.get("from") == State.AWAITING_APPROVAL:
                note = "no decision in time" if step.get("to") == State.TIMED_OUT else "decided elsewhere"
            case Hitl() | ErrorRaised() | End():
                note = "the request is closed"
            case _:
                return
        self._approval_task.cancel()
        await asyncio.gather(self._approval_task, return_exceptions=True)
        self._view.line(f"  {note}", "yellow")

    async def _handle_approval(self, request: Hitl) -> None:
        if self._policy.verdict is not None:
            await self._decide(request, self._policy.verdict)
        elif not self._policy.is_interactive:
            self._view.show_waiting(request, _decision_commands(self._client, request))
        else:
            while not await self._ask_person(request):
                pass

    async def _ask_person(self, request: Hitl) -> bool:
        """Ask for a decision; return False where the question must be repeated."""
        self._view.start_new_line()
        self._is_choosing = True
        try:
            choice = await read_choice(self._view.console, request)
        finally:
            self._is_choosing = False
        match choice:
            case None:
                self._view.line("  no decision in time", "yellow")
                return True
            case "yes":
                return await self._decide(request, "approve")
            case "no":
                return await self._decide(request, "reject")
            case "edit":
                try:
                    async with self._screen_lock:
                        arguments = await edit(request.context)
                except InvalidEdit as error:
                    self._view.line(f"  {error}", "red")
                    return False
                return await self._decide(request, "approve", arguments)

    async def _decide(self, request: Hitl, verdict: Verdict, arguments: JsonObject | None = None) -> bool:
        """Send a decision; return False where the service refuses the edited arguments."""
        try:
            if verdict == "approve":
                outcome = await self._client.approve(request.request_id, request.arguments_digest, arguments)
            else:
                outcome = await self._client.reject(request.request_id, self._policy.reason)
        except ApiError as error:
            self._view.line(f"  {error}", "red")
            return not (error.status == 400 and arguments is not None)
        self._view.show_decision(outcome)
        return True


async def _anext_or_none(items: AsyncGenerator[Item, None]) -> Item | None:
    return await anext(items, None)


def attach_command(stream: RunStream, url: str) -> str:
    """The command that shows this run again."""
    return f"aura ask --attach {stream.session_id} --url {shlex.quote(url)}"


def _decision_commands(client: AuraClient, request: Hitl) -> list[str]:
    """Commands that decide the request, to be pasted; they do not contain the token."""
    caller = client.credentials
    identity = " ".join(
        shlex.join(["-H", f"{name}: {value}"])
        for name, value in (("X-Tenant-ID", caller.tenant_id), ("X-User-ID", caller.user_id))
    )
    curl = f'curl -X POST -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" {identity} '
    digest = json.dumps({"argumentsDigest": request.arguments_digest})
    path = f"{client.url}/aura/approvals/{request.request_id}"
    return [curl + shlex.join([f"{path}/approve", "-d", digest]), curl + shlex.quote(f"{path}/reject")]


def run_in_terminal(
    client: AuraClient, stream: RunStream, policy: ApprovalPolicy, *, prompt: str | None, as_json: bool
) -> int:
    """Follow the run to its end or to Ctrl-C, and return the exit code."""
    view = JsonView(terminal()) if as_json else View(terminal())

    async def follow() -> int:
        async with client:
            if prompt is not None:
                view.show_prompt(prompt)
            return await Conversation(client, view, policy).follow(stream)

    try:
        return asyncio.run(follow())
    except KeyboardInterrupt:
        if stream.session_id is not None:
            view.line(f"the run continues: {attach_command(stream, client.url)}")
        return INTERRUPTED
