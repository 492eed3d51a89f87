"""The request as the framework hands it over, with two things put right: how headers are spelled, how bodies end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from quart.wrappers import Request
from quart.wrappers.request import Body
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestTimeout


class PatientBody(Body):
    """A body whose rest can be read away.

    A server that answers and closes while the client is still sending resets the connection, and many clients then
    report a broken pipe instead of the answer.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._ended = asyncio.Event()
        self._appending = False

    def append(self, data: bytes) -> None:
        self._appending = True
        super().append(data)
        self._appending = False

    def set_complete(self) -> None:
        super().set_complete()
        if not self._appending:  # there it only means that it is too large
            self._ended.set()

    async def read_away(self, most_seconds: float) -> None:
        """Let the client say what it has begun to say; what is beyond the limit is not kept."""
        with suppress(TimeoutError):
            async with asyncio.timeout(most_seconds):
                await self._ended.wait()


class IncomingRequest(Request):
    """Headers are read as the UTF-8 that senders write; HTTP's own word, and the framework's, is Latin-1."""

    body_class = PatientBody
    body: PatientBody

    def __init__(
        self, method: str, scheme: str, path: str, query_string: bytes, headers: Headers, *args: Any, **kwargs: Any
    ) -> None:
        if not all(value.isascii() for _, value in headers):
            headers = Headers([(name, _as_utf8(value)) for name, value in headers])
        super().__init__(method, scheme, path, query_string, headers, *args, **kwargs)

    async def whole_body(self) -> bytes:
        """Without a task and a copy for it, as `get_data` has. Raises `RequestTimeout`, `RequestEntityTooLarge`."""
        try:
            async with asyncio.timeout(self.body_timeout):
                return bytes(await self.body)
        except TimeoutError:
            raise RequestTimeout from None


def _as_utf8(value: str) -> str:
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value
