"""A model of the platform's gateway (CONTRACT §2.1): it decodes each network buffer of a stream separately as UTF-8
and puts a generated id before every buffer that has none."""

from __future__ import annotations

import asyncio
import random
import time
from urllib.parse import urlsplit

from app.dev.chaos.link import READ_BYTES, Relay, Side


class Gateway(Relay):
    """The proxy on a free port of 127.0.0.1; also an async context manager.

    A request for `/api/…` is forwarded to `target` without `/api`.
    """

    def __init__(self, target: str, *, random_source: random.Random | None = None) -> None:
        """With `random_source` each buffer of a stream is split in two at a random byte, as a network may split it."""
        self._random = random_source
        address = urlsplit(target)
        assert address.hostname is not None
        assert address.port is not None
        super().__init__(address.hostname, address.port)
        self.buffers: list[bytes] = []
        """Every buffer of an event stream as the service sent it."""
        self.generated_ids: list[int] = []
        """Every id that the gateway generated, in microseconds."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def forward(self, client: Side, target: Side) -> None:
        """Forward one request per connection, which is enough for a client that opens a stream."""
        head = await client.reader.readuntil(b"\r\n\r\n")
        line, _, rest = head.partition(b"\r\n")
        fields = [field for field in rest.split(b"\r\n") if field and not field.lower().startswith(b"connection:")]
        length = next((int(field.split(b":")[1]) for field in fields if field.lower().startswith(b"content-length")), 0)
        body = await client.reader.readexactly(length)
        line = line.replace(b" /api/", b" /", 1)
        target.writer.write(b"\r\n".join([line, *fields, b"Connection: close", b"", body]))
        answer = await target.reader.readuntil(b"\r\n\r\n")
        is_stream = b"content-type: text/event-stream" in answer.lower()
        dropped = (b"transfer-encoding", b"connection")
        kept = [field for field in answer[:-4].split(b"\r\n") if not field.lower().startswith(dropped)]
        client.writer.write(b"\r\n".join([*kept, b"Connection: close", b"", b""]))
        chunked = b"transfer-encoding: chunked" in answer.lower()
        while buffer := await (_read_chunk(target.reader) if chunked else target.reader.read(READ_BYTES)):
            for piece in self._cut(buffer) if is_stream else (buffer,):
                client.writer.write(self._transform(piece) if is_stream else piece)
            await client.writer.drain()

    def _cut(self, buffer: bytes) -> list[bytes]:
        if self._random is None or len(buffer) < 2:
            return [buffer]
        at = self._random.randrange(1, len(buffer))
        return [buffer[:at], buffer[at:]]

    def _transform(self, buffer: bytes) -> bytes:
        self.buffers.append(buffer)
        generated_id = time.time_ns() // 1000
        if b"id:" not in buffer:
            self.generated_ids.append(generated_id)
        return transform_buffer(buffer, generated_id)


def transform_buffer(buffer: bytes, generated_id: int) -> bytes:
    """The buffer as the gateway forwards it; `generated_id` is put before it where it has no id."""
    text = buffer.decode("utf-8", "replace")  # an incomplete character at its end is lost
    return (text if "id:" in text else f"id: {generated_id}\n{text}").encode()


async def _read_chunk(reader: asyncio.StreamReader) -> bytes:
    """Read one HTTP chunk; empty at the end of the body."""
    size = int(await reader.readline(), 16)
    data = await reader.readexactly(size + 2)
    return data[:-2]
