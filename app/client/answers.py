"""What the service's answers mean to a client: its errors, read from an envelope or an `error` event (§1.4)."""

from __future__ import annotations

import contextlib
import json

import httpx2

from app.client.frames import FrameReader, StreamDamaged, received
from statemachine.checkpoint import JsonObject
from statemachine.events import ErrorRaised

TRANSIENT = frozenset({429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
_ERROR_BODY_BYTES = 64 * 1024


class ClientError(Exception):
    """Base of what the client raises; the message is one line for a person."""


class Unreachable(ClientError):
    """Nobody answers at the address. Nothing was sent."""


class Refused(ClientError):
    """The service said no to a request."""

    def __init__(self, status: int, code: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{message} (HTTP {status}{f', {code}' if code else ''})")
        self.status, self.code, self.retry_after_seconds = status, code, retry_after_seconds


class StreamLost(ClientError):
    """The connection broke and did not come back in time; the run goes on without a reader."""


class TokenUnreadable(ClientError):
    """Not a JWT with `sub` and `tenant_id`."""


async def check(response: httpx2.Response) -> None:
    """Raises `Refused` with the service's own words, unless the status says yes."""
    if response.is_success:
        return
    body = b""
    with contextlib.suppress(httpx2.TransportError):
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > _ERROR_BODY_BYTES:
                break
    code, message = _told(body, is_stream=is_stream(response))
    retry_after = response.headers.get("Retry-After", "")
    seconds = float(retry_after) if retry_after.isdigit() else None
    raise Refused(response.status_code, code, message or response.reason_phrase or "no reason given", seconds)


def is_stream(response: httpx2.Response) -> bool:
    media_type: str = response.headers.get("Content-Type", "")
    return media_type.startswith("text/event-stream")


def json_object(body: bytes) -> JsonObject:
    """The object in a body; {} where it is something else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def words(error: Exception) -> str:
    """Timeouts have no words of their own."""
    return str(error) or type(error).__name__


def _told(body: bytes, *, is_stream: bool) -> tuple[str, str]:
    """An error's code and message."""
    if not is_stream:
        answer = json_object(body)
        return str(answer.get("errorCode") or ""), str(answer.get("message") or "")
    with contextlib.suppress(StreamDamaged):
        for frame in FrameReader().feed(body):
            event = received(frame).event
            if isinstance(event, ErrorRaised):
                return event.error_code, event.message
    return "", ""
