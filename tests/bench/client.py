"""The clients of the benchmarks: asyncio protocols with one connection each, which check every stream they read."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from tests.harness.service import STREAM, headers

_DONE = b"[DONE]"


class InvalidStream(AssertionError):
    """A stream violated CONTRACT §2 or §3."""


@dataclass(slots=True)
class Reading:
    """What a client received of one run. Times are values of `time.perf_counter()`."""

    started_at: float = 0.0
    first_event_at: float = 0.0
    ended_at: float = 0.0
    status: int = 0
    session_id: str = ""
    events: int = 0
    bytes: int = 0
    last_id: int = 0
    answer: list[str] = field(default_factory=list)
    end_status: str = ""
    request_id: str = ""
    hitl_at: float = 0.0
    event_times: list[float] | None = None

    @property
    def first_event_seconds(self) -> float:
        return self.first_event_at - self.started_at

    @property
    def text(self) -> str:
        return "".join(self.answer)


class Client(asyncio.Protocol):
    """A client with one keep-alive connection, for one stream at a time."""

    def __init__(self, user: str, tenant: str = "tenant1") -> None:
        self.user = user
        self._fields = headers(user, tenant)
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self.reading = Reading()
        self._in_head = True
        self._result: asyncio.Future[Reading] | None = None
        self._on_hitl: Callable[[Reading], None] | None = None

    @classmethod
    async def connect(cls, port: int, user: str, tenant: str = "tenant1") -> Client:
        client = cls(user, tenant)
        await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", port)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, if not by descent

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        seconds, seen = time.perf_counter() - self.reading.started_at, self.reading.events
        self._fail(InvalidStream(f"the connection was lost ({exc}) after {seconds:.1f} s and {seen} events"))

    def close(self) -> None:
        self._result = None
        if self._transport is not None:
            self._transport.abort()

    async def run(
        self, prompt: str, *, on_hitl: Callable[[Reading], None] | None = None, with_times: bool = False
    ) -> Reading:
        """Execute a prompt to its end. `on_hitl` is called for each approval request; `with_times` records the time of
        each event."""
        body = json.dumps({"prompt": prompt, "context": {"url": "https://dwp/mail", "title": "mail"}}).encode()
        return await self._request("POST", STREAM, body, {}, on_hitl, with_times=with_times)

    async def resume(self, session_id: str, last_event_id: int) -> Reading:
        return await self._request(
            "GET", f"{STREAM}?sessionId={session_id}", b"", {"Last-Event-ID": str(last_event_id)}
        )

    async def _request(
        self,
        method: str,
        path: str,
        body: bytes,
        extra: dict[str, str],
        on_hitl: Callable[[Reading], None] | None = None,
        *,
        with_times: bool = False,
    ) -> Reading:
        assert self._transport is not None
        fields = {"Host": "bench", "Content-Type": "application/json", "Content-Length": str(len(body)), **extra}
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**self._fields, **fields}.items())
        self._in_head, self._on_hitl = True, on_hitl
        self._result = result = asyncio.get_running_loop().create_future()
        self.reading = Reading(started_at=time.perf_counter(), event_times=[] if with_times else None)
        self._transport.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        reading: Reading = await result
        return reading

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            if self._in_head and not self._read_head():
                return
            self._read_chunks()
        except InvalidStream as error:
            self._fail(error)

    def _fail(self, error: InvalidStream) -> None:
        if self._result is not None and not self._result.done():
            self._result.set_exception(error)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._buffer[:end].decode("latin-1")
        del self._buffer[: end + 4]
        self._in_head = False
        self.reading.status = int(head.split(" ", 2)[1])
        for line in head.split("\r\n")[1:]:
            name, _, value = line.partition(": ")
            if name.lower() == "x-session-id":
                self.reading.session_id = value
        return True

    def _read_chunks(self) -> None:
        """Read the complete HTTP chunks of the buffer. Each is one write of the service, so it is one frame (§2.1)."""
        while True:
            line_end = self._buffer.find(b"\r\n")
            if line_end < 0:
                return
            size = int(self._buffer[:line_end], 16)
            end = line_end + 2 + size
            if len(self._buffer) < end + 2:
                return
            frame = bytes(self._buffer[line_end + 2 : end])
            del self._buffer[: end + 2]
            if size == 0:
                self._end()
                return
            self.read_frame(frame)

    def read_frame(self, frame: bytes) -> None:
        """Check one frame and add it to `reading`. Raises `InvalidStream`."""
        reading = self.reading
        if reading.status != 200:
            return
        if b"id:" not in frame or not frame.endswith(b"\n\n"):
            raise InvalidStream(f"a write without an id, or that is not one frame: {frame[:200]!r}")
        if frame.startswith(b":"):
            return
        if not reading.events:
            reading.first_event_at = time.perf_counter()
        if reading.event_times is not None:
            reading.event_times.append(time.perf_counter())
        reading.events += 1
        reading.bytes += len(frame)
        lines = frame[:-2].split(b"\n")
        id = int(lines[0].removeprefix(b"id: "))
        if id <= reading.last_id:
            raise InvalidStream(f"id {id} after {reading.last_id}")
        reading.last_id = id
        data = lines[-1].removeprefix(b"data: ")
        if reading.end_status and data != _DONE:
            raise InvalidStream("an event after the end")
        if data == _DONE:
            reading.ended_at = time.perf_counter()
        else:
            self._handle_event(lines[1].removeprefix(b"event: "), data)

    def _handle_event(self, type: bytes, data: bytes) -> None:
        """Record what the check of the run and its driver need of an event."""
        reading = self.reading
        if type == b"content":
            event = json.loads(data)
            if event["content"] != event["data"]["content"]:
                raise InvalidStream("the flat and the nested content differ")
            reading.answer.append(event["content"])
        elif type == b"end":
            reading.end_status = json.loads(data)["status"]
        elif type == b"hitl":
            reading.request_id = json.loads(data)["requestId"]
            reading.hitl_at = time.perf_counter()
            if self._on_hitl is not None:
                self._on_hitl(reading)

    def _end(self) -> None:
        result, self._result = self._result, None
        if result is None or result.done():
            return
        if self.reading.status == 200 and not self.reading.ended_at:
            result.set_exception(InvalidStream("no [DONE]"))
        else:
            result.set_result(self.reading)


APPROVE = """
local decided = '"status":"approved","approvedBy":"bench","approvedAt":' .. ARGV[1]
local request = string.gsub(redis.call('GET', KEYS[1]), '"status":"pending"', decided)
redis.call('SET', KEYS[1], request, 'EX', 1800)
"""
"""Sets the fields of the decision and keeps all others, which a MAC covers."""


class Approver(asyncio.Protocol):
    """Approves requests as the Main Service does (CONTRACT §5): updates the request, stores the signal, publishes it.

    It does not wait for Redis' replies, so that only Redis is between the approval and the service.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, port: int) -> Approver:
        approver = cls()
        await asyncio.get_running_loop().create_connection(lambda: approver, "127.0.0.1", port)
        return approver

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, if not by descent

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def approve(self, reading: Reading) -> None:
        session_id, request_id = reading.session_id, reading.request_id
        now = int(time.time() * 1000)
        signal = {"type": "approval", "requestId": request_id, "status": "approved", "timestamp": now // 1000}
        raw = json.dumps(signal)
        commands = [
            ("EVAL", APPROVE, "1", f"hitl:request:{request_id}", str(now)),
            ("SET", f"hitl:signal:{session_id}", raw, "EX", "300"),
            ("PUBLISH", f"hitl:channel:{session_id}", raw),
        ]
        assert self._transport is not None
        self._transport.write(b"".join(_encode_command(command) for command in commands))


def _encode_command(command: tuple[str, ...]) -> bytes:
    parts = [part.encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
