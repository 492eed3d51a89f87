"""A model server that plays the cases of `fixtures/model_streams/` on a real socket, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from tests.harness.stream_cases import Case, Turn

_NO_LINGER = struct.pack("ii", 1, 0)
"""Of SO_LINGER: closing the socket sends an RST in place of a FIN."""


@dataclass(frozen=True)
class ReceivedRequest:
    """The JSON body of a request, and when it came on the clock of the event loop (seconds)."""

    body: Any
    received_at: float


class StreamPlayer:
    """The server on a free port of 127.0.0.1; also an async context manager.

    The n-th request of a case gets its n-th turn, and every later request the last one.
    """

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self._case: Case | None = None
        self._max_write_bytes: int | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def play(self, case: Case, *, max_write_bytes: int | None = None) -> None:
        """Answer the next requests with the turns of this case, from its first one on.

        Each piece is one write, or several of at most `max_write_bytes`.
        """
        self._case, self._max_write_bytes, self.requests = case, max_write_bytes, []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=2**20)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # The client may leave at any time, and the end of the server cancels this task and waits for it.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection can be used for another one."""
        turn = self._response_to(await _read_body(reader))
        writer.write(_head(turn))
        for piece in turn.writes():
            if isinstance(piece, float):
                await asyncio.sleep(piece)
                continue
            size = self._max_write_bytes or len(piece)
            for write in (piece[start : start + size] for start in range(0, len(piece), size or 1)):
                writer.write(write if turn.until_close else b"%x\r\n%b\r\n" % (len(write), write))
                await writer.drain()
                await asyncio.sleep(0)  # so that it is a write of its own
        match turn.end:
            case "ok" if not turn.until_close:
                writer.write(b"0\r\n\r\n")
                await writer.drain()
                return True
            case "rst":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                writer.transport.abort()
            case "hang":
                await reader.read()
        return False

    def _response_to(self, body: bytes) -> Turn:
        assert self._case is not None, "a request without a case"
        request = json.loads(body)
        self.requests.append(ReceivedRequest(request, asyncio.get_running_loop().time()))
        turns = self._case.turns[min(len(self.requests), len(self._case.turns)) - 1]
        return next(turn for turn in turns if turn.answers(request))


async def _read_body(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
    return await reader.readexactly(int(headers["content-length"]))


def _head(turn: Turn) -> bytes:
    known = {status.value: status.phrase for status in HTTPStatus}
    framing = {"Connection": "close"} if turn.until_close else {"Transfer-Encoding": "chunked"}
    fields = {"Content-Type": turn.ctype, **framing, **turn.headers}
    lines = [f"HTTP/1.1 {turn.status} {known.get(turn.status, '')}", *(f"{name}: {it}" for name, it in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
