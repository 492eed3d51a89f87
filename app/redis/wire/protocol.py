"""The protocol of one open connection to Redis, without waiting for replies.

redis-py opens the connection: it knows addresses, TLS, user names, passwords and the classes of errors. From then on
the bytes bypass it: there is no task, timer or stream of the driver between the socket and the parser.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

from hiredis import Reader
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse

from app.redis.wire.redis_internals import parse_error, transport_of

_INCOMPLETE = object()


class RedisProtocol(asyncio.Protocol):
    """`on_reply` gets every reply (an error reply is an exception) and every message in order. `on_lost` is called once
    when the connection is closed, for whatever reason."""

    def __init__(
        self, transport: asyncio.Transport, on_reply: Callable[[Any], None], on_lost: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._reader = Reader(protocolError=InvalidResponse, replyError=parse_error, notEnoughData=_INCOMPLETE)

    @classmethod
    def over(cls, opened: AbstractConnection, on_reply: Callable[[Any], None], on_lost: Callable[[], None]) -> Self:
        """Take over a connection that redis-py has opened; redis-py only closes and reopens it from here on.

        Raises the `ConnectionError` of redis-py where the connection has been closed in the meantime.
        """
        transport = transport_of(opened)
        protocol = cls(transport, on_reply, on_lost)
        transport.set_protocol(protocol)
        return protocol

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def send(self, packed: bytes) -> None:
        """Write packed commands; what is written in one iteration of the event loop is sent together. On a closed
        connection it is a no-op."""
        if self.is_open:
            self._transport.write(packed)

    def abort(self) -> None:
        """Close the connection at once; `on_lost` is called in the next iteration of the event loop."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                self._on_reply(reply)
        except InvalidResponse:
            self.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._on_lost()
