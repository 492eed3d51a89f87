"""A run from the prompt to its end: shows what comes, has a person or the command line decide, answers an exit code."""

from __future__ import annotations

import asyncio
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
from app.dev.ask.keys import EditRefused, choose, edit, wipe_line
from app.dev.ask.view import JsonView, View, terminal
from statemachine.checkpoint import JsonObject
from statemachine.events import End, ErrorRaised, Hitl, TimelineStepUpdated
from statemachine.states import State

COMPLETED, NOT_COMPLETED, REFUSED = 0, 1, 2
INTERRUPTED = 130
_ANSWER_SECONDS = 2.0

Verdict = Literal["approve", "reject"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Who decides approvals: the command line (`verdict`), or else a person at the terminal, or else somebody else."""

    verdict: Verdict | None = None
    reason: str | None = None
    is_interactive: bool = False


def at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


class Conversation:
    """One run in one terminal."""

    def __init__(self, client: AuraClient, view: View, policy: Policy) -> None:
        self._client, self._view, self._policy = client, view, policy
        self._asking: asyncio.Task[None] | None = None
        self._is_choosing = False
        self._screen = asyncio.Lock()  # the editor's as long as it is open

    async def follow(self, stream: RunStream) -> int:
        """Show the run to its end; the exit code."""
        try:
            return await self._follow(stream)
        except ClientError as error:
            self._view.line(f"aura: {error}", "red")
            if stream.last_event_id is None:
                return REFUSED
            self._view.line(f"the run goes on: {attach_hint(stream, self._client.url)}")
            return NOT_COMPLETED
        finally:
            await self._end_asking()

    async def _end_asking(self) -> None:
        if self._asking is None:
            return
        if not self._is_choosing:  # its answer is on the way
            await asyncio.wait({self._asking}, timeout=_ANSWER_SECONDS)
        self._asking.cancel()
        await asyncio.gather(self._asking, return_exceptions=True)

    async def _follow(self, stream: RunStream) -> int:
        code = NOT_COMPLETED
        async with aclosing(stream.items()) as items:
            while (item := await self._next(items)) is not None:
                async with self._screen:
                    await self._settle(item)
                    if self._is_choosing:
                        wipe_line(self._view.console)  # the question; it comes again below
                    self._view.show(item)
                if isinstance(item, ReceivedEvent):
                    match item.event:
                        case Hitl() as request:
                            self._asking = asyncio.create_task(self._ask(request))
                        case End(status="completed"):
                            code = COMPLETED
        return code

    async def _next(self, items: AsyncGenerator[Item, None]) -> Item | None:
        """The next item; None after the last. What goes wrong while a person is asked comes up here."""
        upcoming = asyncio.create_task(_advance(items))
        try:
            while not upcoming.done():
                waits: set[asyncio.Task[Item | None] | asyncio.Task[None]] = {upcoming}
                if self._asking is not None:
                    waits.add(self._asking)
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if self._asking is not None and self._asking.done():
                    asked, self._asking = self._asking, None
                    if not asked.cancelled():
                        asked.result()
            return upcoming.result()
        finally:
            if not upcoming.done():
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)

    async def _settle(self, item: Item) -> None:
        """Stop asking where the run has moved on; a decision that is being sent goes on."""
        if self._asking is None or not self._is_choosing or not isinstance(item, ReceivedEvent):
            return
        match item.event:
            case TimelineStepUpdated(metadata=moved) if moved.get("from") == State.AWAITING_APPROVAL:
                words = "no decision in time" if moved.get("to") == State.TIMED_OUT else "decided elsewhere"
            case Hitl() | ErrorRaised() | End():
                words = "asked no longer"
            case _:
                return
        self._asking.cancel()
        await asyncio.gather(self._asking, return_exceptions=True)
        self._view.line(f"  {words}", "yellow")

    async def _ask(self, request: Hitl) -> None:
        if self._policy.verdict is not None:
            await self._decide(request, self._policy.verdict)
        elif not self._policy.is_interactive:
            self._view.waiting(request, _commands(self._client, request))
        else:
            while not await self._ask_person(request):
                pass

    async def _ask_person(self, request: Hitl) -> bool:
        """Whether that settled it; False: ask again."""
        self._view.fresh_line()
        self._is_choosing = True
        try:
            choice = await choose(self._view.console, request)
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
                    async with self._screen:
                        arguments = await edit(request.context)
                except EditRefused as error:
                    self._view.line(f"  {error}", "red")
                    return False
                return await self._decide(request, "approve", arguments)

    async def _decide(self, request: Hitl, verdict: Verdict, arguments: JsonObject | None = None) -> bool:
        """Whether a decision stands now; False: these arguments do not fit."""
        try:
            if verdict == "approve":
                outcome = await self._client.approve(request.request_id, arguments)
            else:
                outcome = await self._client.reject(request.request_id, self._policy.reason)
        except ApiError as error:
            self._view.line(f"  {error}", "red")
            return not (error.status == 400 and arguments is not None)
        self._view.decided(outcome)
        return True


async def _advance(items: AsyncGenerator[Item, None]) -> Item | None:
    return await anext(items, None)


def attach_hint(stream: RunStream, url: str) -> str:
    """How to see it again."""
    return f"aura ask --attach {stream.session_id} --url {shlex.quote(url)}"


def _commands(client: AuraClient, request: Hitl) -> list[str]:
    """Lines to paste; the token stays out of them."""
    caller = client.credentials
    who = " ".join(
        shlex.join(["-H", f"{name}: {value}"])
        for name, value in (("X-Tenant-ID", caller.tenant_id), ("X-User-ID", caller.user_id))
    )
    return [
        f'curl -X POST -H "Authorization: Bearer $TOKEN" {who} '
        + shlex.quote(f"{client.url}/aura/hitl/{verdict}/{request.request_id}")
        for verdict in ("approve", "reject")
    ]


def in_terminal(client: AuraClient, stream: RunStream, policy: Policy, *, prompt: str | None, as_json: bool) -> int:
    """Run it to its end or to Ctrl-C; the exit code."""
    view = JsonView(terminal()) if as_json else View(terminal())

    async def follow() -> int:
        async with client:
            if prompt is not None:
                view.asked(prompt)
            return await Conversation(client, view, policy).follow(stream)

    try:
        return asyncio.run(follow())
    except KeyboardInterrupt:
        if stream.session_id is not None:
            view.line(f"the run goes on: {attach_hint(stream, client.url)}")
        return INTERRUPTED
