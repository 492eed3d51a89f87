"""The platform's gateway as it treats streams (§2.1): each network buffer by itself, decoded as UTF-8 by itself, with
an id of its own making before every buffer that has none."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Self
from urllib.parse import urlsplit

_READ_BYTES = 64 * 1024


class Gateway:
    """The proxy, also an async context manager: 127.0.0.1, any free port. `/api/…` goes to `target` without `/api`."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.buffers: list[bytes] = []
        """Every buffer of an event stream, as it came from the service."""
        self.made_up: list[int] = []
        """Every id that the gateway made up, in microseconds."""

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
                await self._exchange(reader, writer)
        finally:
            self._links.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection, which is enough for a client that opens a stream."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, rest = head.partition(b"\r\n")
        fields = [field for field in rest.split(b"\r\n") if field and not field.lower().startswith(b"connection:")]
        length = next((int(field.split(b":")[1]) for field in fields if field.lower().startswith(b"content-length")), 0)
        body = await reader.readexactly(length)
        up_reader, up_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        try:
            up_writer.write(b"\r\n".join([line.replace(b" /api/", b" /", 1), *fields, b"Connection: close", b"", body]))
            answer = await up_reader.readuntil(b"\r\n\r\n")
            is_stream = b"content-type: text/event-stream" in answer.lower()
            dropped = (b"transfer-encoding", b"connection")
            kept = [field for field in answer[:-4].split(b"\r\n") if not field.lower().startswith(dropped)]
            writer.write(b"\r\n".join([*kept, b"Connection: close", b"", b""]))
            chunked = b"transfer-encoding: chunked" in answer.lower()
            while buffer := await (_chunk(up_reader) if chunked else up_reader.read(_READ_BYTES)):
                writer.write(self._treated(buffer) if is_stream else buffer)
                await writer.drain()
        finally:
            up_writer.close()

    def _treated(self, buffer: bytes) -> bytes:
        self.buffers.append(buffer)
        made_up = time.time_ns() // 1000
        if b"id:" not in buffer:
            self.made_up.append(made_up)
        return treated(buffer, made_up)


def treated(buffer: bytes, made_up: int) -> bytes:
    """What becomes of one network buffer; `made_up` is the id it gets where it has none."""
    text = buffer.decode("utf-8", "replace")  # half a character at its end is lost
    return (text if "id:" in text else f"id: {made_up}\n{text}").encode()


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """What HTTP sent as one piece; empty at the end."""
    size = int(await reader.readline(), 16)
    data = await reader.readexactly(size + 2)
    return data[:-2]
