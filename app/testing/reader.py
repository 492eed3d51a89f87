"""Reads the events of one run in the thread of the service, also across a crash of the service."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from app.client import (
    AuraClient,
    Content,
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
from app.testing.outcomes import OpenRequest, UnexpectedOutcome, call_text, error_text
from app.testing.process import ServiceThread

_SHOWN_EVENTS = 5


class RunReader:
    """What has been read of a run: its events, the request for which it waits, and its end."""

    def __init__(self, thread: ServiceThread, client: AuraClient) -> None:
        self.session_id = ""
        self.events: list[Event] = []
        self.waiting: OpenRequest | None = None
        self.end: End | None = None
        self._thread, self._client = thread, client
        self._last_event_id: int | None = None

    async def follow(self, stream: RunStream | None = None) -> None:
        """Read on up to the next request or the end: `stream`, or after the last event.

        Raises `UnexpectedOutcome` after the time limit, and what the client raises.
        """
        self.waiting = None
        try:
            async with asyncio.timeout(self._thread.timeout_seconds):
                while not await self._read(stream or self._attach()):
                    await self._thread.process.until_running()
                    stream = None
        except TimeoutError:
            limit = f"for {self._thread.timeout_seconds:g} s the run has neither ended nor requested an approval"
            raise UnexpectedOutcome(": ".join([limit, self.last_texts(), *self._thread.model.problems()])) from None

    def texts(self) -> list[str]:
        """Return the events in few words each."""
        return [_event_text(event) for event in self.events]

    def last_texts(self) -> str:
        """Return a part of a sentence with the last events."""
        shown = ", ".join(self.texts()[-_SHOWN_EVENTS:])
        return f"its last events are {shown}" if shown else "it has no event yet"

    def _attach(self) -> RunStream:
        return self._client.attach(self.session_id, last_event_id=self._last_event_id)

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
                self.waiting = OpenRequest.of(request)
            case End() as end:
                self.end = end
            case _:
                return False
        return True


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
