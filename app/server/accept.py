"""The listening socket on uvloop, which takes one new connection at each turn of its loop and not more.

A busy loop has few turns: who is new would wait in the kernel, where nobody knows how many they are, and nobody can
refuse them. Asyncio's own loop needs none of this.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import uvloop

_A_TURN = 128
"""Connections that are taken at once; those that are there already must have their turn, too."""
_PAUSE_SECONDS = 0.1
"""When no descriptor is left for a connection."""

_Factory = Callable[[], asyncio.BaseProtocol]


class Loop(uvloop.Loop):
    """Uvloop's, but for servers on a socket that is bound already and does not encrypt."""

    async def create_server(  # type: ignore[override]  # which has one overload for each way to say an address
        self, protocol_factory: _Factory, *address: Any, **options: Any
    ) -> asyncio.AbstractServer:
        listening = options.get("sock")
        if listening is None or options.get("ssl") is not None:
            return await super().create_server(protocol_factory, *address, **options)
        listening.listen(options["backlog"])
        return cast("asyncio.AbstractServer", _Listener(self, protocol_factory, listening))


class _Listener:
    """What hypercorn needs of a server. Open from the beginning."""

    def __init__(self, loop: Loop, protocol_factory: _Factory, listening: socket.socket) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._listening = listening
        self._connecting: set[asyncio.Task[Any]] = set()
        self._listen()

    def _listen(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(_A_TURN):
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
            connecting.add_done_callback(self._connected)

    def _connected(self, connecting: asyncio.Task[Any]) -> None:
        self._connecting.discard(connecting)
        if not connecting.cancelled():
            connecting.exception()  # who came may have left

    def close(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for: what was accepted is not the listener's."""
