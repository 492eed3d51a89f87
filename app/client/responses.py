"""Reads the service's HTTP responses: envelopes, errors in an envelope or in an `error` event (§1.4)."""

from __future__ import annotations

import contextlib
import json

import httpx2

from .decoding import JsonObject
from .events import ErrorRaised
from .frames import FrameParser, StreamDamaged, parse_event

RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed."""
_MAX_ERROR_BODY_BYTES = 64 * 1024


class ClientError(Exception):
    """The base of the errors that the client raises. The message is one line for a person."""


class ServiceUnreachable(ClientError):
    """No connection could be opened, so nothing was sent."""


class ApiError(ClientError):
    """The service answered with an error: an HTTP status, an error code (§1.4) and a message."""

    def __init__(self, status: int, code: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{message} (HTTP {status}{f', {code}' if code else ''})")
        self.status, self.code, self.retry_after_seconds = status, code, retry_after_seconds


class ConnectionLost(ClientError):
    """The connection broke and could not be restored within the retry timeout. The run itself continues."""


class TokenUnreadable(ClientError):
    """The token is not a JWT with the claims `sub` and `tenant_id`."""


async def raise_for_status(response: httpx2.Response) -> None:
    """Return if the status is a success. Raises `ApiError` with the service's code and message otherwise."""
    if response.is_success:
        return
    body = b""
    with contextlib.suppress(httpx2.TransportError):
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MAX_ERROR_BODY_BYTES:
                break
    code, message = _parse_error(body, is_stream=is_stream(response))
    retry_after = response.headers.get("Retry-After", "")
    seconds = float(retry_after) if retry_after.isdigit() else None
    raise ApiError(response.status_code, code, message or response.reason_phrase or "no reason given", seconds)


def is_stream(response: httpx2.Response) -> bool:
    """Return whether the response is an event stream."""
    media_type: str = response.headers.get("Content-Type", "")
    return media_type.startswith("text/event-stream")


def json_object(body: bytes) -> JsonObject:
    """Return the JSON object in a body, or an empty one where the body contains something else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def error_text(error: Exception) -> str:
    """Return the message of an error, or its class name where it has no message, as timeouts."""
    return str(error) or type(error).__name__


def _parse_error(body: bytes, *, is_stream: bool) -> tuple[str, str]:
    """Return the error code and the message of an error response; empty text where it has none."""
    if not is_stream:
        envelope = json_object(body)
        return str(envelope.get("errorCode") or ""), str(envelope.get("message") or "")
    with contextlib.suppress(StreamDamaged):
        for frame in FrameParser().feed(body):
            event = parse_event(frame).event
            if isinstance(event, ErrorRaised):
                return event.error_code, event.message
    return "", ""
