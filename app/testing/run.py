"""One run as a test follows it: step by step, each up to the next approval request or to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, Self

from app.client import (
    Content,
    DecisionReply,
    End,
    ErrorRaised,
    Hitl,
    Interrupted,
    ReceivedEvent,
    RunStream,
    Thought,
    TimelineStepUpdated,
    ToolExecution,
)
from app.client.events import Event
from app.testing.outcomes import Call, JsonObject, OpenRequest, UnexpectedOutcome, call_text, error_text
from app.testing.process import ServiceThread

_SHOWN_EVENTS = 5


class AuraRun:
    """A run. `approve` and `reject` decide the request for which it waits, and return it when it has gone on."""

    def __init__(self, thread: ServiceThread, prompt: str, user: dict[str, str | None], **start: Any) -> None:
        """Use `AuraService.run`, which starts it."""
        self.prompt = prompt
        self.session_id = ""
        self.events: list[Event] = []
        """The events so far (`app.client.events`), without those of a type that this version does not know."""
        self._thread = thread
        self._owner = self._decider = thread.process.client(**user)
        self._waiting: OpenRequest | None = None
        self._end: End | None = None
        self._last_event_id: int | None = None
        self._thread.perform(self._go_on(self._owner.run(prompt, **start)))

    @property
    def waiting(self) -> OpenRequest | None:
        """The request that a person has to decide; None where the run has ended."""
        return self._waiting

    @property
    def status(self) -> str:
        """`waiting`, or how the run has ended: completed, rejected, timed_out, cancelled or failed."""
        if self._waiting is not None:
            return "waiting"
        return "running" if self._end is None else self._end.status

    @property
    def error(self) -> ErrorRaised | None:
        """The error of a run that has not completed, with its `error_type` and `message`."""
        return next((event for event in reversed(self.events) if isinstance(event, ErrorRaised)), None)

    @property
    def answer(self) -> str:
        """The answer of a run that has completed. Raises `UnexpectedOutcome` for any other."""
        __tracebackhide__ = True
        if self.status != "completed":
            raise UnexpectedOutcome(f"there is no answer: {self.describe()}")
        return "".join(event.content for event in self.events if isinstance(event, Content))

    def calls(self, name: str | None = None) -> list[Call]:
        """Return the tool calls of the run in order, or those of one tool."""
        details = self._thread.perform(self._owner.details(self.session_id))
        return [call for call in map(Call.of, details["ledger"]) if name in (None, call.name)]

    def approve(self, arguments: JsonObject | None = None, /, **changed: Any) -> Self:
        """Approve the request, and follow the run to its next request or its end.

        `arguments` replace those of the request, `changed` ones replace some. Raises `UnexpectedOutcome` where the run
        does not wait, and `ApiError` where the service refuses the decision, for example for invalid arguments.
        """
        __tracebackhide__ = True
        request = self._open_request("approved")
        edited = {**(request.arguments if arguments is None else arguments), **changed}
        sent = None if arguments is None and not changed else edited
        return self._decide(self._decider.approve(request.request_id, request.arguments_digest, sent))

    def reject(self, reason: str | None = None, *, skip: bool = False) -> Self:
        """Reject the request, and follow the run as `approve` does. With `skip` it continues without this call."""
        __tracebackhide__ = True
        request = self._open_request("rejected")
        return self._decide(self._decider.reject(request.request_id, reason, skip=skip))

    def as_user(self, user: str, *, tenant: str = "tenant1", role: str | None = None, email: str | None = None) -> Self:
        """Let another person decide from now on. Without this it is the owner of the run."""
        self._decider = self._thread.process.client(user=user, tenant=tenant, role=role, email=email)
        return self

    def cancel(self) -> Self:
        """Cancel the run as its owner, and follow it to its end."""
        self._thread.perform(self._owner.cancel(self.session_id))
        return self.go_on()

    def go_on(self) -> Self:
        """Follow the run to its next request or its end. It is needed only after a decision that was made elsewhere."""
        if self._end is None:
            stream = self._owner.attach(self.session_id, last_event_id=self._last_event_id)
            self._thread.perform(self._go_on(stream))
        return self

    def describe(self) -> str:
        """Return in one line for what the run waits, or how it has ended."""
        if self._waiting is not None:
            return f"the run waits for a person to decide {self._waiting}; use approve() or reject()"
        if self._end is None:
            return f"the run has not ended; {self._last_events()}"
        causes = [error_text(self.error), *self._thread.model.problems()]
        return ": ".join([f"the run ended as {self._end.status}", *filter(None, causes)])

    def event_texts(self) -> list[str]:
        """Return the events so far in few words each."""
        return [_event_text(event) for event in self.events]

    def __repr__(self) -> str:
        return f"<AuraRun {self.prompt!r}: {self.describe()}>"

    def _open_request(self, verdict: str) -> OpenRequest:
        __tracebackhide__ = True
        if self._waiting is None:
            raise UnexpectedOutcome(f"there is nothing that can be {verdict}: {self.describe()}")
        return self._waiting

    def _decide(self, decision: Coroutine[Any, Any, DecisionReply]) -> Self:
        __tracebackhide__ = True
        reply: DecisionReply = self._thread.perform(decision)
        if not reply.accepted:
            raise UnexpectedOutcome(f"the decision came too late: the request is {reply.status} already")
        return self.go_on()

    async def _go_on(self, stream: RunStream) -> None:
        """Read the events of a stream, and of those that continue it, up to a request or the end."""
        self._waiting = None
        try:
            async with asyncio.timeout(self._thread.timeout_seconds):
                while not await self._read(stream):
                    await self._thread.process.until_running()
                    stream = self._owner.attach(self.session_id, last_event_id=self._last_event_id)
        except TimeoutError:
            limit = f"for {self._thread.timeout_seconds:g} s the run has neither ended nor requested an approval"
            raise UnexpectedOutcome(": ".join([limit, self._last_events(), *self._thread.model.problems()])) from None

    async def _read(self, stream: RunStream) -> bool:
        """Read up to a request or the end. Returns False where the connection broke before."""
        async with aclosing(stream.items()) as items:
            async for item in items:
                self.session_id = stream.session_id or self.session_id
                if isinstance(item, Interrupted) and self.session_id:
                    return False
                if isinstance(item, ReceivedEvent) and self._take(item):
                    return True
        return True

    def _take(self, received: ReceivedEvent) -> bool:
        """Keep an event. Returns whether the run waits or has ended with it."""
        self._last_event_id = received.id
        if received.event is None:
            return False
        self.events.append(received.event)
        match received.event:
            case Hitl() as request:
                self._waiting = OpenRequest.of(request)
            case End() as end:
                self._end = end
            case _:
                return False
        return True

    def _last_events(self) -> str:
        shown = ", ".join(self.event_texts()[-_SHOWN_EVENTS:])
        return f"its last events are {shown}" if shown else "it has no event yet"


def _event_text(event: Event) -> str:
    """Return an event in few words, such as `tool_execution: order_stock(item="볼트") completed`."""
    match event:
        case ToolExecution():
            call = call_text(event.tool_name, event.tool_args)
            text = " ".join(filter(None, (call, event.status, event.error)))
        case Hitl():
            text = event.message
        case Content() | Thought():
            text = event.content
        case ErrorRaised():
            text = error_text(event)
        case TimelineStepUpdated():
            text = f"{event.metadata['from']} → {event.metadata['to']}"
        case End():
            text = event.status
        case _:
            text = ""
    return f"{event.TYPE}: {text}" if text else event.TYPE
