"""Bodies of requests: the token comes first, all bodies together have a budget, and their end is unambiguous."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ServiceBusy
from app.web.requests import BodyBudget, RequestBody
from tests.harness.raw import MakeSettings
from tests.harness.service import STREAM, Aura, headers, running

KIB = 1024


class RawRequest:
    """A request that is sent piece by piece, and its response."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, aura: Aura, path: str, fields: dict[str, str], method: str = "POST") -> RawRequest:
        host, _, port = aura.url.removeprefix("http://").partition(":")
        request = cls(*await asyncio.open_connection(host, int(port)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": host, **fields}.items())
        request.writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
        return request

    async def head(self, seconds: float = 1.0) -> tuple[int, dict[str, str]]:
        """Return status and headers, which must come within `seconds`."""
        async with asyncio.timeout(seconds):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        return int(first.split(" ")[1]), {name.lower(): value for name, _, value in pairs}

    async def rest(self, seconds: float = 5.0) -> bytes:
        """Return everything until the server closes the connection, which must be within `seconds`."""
        async with asyncio.timeout(seconds):
            return await self.reader.read()


def posting(length: int, **more: str) -> dict[str, str]:
    return {**headers(**more), "Content-Type": "application/json", "Content-Length": str(length)}


@pytest.mark.slow
@pytest.mark.parametrize("path", [STREAM, "/aura/hitl/approve/req-1"])
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_caller_without_a_valid_token_is_answered_before_it_has_sent_a_byte_of_its_body(
    settings: MakeSettings, path: str, accept: str
) -> None:
    async with running(settings()) as aura:
        for changed, status in (
            ({"Authorization": "Bearer x"}, 401),
            ({"X-Tenant-ID": "tenant2"}, 403),
            ({"X-User-ID": "user2"}, 403),
        ):
            request = await RawRequest.open(aura, path, {**posting(1000, Accept=accept), **changed})
            assert (await request.head())[0] == status
            began = time.monotonic()
            await request.rest()
            assert time.monotonic() - began < 4, "the connection waits for the body for a short time only"


async def test_a_refused_caller_that_sends_its_body_late_gets_the_answer_and_keeps_the_connection(
    settings: MakeSettings,
) -> None:
    async with running(settings()) as aura:
        fields = {**posting(4, Accept="application/json"), "Authorization": "Bearer x"}
        request = await RawRequest.open(aura, STREAM, fields)
        status, head = await request.head()
        body = json.loads(await request.reader.readexactly(int(head["content-length"])))
        assert (status, body["errorCode"]) == (401, "E2003")
        request.writer.write(b"body" + b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await request.head())[0] == 200
        request.writer.close()


async def test_many_slow_bodies_use_up_their_budget_and_small_ones_still_pass(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="네."))
    async with running(settings(aura_body_megabytes=2)) as aura:
        slow = [await RawRequest.open(aura, STREAM, posting(1024 * KIB)) for _ in range(4)]
        for request in slow:
            request.writer.write(b'{"prompt": "' + b"x" * 900 * KIB)
        refused = [index for index, request in enumerate(slow) if await _refusal(request) == (503, "1")]
        assert len(refused) == 2, "two of 900 KiB fit into 2 MiB"
        response = await aura.client.post(STREAM, json={"prompt": "안녕"}, headers=headers())
        assert response.status_code == 200
        for request in slow:
            request.writer.close()


async def _refusal(request: RawRequest) -> tuple[int, str | None] | None:
    """Return status and `Retry-After` of the answer; None where there is none yet."""
    try:
        status, head = await request.head(0.5)
    except TimeoutError:
        return None
    return status, head.get("retry-after")


async def test_memory_of_bodies_is_free_again_after_any_end(settings: MakeSettings) -> None:
    async with running(settings(aura_body_megabytes=1)) as aura:
        for _ in range(5):
            left = await RawRequest.open(aura, STREAM, posting(1024 * KIB))
            left.writer.write(b"x" * 700 * KIB)
            await left.writer.drain()
            left.writer.transport.abort()
            big = {"prompt": "x", "context": {"a": "x" * 300 * KIB}}  # too large a context: read, then refused
            response = await aura.client.post(STREAM, json=big, headers=headers(Accept="application/json"))
            assert response.json()["errorCode"] == "E4000"


async def test_largest_body_gives_way_to_the_others() -> None:
    budget = BodyBudget(100)
    small, large, next_one = (RequestBody(None, None) for _ in range(3))
    for body in (small, large, next_one):
        body.share(budget)
    small.append(b"x" * 20)
    large.append(b"x" * 70)
    next_one.append(b"x" * 30)
    with pytest.raises(ServiceBusy):
        await large
    large.append(b"x" * 70)  # still arriving, and kept nowhere
    assert budget.held_bytes == 50
    for body, size in ((small, 20), (next_one, 30)):
        body.set_complete()
        assert await body == b"x" * size
        assert await body == b"x" * size, "it can be read again"
    assert budget.held_bytes == 0


# --- where a request ends -------------------------------------------------------------------------------------------

_SMUGGLED = b"0\r\n\r\nGET /aura/info HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("path", [STREAM, "/health", "/nowhere"])
async def test_two_lengths_of_a_body_are_refused_and_nothing_after_them_is_a_request(
    settings: MakeSettings, path: str
) -> None:
    with capture_logs() as logs:
        async with running(settings()) as aura:
            fields = {**posting(len(_SMUGGLED), Accept="application/json"), "Transfer-Encoding": "chunked"}
            request = await RawRequest.open(aura, path, fields)
            request.writer.write(_SMUGGLED)
            status, head = await request.head()
            assert (status, head["connection"]) == (400, "close")
            answer = await request.rest()
            body = json.loads(answer)  # and no second response
            assert body["errorCode"] == "E1001"
            assert "Transfer-Encoding" in body["message"]
    assert [line["status"] for line in logs if line["event"] == "request.refused"] == [400]


async def test_chunked_body_of_http_1_0_is_refused_and_a_chunked_one_of_http_1_1_is_read(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="네."))
    content = b'{"prompt": "hello"}'
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    async with running(settings()) as aura:
        host, _, port = aura.url.removeprefix("http://").partition(":")
        for version, expected in (("1.0", b"400"), ("1.1", b"200")):
            reader, writer = await asyncio.open_connection(host, int(port))
            fields = {**headers(), "Host": host, "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            writer.write(f"POST {STREAM} HTTP/{version}\r\n{lines}\r\n".encode() + chunked)
            assert (await reader.readline()).split()[1] == expected
            if expected == b"200":
                await reader.readuntil(b"[DONE]")
            writer.close()
