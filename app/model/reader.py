"""Reads one turn from the bytes of a server's response: streamed events, one JSON object, or an error.

The same bytes give the same turn however they are split. Nothing is awaited here; `chat.py` reads the connection.
"""

from __future__ import annotations

from typing import Any

from app.errors import ModelError
from app.model.chunks import Chunk, DeltaBuilder, decode_chunk, text_of_chunk
from app.model.failures import error_in_response, not_a_completion
from app.model.sse import EventParser, EventTooLong, ServerEvent
from statemachine.messages import ModelSource
from statemachine.turn import ModelDelta

MAX_RESPONSE_BYTES = 64 * 1024 * 1024
_MAX_SHOWN_BYTES = 2000
_BLANK = b" \t\r\n\xef\xbb\xbf"


class TurnReader:
    """Turns the bytes of one response into deltas.

    `has_ended`: the server has named a `finish_reason`, so the turn has its end, whatever follows. `is_done`: the last
    event, `[DONE]`, was read. `failure`: the response is an error or cannot be understood; nothing is read after it.
    With `done_is_whole`, `[DONE]` without a reason ends a turn that has content as `stop` does.
    """

    def __init__(self, *, source: ModelSource | None = None, done_is_whole: bool = False) -> None:
        self.has_ended = False
        self.is_done = False
        self.failure: ModelError | None = None
        self._source = source
        self._done_is_whole = done_is_whole
        self._events = EventParser()
        self._start = b""  # the first bytes, until it is known whether they are events or one JSON value
        self._body: bytearray | None = None  # a response that is one JSON value
        self._bytes = 0
        self._has_events = False
        self._has_content = False
        self._has_deltas = False
        self._choice: Any = None

    def feed(self, piece: bytes) -> ModelDelta | None:
        """Add the next bytes; return what they add to the turn, None if that is nothing.

        Where they contain an error, what stands before it is returned and `failure` is set.
        """
        if self.is_done or self.failure is not None:
            return None
        self._bytes += len(piece)
        if self._bytes > MAX_RESPONSE_BYTES:
            self.failure = ModelError("truncated", f"the model's response has more than {MAX_RESPONSE_BYTES} bytes")
            return None
        if self._body is not None:
            self._body += piece
            return None
        if not self._has_events and len(self._start) < _MAX_SHOWN_BYTES:
            self._start += piece
            if self._start.lstrip(_BLANK).startswith(b"{"):
                self._body = bytearray(self._start)
                return None
        try:
            return self._delta(self._events.feed(piece))
        except EventTooLong as error:
            self.failure = ModelError("interrupted", f"{error} in its stream")
            return None

    def finish(self) -> ModelDelta | None:
        """Return what the end of the response adds to the turn. Sets `failure` as `feed` does."""
        if self.is_done or self.failure is not None:
            return None
        if self._body is not None:
            return self._unstreamed(bytes(self._body))
        delta = self._delta(self._events.finish(), is_last=True)
        if not self._has_events and self._start.strip(_BLANK):
            self.failure = not_a_completion(self._start)
        return delta

    def _delta(self, events: list[ServerEvent], *, is_last: bool = False) -> ModelDelta | None:
        if not events:
            return None
        self._has_events = True
        builder = DeltaBuilder()
        for name, data in events:
            if not (name or self._choice) and (text := text_of_chunk(data)) is not None:
                builder.add_text(text)
                self._has_deltas = True
                continue
            if data.lstrip()[:6].upper() == b"[DONE]":
                self._end_by_done(builder)
                break
            self._add_event(builder, name, data, is_last=is_last)
            if self.failure is not None:
                break
        return self._built(builder)

    def _end_by_done(self, builder: DeltaBuilder) -> None:
        self.is_done = True
        if self._done_is_whole and (self._has_content or builder.has_content) and not self.has_ended:
            builder.add_finish_reason("stop")

    def _add_event(self, builder: DeltaBuilder, name: bytes, data: bytes, *, is_last: bool) -> None:
        try:
            chunk = decode_chunk(data)
        except ValueError:
            # A named event may have any data (`event: ping`), and the end of the connection may cut the last one.
            if name == b"error":
                self.failure = self.failure or error_in_response(_shown(data))
            elif name in (b"", b"message") and not (is_last or self.has_ended or builder.has_ended):
                self.failure = ModelError("interrupted", "a malformed chunk in its stream", detail=_shown(data))
            return
        if chunk is not None:
            self._add_chunk(builder, chunk, is_error=name == b"error")

    def _add_chunk(self, builder: DeltaBuilder, chunk: Chunk, *, is_error: bool = False) -> None:
        has_ended = self.has_ended or builder.has_ended
        if not has_ended and (error := _error(chunk, is_error=is_error)) is not None:
            self.failure = error_in_response(error)
            return
        if chunk.usage is not None:
            builder.add_usage(chunk.usage)
        for choice in chunk.choices if isinstance(chunk.choices, list) else ():
            if isinstance(choice, dict) and self._is_ours(choice):
                self._add_choice(builder, choice)

    def _is_ours(self, choice: dict[str, Any]) -> bool:
        """Whether this is a part of the first choice; a server may send more than the one that was requested."""
        index = choice.get("index")
        if self._choice is None:
            self._choice = index
        return index is None or index == self._choice

    def _add_choice(self, builder: DeltaBuilder, choice: dict[str, Any]) -> None:
        delta, message = choice.get("delta"), choice.get("message")
        if isinstance(delta, dict):
            builder.add_message(delta)
            self._has_deltas = self._has_deltas or bool(delta)
        elif isinstance(message, dict) and not self._has_deltas:
            builder.add_message(message)
        elif isinstance(choice.get("text"), str):
            builder.add_message({"content": choice["text"]})
        if choice.get("logprobs") is not None:
            builder.add_logprobs(choice["logprobs"])
        builder.add_finish_reason(choice.get("finish_reason"))

    def _built(self, builder: DeltaBuilder) -> ModelDelta:
        self._has_content = self._has_content or builder.has_content
        source, self._source = self._source, None
        self.has_ended = self.has_ended or builder.has_ended
        return builder.build(source)

    def _unstreamed(self, body: bytes) -> ModelDelta | None:
        """Return the turn in a response that is one JSON object. A whole object is a whole answer."""
        try:
            chunk = decode_chunk(body.strip(_BLANK))
        except ValueError:
            self.failure = ModelError("interrupted", "its response is not complete", detail=_shown(body))
            return None
        if chunk is None or not (chunk.choices or _error(chunk)):
            self.failure = not_a_completion(body)
            return None
        builder = DeltaBuilder()
        self._add_chunk(builder, chunk)
        if builder.has_content:
            builder.add_finish_reason("stop")
        return self._built(builder)


def _error(chunk: Chunk, *, is_error: bool = False) -> Any:
    """Return the error that the chunk is, as it was sent; None if it is none."""
    if chunk.error or chunk.errors:
        return {"error": chunk.error or chunk.errors, "code": chunk.code}
    is_completion = isinstance(chunk.choices, list) and chunk.choices
    if is_completion:
        first = chunk.choices[0]
        return {"error": first["error"]} if isinstance(first, dict) and first.get("error") else None
    text = chunk.message or chunk.detail
    if is_error or chunk.object == "error" or chunk.type == "error" or (text and chunk.choices is None):
        return {"message": text, "type": chunk.type, "code": chunk.code}
    return None


def _shown(data: bytes) -> str:
    return data[:_MAX_SHOWN_BYTES].decode("utf-8", "replace")
