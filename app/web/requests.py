"""The incoming request and its body, on Quart's public `Request` alone.

Headers are decoded as UTF-8, all bodies together have a budget, and the unread rest of a body can be discarded. Knows
nothing of routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from hypercorn.typing import HTTPScope
from quart import Quart
from quart.wrappers import Request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

from app.errors import ServiceBusy


class BodyBudget:
    """The memory that the bodies of all requests in progress may take together, in bytes; 0: no limit.

    When it is used up, the largest body gives way. So many large bodies that are sent slowly keep
    out no small one.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._sizes: dict[RequestBody, int] = {}
        self._total = 0

    @property
    def held_bytes(self) -> int:
        """The size of all bodies that are held at the moment."""
        return self._total

    def add(self, body: RequestBody, size: int) -> None:
        """Count further bytes of a body; refuse the largest body where they are too many."""
        self._sizes[body] = self._sizes.get(body, 0) + size
        self._total += size
        while self._limit_bytes and self._total > self._limit_bytes:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            largest.refuse(
                ServiceBusy("the request bodies in progress take all the memory for them; send it again later")
            )

    def release(self, body: RequestBody) -> None:
        """Count a body no longer: it was read or dropped."""
        self._total -= self._sizes.pop(body, 0)


class RequestBody:
    """The body of a request: awaiting it returns all of its bytes.

    It replaces Quart's `Body`, whose interface differs from version to version. Awaiting it raises
    `RequestEntityTooLarge` where the body, or the length that its headers announce, exceeds `max_content_length` bytes
    (None: no limit), and `ServiceBusy` where it was refused for the sake of the others.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        self._data = bytearray()
        self._whole: bytes | None = None
        self._max_content_length = max_content_length
        self._budget = BodyBudget(0)
        self._is_readable = asyncio.Event()
        self._is_complete = asyncio.Event()
        self._refusal: Exception | None = None
        if _exceeds(expected_content_length, max_content_length):
            self.refuse(RequestEntityTooLarge())

    def share(self, budget: BodyBudget) -> None:
        """Count what arrives in this budget."""
        self._budget = budget

    def append(self, data: bytes) -> None:
        """Add a part in order of arrival. A body that is refused keeps nothing more."""
        if self._refusal is not None:
            return
        self._data += data
        if _exceeds(len(self._data), self._max_content_length):
            self.refuse(RequestEntityTooLarge())
        else:
            self._budget.add(self, len(data))

    def refuse(self, refusal: Exception) -> None:
        """Drop what has arrived and what follows; the reader of the body gets `refusal`."""
        self._refusal, self._data = refusal, bytearray()
        self._budget.release(self)
        self._is_readable.set()

    def set_complete(self) -> None:
        """The last part has arrived."""
        self._is_complete.set()
        self._is_readable.set()

    def __await__(self) -> Generator[Any, None, bytes]:
        if self._whole is None:
            yield from self._is_readable.wait().__await__()
            if self._refusal is not None:
                raise self._refusal
            self._whole, self._data = bytes(self._data), bytearray()
            self._budget.release(self)
        return self._whole

    async def discard_rest(self, timeout_seconds: float) -> None:
        """Wait until the client has sent all of its body, `timeout_seconds` at most, and keep nothing of it.

        A server that closes while the client is still sending resets the connection; many clients then report a broken
        pipe instead of the response.
        """
        self.refuse(RequestEntityTooLarge())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._is_complete.wait()


def has_ambiguous_length(scope: HTTPScope) -> bool:
    """Whether another server could see the end of this request elsewhere than this one does (RFC 9112 §6.1).

    A proxy that disagrees would take a part of the body for the next request, which may be another user's.
    """
    names = {name.lower() for name, _ in scope["headers"]}
    return b"transfer-encoding" in names and (b"content-length" in names or scope["http_version"] < "1.1")


class IncomingRequest(Request):
    """A request whose header values are decoded as UTF-8 where they are valid UTF-8.

    Senders write UTF-8, but HTTP and Quart decode header values as Latin-1.
    """

    body_class = RequestBody  # type: ignore[assignment]  # which has what is used of Quart's
    body: RequestBody  # type: ignore[assignment]

    def __init__(
        self, method: str, scheme: str, path: str, query_string: bytes, headers: Headers, *args: Any, **kwargs: Any
    ) -> None:
        if not all(value.isascii() for _, value in headers):
            headers = Headers([(name, _as_utf8(value)) for name, value in headers])
        super().__init__(method, scheme, path, query_string, headers, *args, **kwargs)

    @classmethod
    def from_scope(cls, app: Quart, scope: HTTPScope) -> IncomingRequest:
        """Build the request that an ASGI scope describes; its body is still empty."""
        headers = Headers()
        headers["Remote-Addr"] = (scope.get("client") or ("<local>",))[0]
        for name, value in scope["headers"]:
            headers.add(name.decode("latin-1").title(), value.decode("latin-1"))
        if scope["http_version"] < "1.1":
            headers.setdefault("Host", app.config["SERVER_NAME"] or "")
        root_path = scope.get("root_path", "")
        return cls(
            scope["method"],
            scope["scheme"],
            _relative(scope["path"], root_path),
            scope["query_string"],
            headers,
            root_path,
            scope["http_version"],
            max_content_length=app.config["MAX_CONTENT_LENGTH"],
            body_timeout=app.config["BODY_TIMEOUT"],
            send_push_promise=_ignore_push_promise,
            scope=scope,
        )

    async def read_body(self) -> bytes:
        """Return the whole body. Raises `RequestTimeout` or `RequestEntityTooLarge`.

        It does without the task and the copy that Quart's `get_data` makes.
        """
        try:
            async with asyncio.timeout(self.body_timeout):
                return await self.body
        except TimeoutError:
            raise RequestTimeout from None


def _exceeds(length: int | None, limit: int | None) -> bool:
    return length is not None and limit is not None and length > limit


def _relative(target: str, root_path: str) -> str:
    """The path of a request target below `root_path`; a path without a route if the target is not below it."""
    path = target if target.startswith("/") else urlsplit(target).path  # absolute form: RFC 9112 §3.2.2
    if not root_path:
        return path
    return path.removeprefix(root_path) if path.startswith(root_path) and path != root_path else " "


async def _ignore_push_promise(path: str, headers: Headers) -> None:
    """Server push exists in HTTP/2 only, which is not served."""


def _as_utf8(value: str) -> str:
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value
