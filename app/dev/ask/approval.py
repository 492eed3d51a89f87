"""One approval request at this terminal: the question, edits of the arguments, and the decision that is sent.

What is approved is what was shown last: edited arguments are shown, and the question is asked again, before they are
sent. An edit that cannot be used is kept and offered again; until it is valid or discarded, nothing can be approved.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from app.client.client import AuraClient
from app.client.events import Hitl
from app.client.responses import ApiError
from app.dev.ask.editor import Edited, InvalidEdit, edit, to_arguments, to_text
from app.dev.ask.keys import Choice, read_choice
from app.dev.ask.view import View
from statemachine.stored import JsonObject

Verdict = Literal["approve", "reject"]

_REFUSED_STATUSES = frozenset({400, 413, 422})
"""The service has refused what was sent, and the request is still open."""


async def why_not_approvable(client: AuraClient, event: Hitl) -> str | None:
    """Return why the request of an event must not be approved here, None where it may be.

    Another program can change an event in Redis, but not what the service answers about the request.
    """
    try:
        request = await client.request(event.request_id)
    except ApiError as error:
        return f"the request cannot be loaded, so it cannot be approved here: {error}"
    if request.get("status") != "pending":
        return f"the request is closed already: {request.get('status')}"
    shown = {
        "sessionId": event.session_id,
        "actionType": event.action_type,
        "message": event.message,
        "context": event.context,
        "argumentsDigest": event.arguments_digest,
        "warnings": [{"code": each.code, "field": each.field, "message": each.message} for each in event.warnings],
    }
    different = [name for name, value in shown.items() if request.get(name) != value]
    if different:
        return f"the service has another request than the one shown ({', '.join(different)}): do not approve it"
    return None


async def send_decision(
    client: AuraClient,
    view: View,
    request: Hitl,
    verdict: Verdict,
    *,
    reason: str | None = None,
    arguments: JsonObject | None = None,
) -> bool:
    """Send a decision and show the answer; return False where the service refused it and the request is still open."""
    try:
        if verdict == "approve":
            reply = await client.approve(request.request_id, request.arguments_digest, arguments)
        else:
            reply = await client.reject(request.request_id, reason)
    except ApiError as error:
        view.line(f"  {error}", "red")
        return error.status not in _REFUSED_STATUSES
    view.show_decision(reply)
    if not reply.accepted and arguments is not None:
        view.line("  the edit was not used: the request was closed before", "yellow")
    return True


class ApprovalDialog:
    """Asks a person at this terminal for the decision of one request, and sends it."""

    def __init__(self, client: AuraClient, view: View, request: Hitl, screen_lock: asyncio.Lock) -> None:
        """`screen_lock` is held while the editor is open: nothing else may write to the terminal then."""
        self.is_choosing = False
        """Whether the question is open: no decision is being sent, and no editor is open."""
        self._client, self._view, self._request, self._screen_lock = client, view, request, screen_lock
        self._arguments = request.context  # those that were shown last
        self._is_edited = False
        self._draft: str | None = None  # the text of an edit that cannot be used as it is

    async def decide(self) -> None:
        """Ask until the request is decided or its deadline has passed. Raises `TerminalClosed`."""
        try:
            while not await self._ask():
                pass
        finally:
            if self._draft is not None:
                self._view.line("  an edit was not used; its text was:", "yellow")
                self._view.show_values({"edit": self._draft})

    async def _ask(self) -> bool:
        """Ask once; return False where the question must be repeated."""
        self._view.start_new_line()
        question, choices = self._question()
        self.is_choosing = True
        try:
            choice = await read_choice(self._view.console, self._request, question, choices)
        finally:
            self.is_choosing = False
        match choice:
            case None:
                self._view.line("  no decision in time", "yellow")
                return True
            case "yes":
                arguments = self._arguments if self._is_edited else None
                return await send_decision(self._client, self._view, self._request, "approve", arguments=arguments)
            case "no":
                return await send_decision(self._client, self._view, self._request, "reject")
            case "edit":
                await self._edit()
            case "discard":
                self._draft = None
                self._show_arguments(self._request.context, "  the edit is discarded; the arguments are again:")
        return False

    def _question(self) -> tuple[str, tuple[Choice, ...]]:
        if self._draft is not None:
            return "your edit cannot be used yet:", ("edit", "discard", "no")
        if self._is_edited:
            return "approve as edited?", ("yes", "no", "edit", "discard")
        return "approve?", ("yes", "no", "edit")

    async def _edit(self) -> None:
        before = to_text(self._arguments) if self._draft is None else self._draft
        async with self._screen_lock:
            edited = await edit(before)
        problem = self._use(edited, before)
        if problem is not None:
            kept = "; your text is kept" if self._draft is not None else ""
            self._view.line(f"  {problem}{kept}", "red")

    def _use(self, edited: Edited, before: str) -> str | None:
        """Take the arguments over from an edit; return why it cannot be used, or None where it can."""
        is_unchanged = edited.text == before and self._draft is None
        if is_unchanged or not edited.text.strip():
            return edited.problem or "nothing was changed"
        self._draft = edited.text
        if edited.problem is not None:
            return edited.problem
        try:
            arguments = to_arguments(edited.text)
        except InvalidEdit as error:
            return str(error)
        self._draft = None
        if to_text(arguments) == to_text(self._arguments):
            return "nothing was changed"
        changed = ", ".join(_changed_names(self._arguments, arguments))
        self._show_arguments(arguments, f"  with your edit the arguments are (changed: {changed}):")
        return None

    def _show_arguments(self, arguments: JsonObject, heading: str) -> None:
        """Show the arguments that an approval would run from now on."""
        self._arguments = arguments
        self._is_edited = to_text(arguments) != to_text(self._request.context)
        self._view.line(heading, "yellow")
        self._view.show_values(arguments)


def _changed_names(before: JsonObject, after: JsonObject) -> list[str]:
    """The names of the arguments that were added, removed or changed; `1`, `1.0` and `true` differ."""
    texts = [{name: to_text({name: value}) for name, value in arguments.items()} for arguments in (before, after)]
    return [name for name in {**before, **after} if texts[0].get(name) != texts[1].get(name)] or ["the order"]
