"""Reads one run's events across broken connections: each event once, in order, without gaps (§3).

A prompt is never executed twice. A POST without a response is repeated with the same `Idempotency-Key`. As soon as the
session id is known, the client only attaches to the run, after the last complete event.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import httpx2

from .decoding import JsonObject
from .events import Start
from .frames import (
    Frame,
    FrameParser,
    ReceivedEvent,
    StreamDamaged,
    has_damaged_character,
    parse_event,
)
from .responses import (
    RETRYABLE_STATUSES,
    ApiError,
    ConnectionLost,
    ServiceUnreachable,
    error_text,
    is_stream,
    raise_for_status,
)

STREAM_PATH = "/aura/test/stream"
_OWN_NAMES = {"events": "aura"}
"""The query for the event names that this client knows, whichever the service is set to."""
_MAX_RETRY_DELAY_SECONDS = 10.0
_MAX_DAMAGED_STREAMS = 8
_NOTHING_FOLLOWS = 204  # the last event that was received is the end marker
_MAX_DAMAGED_READS = 3
_FINAL_AT_START = frozenset({429, 500})
"""Statuses after which a new run is not started by itself: a person decides whether to try again."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The connection broke. The client reconnects after `retry_delay_seconds`."""

    cause: str
    retry_delay_seconds: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """The connection was restored. The next event follows the last one."""


Item = ReceivedEvent | Interrupted | Resumed


class RunStream:
    """The events of one run up to its end. Iterate over `events()` or `items()` once."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        *,
        body: JsonObject | None = None,
        idempotency_key: str | None = None,
        session_id: str | None = None,
        last_event_id: int | None = None,
        retry_timeout_seconds: float,
        retry_delay_seconds: float,
    ) -> None:
        """`body` starts a run, `session_id` selects one. After `retry_timeout_seconds` without a byte it fails."""
        self.session_id = session_id
        """The session id of the run; None until the service has answered."""
        self.last_event_id = last_event_id
        """The id of the last event that was received."""
        self._http = http
        self._body = body
        self._idempotency_key = idempotency_key or secrets.token_hex(16)
        self._retry_timeout_seconds = retry_timeout_seconds
        self._retry_delay_seconds = retry_delay_seconds
        self._last_byte_at = 0.0
        self._was_connected = False
        self._failures = 0  # consecutive ones, without an event in between
        self._damaged_streams = 0
        self._damaged_frame: Frame | None = None
        self._damaged_reads = 0  # of that frame
        self._accepts_damaged_characters = False

    async def events(self) -> AsyncGenerator[ReceivedEvent, None]:
        """Yield the events without the items about the connection. Raises as `items` does."""
        async with aclosing(self.items()) as items:
            async for item in items:
                if isinstance(item, ReceivedEvent):
                    yield item

    async def items(self) -> AsyncGenerator[Item, None]:
        """Yield the events, and an item for each interruption of the connection. Close it to stop before the end.

        Raises `ServiceUnreachable` (first connection), `ApiError` (a retry is pointless) or `ConnectionLost` (timeout).
        """
        self._last_byte_at = asyncio.get_running_loop().time()
        while True:
            try:
                async with self._open() as response:
                    if response.status_code == _NOTHING_FOLLOWS:
                        return
                    if self._failures:
                        yield Resumed()
                    async for frame in self._frames(response):
                        if frame.is_done:
                            return
                        event = self._next_event(frame)
                        if event is not None:
                            yield event
                interrupted = self._interruption("the service closed the stream")
            except (httpx2.TransportError, StreamDamaged, ApiError) as error:
                interrupted = self._interruption_after(error)
            yield interrupted
            await asyncio.sleep(interrupted.retry_delay_seconds)

    def _interruption_after(self, error: Exception) -> Interrupted:
        """Return when to retry after this error. Raises a `ClientError` if a retry is pointless."""
        match error:
            case httpx2.ConnectError() | httpx2.ConnectTimeout() if not self._was_connected:
                raise ServiceUnreachable(f"cannot connect to {self._http.base_url}: {error_text(error)}") from error
            case ApiError(status=status):
                if status not in RETRYABLE_STATUSES or (status in _FINAL_AT_START and self.session_id is None):
                    raise error
                return self._interruption(str(error), error.retry_after_seconds or 0)
            case StreamDamaged():
                self._damaged_streams += 1
                if self._damaged_streams >= _MAX_DAMAGED_STREAMS:
                    raise ConnectionLost(f"every attempt to read the stream was damaged: {error}") from error
        self._was_connected = True  # the request may have arrived
        return self._interruption(error_text(error))

    def _interruption(self, cause: str, min_delay_seconds: float = 0) -> Interrupted:
        if asyncio.get_running_loop().time() - self._last_byte_at > self._retry_timeout_seconds:
            raise ConnectionLost(f"the stream could not be resumed in time: {cause}")
        jitter = random.uniform(0.8, 1.2)  # noqa: S311 - so that clients do not reconnect all at once
        delay = min(self._retry_delay_seconds * 2**self._failures, _MAX_RETRY_DELAY_SECONDS) * jitter
        self._failures += 1
        return Interrupted(cause, max(delay, min_delay_seconds))

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[httpx2.Response]:
        """Start the run by POST until its session id is known, then attach to it by GET."""
        headers = {"Accept": "text/event-stream"}
        if self.session_id is None:
            headers["Idempotency-Key"] = self._idempotency_key
            opened = self._http.stream("POST", STREAM_PATH, params=_OWN_NAMES, json=self._body, headers=headers)
        else:
            if self.last_event_id is not None:
                headers["Last-Event-ID"] = str(self.last_event_id)
            query = {**_OWN_NAMES, "sessionId": self.session_id}
            opened = self._http.stream("GET", STREAM_PATH, params=query, headers=headers)
        async with opened as response:
            self._was_connected = True
            await raise_for_status(response)
            if response.status_code != _NOTHING_FOLLOWS and not is_stream(response):
                raise ApiError(200, "", "the response is not an event stream: is this Aura's address?")
            self.session_id = response.headers.get("X-Session-ID") or self.session_id
            yield response

    async def _frames(self, response: httpx2.Response) -> AsyncIterator[Frame]:
        parser = FrameParser()
        async for chunk in response.aiter_bytes():
            self._last_byte_at = asyncio.get_running_loop().time()
            for frame in parser.feed(chunk):
                if frame.retry_ms is not None:
                    self._retry_delay_seconds = min(frame.retry_ms / 1000, _MAX_RETRY_DELAY_SECONDS)
                if frame.data:
                    yield frame

    def _next_event(self, frame: Frame) -> ReceivedEvent | None:
        """Return the event of a frame; None where it was received before. Raises `StreamDamaged`."""
        if frame.id is not None and self.last_event_id is not None and frame.id <= self.last_event_id:
            return None
        received = parse_event(frame)
        if has_damaged_character(received.fields):
            self._check_damaged_frame(frame)
        if frame.id is not None:
            self.last_event_id = frame.id
        if isinstance(received.event, Start):
            self.session_id = received.event.session_id
        self._failures = self._damaged_streams = 0
        return received

    def _check_damaged_frame(self, frame: Frame) -> None:
        """Accept U+FFFD only where it is part of the event.

        A character that was split on the way is whole at the next read; one that is unchanged was generated by the
        model. Raises `StreamDamaged` where the frame must be read again.
        """
        if self._accepts_damaged_characters:
            return
        is_same_event = self._damaged_frame is not None and self._damaged_frame.id == frame.id
        self._accepts_damaged_characters = self._damaged_frame == frame
        self._damaged_reads = self._damaged_reads + 1 if is_same_event else 1
        self._damaged_frame = frame
        if not self._accepts_damaged_characters and self._damaged_reads < _MAX_DAMAGED_READS:
            raise StreamDamaged("a character was split")
