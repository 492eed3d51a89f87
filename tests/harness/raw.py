"""A client that sees the single writes of the server, and functions that read whole streams."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

from app.settings import Settings
from tests.harness.frames import Frame, StreamReader
from tests.harness.service import STREAM, Aura, headers

MakeSettings = Callable[..., Settings]
LONG_TEXT = "".join(f"{number}번째 문장입니다. 😀 " for number in range(400))


class RawStream:
    """Reads the HTTP chunks of one response; each chunk is one write of the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> None:
        self._reader, self._writer = reader, writer
        self.status = int(head.split(" ", 2)[1])
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])
        }

    @classmethod
    async def post(cls, aura: Aura, body: Any, *, buffer: int | None = None, **more: str) -> RawStream:
        """Post a prompt. `buffer` is the size of the socket's receive buffer (bytes)."""
        return await cls.post_to(aura, STREAM, body, buffer=buffer, **more)

    @classmethod
    async def post_to(cls, aura: Aura, path: str, body: Any, *, buffer: int | None = None, **more: str) -> RawStream:
        """Post to this path, which may have a query. Headers in `more` replace the usual ones."""
        host, _, port = aura.url.removeprefix("http://").partition(":")
        connection = socket.create_connection((host, int(port)))
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        reader, writer = await asyncio.open_connection(sock=connection, limit=buffer or 65536)
        content = json.dumps(body).encode()
        fields = {**headers(), "Host": host, "Content-Type": "application/json", "Content-Length": str(len(content))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**fields, **more}.items())
        writer.write(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + content)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        return cls(reader, writer, head.strip())

    async def chunk(self) -> bytes:
        """Read the next chunk; empty at the end of the body."""
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    async def rest(self) -> list[bytes]:
        """Read the remaining chunks and close the connection."""
        chunks = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        self.close()
        return chunks

    async def send(self, data: bytes) -> None:
        """Send further bytes on the same connection."""
        self._writer.write(data)
        await self._writer.drain()

    def abort(self) -> None:
        """Break the connection without closing it cleanly."""
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()


async def read_stream(aura: Aura, prompt: str = "안녕하세요", **kwargs: Any) -> tuple[StreamReader, list[Frame]]:
    """Post a prompt and read the stream to its end; returns the reader and the frames."""
    async with aura.stream(prompt, **kwargs) as stream:
        return stream, await stream.rest()


def raw_frames(frames: list[Frame]) -> list[str]:
    return [frame.raw for frame in frames]
