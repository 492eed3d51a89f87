"""Follows one run in the terminal: shows its events, obtains decisions, and determines the exit code of the command."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.client.client import AuraClient
from app.client.events import End, ErrorRaised, Hitl, TimelineStepUpdated
from app.client.frames import ReceivedEvent
from app.client.responses import ClientError
from app.client.stream import Item, RunStream
from app.dev.ask.approval import ApprovalDialog, Verdict, send_decision, why_not_approvable
from app.dev.ask.keys import TerminalClosed, clear_line
from app.dev.ask.view import JsonView, View, terminal
from statemachine.states import State

COMPLETED, NOT_COMPLETED, REFUSED = 0, 1, 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED, TERMINAL_CLOSED = 128 + signal.SIGTERM, 128 + signal.SIGHUP
_ANSWER_SECONDS = 2.0


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
        self._dialog: ApprovalDialog | None = None
        self._is_loading = False  # the request of an event, before the question is asked
        self._screen_lock = asyncio.Lock()  # held while the editor is open

    async def follow(self, stream: RunStream) -> int:
        """Show the run to its end, and return the exit code."""
        try:
            return await self._follow(stream)
        except ClientError as error:
            async with self._screen_lock:  # a person who is writing in the editor loses nothing
                self._view.line(f"aura: {error}", "red")
                if stream.last_event_id is None:
                    return REFUSED
                self._view.line(f"the run continues: {attach_command(stream, self._client.url)}")
                return NOT_COMPLETED
        finally:
            await self._finish_approval_task()

    @property
    def _is_choosing(self) -> bool:
        return self._dialog is not None and self._dialog.is_choosing

    async def _finish_approval_task(self) -> None:
        if self._approval_task is None:
            return
        if not (self._is_choosing or self._is_loading or self._screen_lock.locked()):  # a decision is being sent
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
                            await self._start_approval_task(request)
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
        is_asking = self._is_choosing or self._is_loading
        if self._approval_task is None or not is_asking or not isinstance(item, ReceivedEvent):
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

    async def _start_approval_task(self, request: Hitl) -> None:
        """Handle the request alone: an earlier one is settled, and no key that is pressed may count for both."""
        if self._approval_task is not None:
            self._approval_task.cancel()
            await asyncio.gather(self._approval_task, return_exceptions=True)
        self._approval_task = asyncio.create_task(self._handle_approval(request))

    async def _handle_approval(self, request: Hitl) -> None:
        if self._policy.verdict != "reject" and not await self._is_approvable(request):
            return
        if self._policy.verdict is not None:
            verdict, reason = self._policy.verdict, self._policy.reason
            await send_decision(self._client, self._view, request, verdict, reason=reason)
        elif not self._policy.is_interactive:
            self._view.show_waiting(request, _decision_commands(self._client, request))
        else:
            self._dialog = ApprovalDialog(self._client, self._view, request, self._screen_lock)
            await self._dialog.decide()

    async def _is_approvable(self, request: Hitl) -> bool:
        """Whether the service has the request as its event showed it; the person reads why where it has not."""
        self._is_loading = True
        try:
            problem = await why_not_approvable(self._client, request)
        finally:
            self._is_loading = False
        if problem is not None:
            self._view.line(f"  {problem}", "red")
        return problem is None


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

    code = run_to_exit_code(lambda: asyncio.run(until_signal(follow())), policy)
    if code in (INTERRUPTED, TERMINATED) and stream.session_id is not None:
        view.line(f"the run continues: {attach_command(stream, client.url)}")
    return code


async def until_signal(work: Coroutine[Any, Any, int]) -> int:
    """Await the exit code of `work`, which SIGTERM and SIGHUP (the terminal was closed) cancel.

    The exit code is then that of a shell for the signal. An ignored SIGHUP stays ignored, as `nohup` wants it.
    """
    received: list[int] = []
    task = asyncio.ensure_future(work)

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]


def run_to_exit_code(run: Callable[[], int], policy: ApprovalPolicy) -> int:
    """Run it and return its exit code, or that of a shell after Ctrl-C or where the terminal was closed."""
    try:
        return run()
    except KeyboardInterrupt:
        return INTERRUPTED
    except (TerminalClosed, OSError) as error:
        if isinstance(error, OSError) and (not policy.is_interactive or is_at_terminal()):
            raise
        return TERMINAL_CLOSED
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # what is left cannot be written; the interpreter would fail at it, with its own exit code
            with Path(os.devnull).open("wb") as null:
                os.dup2(null.fileno(), sys.stdout.fileno())
