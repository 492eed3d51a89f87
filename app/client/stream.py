"""One run's events across broken connections: each once, in order, none left out (§3).

A prompt is never executed twice: a POST whose answer was lost is sent again under the same `Idempotency-Key`; once the
run is known it is only attached to, after the last whole event.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import httpx2

from app.client.answers import TRANSIENT, Refused, StreamLost, Unreachable, check, is_stream, words
from app.client.frames import Frame, FrameReader, Received, StreamDamaged, is_broken, received
from statemachine.checkpoint import JsonObject
from statemachine.events import Start

STREAM_PATH = "/aura/test/stream"
_MOST_PAUSE_SECONDS = 10.0
_MOST_DAMAGES = 8
_MOST_READINGS = 3
_FINAL_AT_START = frozenset({429, 500})
"""A person decides whether to ask again: too many runs, or a fault."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The connection broke; it is tried again after that pause."""

    cause: str
    pause_seconds: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """Connected again; the next event follows the last one."""


Item = Received | Interrupted | Resumed


class RunStream:
    """The events of one run, up to its end. Iterate `events()` or `items()`, once."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        *,
        body: JsonObject | None = None,
        idempotency_key: str | None = None,
        session_id: str | None = None,
        last_event_id: int | None = None,
        patience_seconds: float,
        pause_seconds: float,
    ) -> None:
        """`body` starts a run, `session_id` names one; it gives up after `patience_seconds` without a byte."""
        self.session_id = session_id
        """None until the service has answered."""
        self.last_event_id = last_event_id
        """The last event that came."""
        self._http = http
        self._body = body
        self._idempotency_key = idempotency_key or secrets.token_hex(16)
        self._patience_seconds = patience_seconds
        self._retry_seconds = pause_seconds
        self._alive_at = 0.0
        self._was_reached = False
        self._failures = 0  # in a row, without an event between them
        self._damages = 0
        self._suspect: Frame | None = None
        self._readings = 0  # of the suspect
        self._trusts_characters = False

    async def events(self) -> AsyncGenerator[Received, None]:
        """The events alone. Raises as `items` does."""
        async with aclosing(self.items()) as items:
            async for item in items:
                if isinstance(item, Received):
                    yield item

    async def items(self) -> AsyncGenerator[Item, None]:
        """Events, and between them what happens to the connection. Close it where you leave before the end.

        Raises `Unreachable`, `Refused` (at once where asking again is of no use), `StreamLost`.
        """
        self._alive_at = asyncio.get_running_loop().time()
        while True:
            try:
                async with self._open() as response:
                    if self._failures:
                        yield Resumed()
                    async for frame in self._frames(response):
                        if frame.is_done:
                            return
                        item = self._new(frame)
                        if item is not None:
                            yield item
                interrupted = self._interrupted("the service closed the stream")
            except (httpx2.TransportError, StreamDamaged, Refused) as error:
                interrupted = self._judged(error)
            yield interrupted
            await asyncio.sleep(interrupted.pause_seconds)

    def _judged(self, error: Exception) -> Interrupted:
        """Whether to come back after an error. Raises where that is of no use."""
        match error:
            case httpx2.ConnectError() | httpx2.ConnectTimeout() if not self._was_reached:
                raise Unreachable(f"nobody answers at {self._http.base_url}: {words(error)}") from error
            case Refused(status=status):
                if status not in TRANSIENT or (status in _FINAL_AT_START and self.session_id is None):
                    raise error
                return self._interrupted(str(error), error.retry_after_seconds or 0)
            case StreamDamaged():
                self._damages += 1
                if self._damages >= _MOST_DAMAGES:
                    raise StreamLost(f"the stream comes damaged: {error}") from error
        self._was_reached = True  # the request may have arrived
        return self._interrupted(words(error))

    def _interrupted(self, cause: str, at_least_seconds: float = 0) -> Interrupted:
        if asyncio.get_running_loop().time() - self._alive_at > self._patience_seconds:
            raise StreamLost(f"the stream did not come back: {cause}")
        # Not all clients at once: a jitter.
        pause = min(self._retry_seconds * 2**self._failures, _MOST_PAUSE_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311
        self._failures += 1
        return Interrupted(cause, max(pause, at_least_seconds))

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[httpx2.Response]:
        """POST until the run is known, then attach to it."""
        headers = {"Accept": "text/event-stream"}
        if self.session_id is None:
            headers["Idempotency-Key"] = self._idempotency_key
            opened = self._http.stream("POST", STREAM_PATH, json=self._body, headers=headers)
        else:
            if self.last_event_id is not None:
                headers["Last-Event-ID"] = str(self.last_event_id)
            query = {"sessionId": self.session_id}
            opened = self._http.stream("GET", STREAM_PATH, params=query, headers=headers)
        async with opened as response:
            self._was_reached = True
            await check(response)
            if not is_stream(response):
                raise Refused(200, "", "the answer is no event stream: is this Aura's address?")
            self.session_id = response.headers.get("X-Session-ID") or self.session_id
            yield response

    async def _frames(self, response: httpx2.Response) -> AsyncIterator[Frame]:
        reader = FrameReader()
        async for piece in response.aiter_bytes():
            self._alive_at = asyncio.get_running_loop().time()
            for frame in reader.feed(piece):
                if frame.retry_ms is not None:
                    self._retry_seconds = min(frame.retry_ms / 1000, _MOST_PAUSE_SECONDS)
                if frame.data:
                    yield frame

    def _new(self, frame: Frame) -> Received | None:
        """The frame's event; None where it was seen before."""
        if frame.id is not None and self.last_event_id is not None and frame.id <= self.last_event_id:
            return None
        item = received(frame)
        if is_broken(item.fields):
            self._doubt(frame)
        if frame.id is not None:
            self.last_event_id = frame.id
        if isinstance(item.event, Start):
            self.session_id = item.event.session_id
        self._failures = self._damages = 0
        return item

    def _doubt(self, frame: Frame) -> None:
        """A character that was cut in two on the way is read again; one that stays is the model's own.

        Raises `StreamDamaged`.
        """
        if self._trusts_characters:
            return
        is_again = self._suspect is not None and self._suspect.id == frame.id
        self._trusts_characters = self._suspect == frame
        self._readings = self._readings + 1 if is_again else 1
        self._suspect = frame
        if not self._trusts_characters and self._readings < _MOST_READINGS:
            raise StreamDamaged("a broken character")
