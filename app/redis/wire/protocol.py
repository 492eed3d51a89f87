"""One open connection to Redis, spoken to without waiting.

redis-py opens it: it knows addresses, TLS, names and passwords, and what the errors are called. From then on the bytes
go this way: without a task, a timer or a stream of it in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

from hiredis import Reader
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse

from app.redis.wire.redis_internals import parse_error, transport_of

_NOTHING_YET = object()


class RedisProtocol(asyncio.Protocol):
    """`hear` is told every answer (an error reply is one, too) and every message, in order; `lose`, once, that nothing
    more will come."""

    def __init__(self, transport: asyncio.Transport, hear: Callable[[Any], None], lose: Callable[[], None]) -> None:
        self._transport = transport
        self._hear = hear
        self._lose = lose
        self._reader = Reader(protocolError=InvalidResponse, replyError=parse_error, notEnoughData=_NOTHING_YET)

    @classmethod
    def over(cls, opened: AbstractConnection, hear: Callable[[Any], None], lose: Callable[[], None]) -> Self:
        """Take over what redis-py has opened; it is only to close it, and to open it again, from here on.

        Raises redis-py's `ConnectionError` where it has been closed meanwhile.
        """
        transport = transport_of(opened)
        line = cls(transport, hear, lose)
        transport.set_protocol(line)
        return line

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def send(self, packed: bytes) -> None:
        """What is said in one turn of the event loop goes out together. On a line that breaks nobody hears it."""
        if self.is_open:
            self._transport.write(packed)

    def abort(self) -> None:
        """`lose` is told soon."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not _NOTHING_YET:
                self._hear(answer)
        except InvalidResponse:
            self.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._lose()
