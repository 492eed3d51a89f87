"""Every private name of aiohttp that the service uses: reading a streamed body at the pace of its reader.

Tried with aiohttp 3.14.0 and 3.14.5 on CPython 3.11, 3.12 and 3.13; pyproject.toml excludes 3.15. The names:

- `BaseConnector._factory`, which creates the protocol of a new connection: there is no public way to hand over a class;
- `ResponseHandler._reading_paused` and `_payload`, and its undocumented `transport`, `read_timeout`, `start_timeout`,
  `resume_reading` and `set_exception`.

Where one of them is missing, `create_connector` logs `http.fallback_chosen` and returns a plain `TCPConnector`. The
process then wakes up for every packet of a body, and a body that stops being HTTP in its middle is reported as a read
timeout instead of at once.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from functools import partial
from typing import cast

import aiohttp
import structlog
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

log = structlog.get_logger(__name__)


def create_connector(ssl_context: ssl.SSLContext) -> aiohttp.TCPConnector:
    """Create a connector without a limit of connections, whose connections are `PausableConnection`s where possible."""
    connector = aiohttp.TCPConnector(ssl=ssl_context, limit=0)
    missing = missing_names()
    if missing:
        log.warning("http.fallback_chosen", library="aiohttp", missing=missing)
        return connector
    loop = asyncio.get_running_loop()
    connector._factory = cast("partial[ResponseHandler]", partial(PausableConnection, loop=loop))  # noqa: SLF001
    return connector


def missing_names() -> list[str]:
    """The names of this module's docstring that the installed aiohttp lacks."""
    assigned = {
        name
        for owner in (*ResponseHandler.__mro__, *aiohttp.TCPConnector.__mro__)
        if inspect.isfunction(initialise := vars(owner).get("__init__"))
        for name in initialise.__code__.co_names
    }
    is_there = {
        "BaseConnector._factory": "_factory" in assigned,
        **{f"ResponseHandler.{name}": name in assigned for name in ("_payload", "_reading_paused", "transport")},
        **{
            f"ResponseHandler.{name}": hasattr(ResponseHandler, name)
            for name in ("read_timeout", "resume_reading", "set_exception", "start_timeout")
        },
    }
    return [name for name, found in is_there.items() if not found]


class PausableConnection(ResponseHandler):
    """A connection whose reader pauses the socket while it works on what it has read.

    Two things differ from aiohttp's own flow control. It stops the parser at the next chunk and resumes after every
    chunk, which takes a quarter of the CPU time of a response of many chunks (tests/bench). And where the body stops
    being valid HTTP, aiohttp reports that to the next request only; the reader of the body would wait for ever.
    """

    _paused_read_timeout: float | None = None

    def pause(self) -> None:
        """Leave further bytes in the kernel. The read timeout is suspended."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        transport.pause_reading()
        self._paused_read_timeout, self.read_timeout = self.read_timeout, None
        self.start_timeout()

    def resume(self) -> None:
        """Receive bytes again, unless aiohttp's own flow control has stopped it as well."""
        if self.read_timeout is None:
            self.read_timeout = self._paused_read_timeout
        transport = self.transport
        if transport is None or transport.is_closing() or self._reading_paused:
            return
        transport.resume_reading()
        self.start_timeout()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        super().set_exception(exc, exc if exc_cause is None else exc_cause)
        if isinstance(exc, HttpProcessingError) and self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(aiohttp.ClientPayloadError(str(exc)), exc)
