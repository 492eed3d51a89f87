"""A uvloop event loop whose listening sockets accept many connections per iteration.

uvloop accepts one connection per iteration of the loop. A busy loop has few iterations a second, so new clients would
wait in the kernel's backlog, where they are neither counted nor rejected. Asyncio's own loop accepts many at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import uvloop

_MAX_ACCEPTED_PER_ITERATION = 128
"""A limit, so that the connections that are open already have their turn."""
_PAUSE_SECONDS = 0.1
"""The pause before the next attempt where no file descriptor is left for a connection."""

_Factory = Callable[[], asyncio.BaseProtocol]


class UvloopEventLoop(uvloop.Loop):
    """Differs from uvloop's only for servers without TLS on a socket that is bound already."""

    async def create_server(  # type: ignore[override]  # which has an overload for each form of an address
        self, protocol_factory: _Factory, *address: Any, **options: Any
    ) -> asyncio.AbstractServer:
        listening = options.get("sock")
        if listening is None or options.get("ssl") is not None:
            return await super().create_server(protocol_factory, *address, **options)
        listening.listen(options["backlog"])
        return cast("asyncio.AbstractServer", _Listener(self, protocol_factory, listening))


class _Listener:
    """The part of `asyncio.AbstractServer` that Hypercorn uses. It accepts connections from the beginning."""

    def __init__(self, loop: UvloopEventLoop, protocol_factory: _Factory, listening: socket.socket) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._listening = listening
        self._connecting: set[asyncio.Task[Any]] = set()
        self._listen()

    def _listen(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(_MAX_ACCEPTED_PER_ITERATION):
            try:
                accepted, _address = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                self._loop.remove_reader(self._listening)
                self._loop.call_later(_PAUSE_SECONDS, self._listen)
                return
            accepted.setblocking(False)
            connecting = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol_factory, accepted))
            self._connecting.add(connecting)
            connecting.add_done_callback(self._on_connected)

    def _on_connected(self, connecting: asyncio.Task[Any]) -> None:
        self._connecting.discard(connecting)
        if not connecting.cancelled():
            connecting.exception()  # retrieved, so that asyncio logs nothing: the client may have disconnected already

    def close(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()

    async def wait_closed(self) -> None:
        """Return at once: open connections are closed by Hypercorn, not by the listener."""
