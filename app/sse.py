"""The bytes of a stream: frames with their ids, heartbeats, ends (§2). One frame is one write.

Nothing is written without the characters `id:` in it: the gateway puts an id of its own before any other buffer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog

from app.errors import AuraError, RunLost
from app.ports import Entry
from statemachine.events import End, ErrorRaised
from statemachine.frames import DONE_BODY, Shape, encode

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": keep-alive id:\n\n"
COME_BACK = b": shutting down id:\nretry: 1000\n\n"

log = structlog.get_logger(__name__)


def frame(entry: Entry) -> bytes:
    return b"id: %d\n" % entry.id + entry.body


async def frames(entries: AsyncIterator[Entry | None], session_id: str, shape: Shape) -> AsyncIterator[bytes]:
    """A run's log as it is read, up to the end marker, or to the word to come back where the process leaves."""
    last_id = 0
    try:
        async for entry in entries:
            if entry is None:
                yield HEARTBEAT
                continue
            last_id = entry.id
            yield frame(entry)
            if entry.body == DONE_BODY:
                return
        yield COME_BACK
    except RunLost as error:
        log.warning("stream.lost", sessionId=session_id, cause=error.cause)
        lost = StreamLost("the run's data is gone from Redis")
        for body in refusal(lost, session_id, last_id + 1, shape):
            yield body


class StreamLost(AuraError):
    """The log of a run vanished under its reader (Redis lost its data)."""

    status, code, error_type, retryable = 503, "E5002", "StorageUnavailable", True
    prefix = "실행 기록을 찾을 수 없습니다."


class ResumeExpired(AuraError):
    """There is no run to resume; posting without `Last-Event-ID` starts one (§3)."""

    status, code, error_type, retryable = 200, "E1004", "ResumeExpired", True
    prefix = "이어받을 실행을 찾을 수 없습니다."


def refusal(error: AuraError, session_id: str, first_id: int, shape: Shape) -> list[bytes]:
    """The frames of a stream that ends before, or instead of, its run: `error`, `end`, `[DONE]` (§1.4, §2.3)."""
    timestamp = first_id // 1000
    raised = ErrorRaised(
        message=error.message, error_type=error.error_type, error_code=error.code, retryable=error.retryable
    )
    bodies = [
        *encode(raised, session_id, timestamp, shape),
        *encode(End(message=error.message, status="failed"), session_id, timestamp, shape),
        DONE_BODY,
    ]
    return [frame(Entry(first_id + i, body)) for i, body in enumerate(bodies)]
