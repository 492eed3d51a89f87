"""Log entries as frames of a stream, and the frames with which a stream ends before or instead of its run (§2.3)."""

from __future__ import annotations

from app.errors import AuraError
from app.ports.journal import LogEntry
from statemachine.event_names import Naming
from statemachine.events import End, ErrorRaised
from statemachine.frames import DONE_BODY, Shape, encode

_OWN_NAMES = Naming()


def encode_frame(entry: LogEntry) -> bytes:
    """Return a log entry as the bytes of one SSE frame, with its `id:` line first."""
    return b"id: %d\n" % entry.id + entry.body


class EventLogLost(AuraError):
    """The log of a run disappeared while it was being read, because Redis lost its data."""

    status, code, error_type, retryable = 503, "E5002", "StorageUnavailable", True
    prefix = "실행 기록을 찾을 수 없습니다."


class ResumeExpired(AuraError):
    """A client resumes a run that is unknown or has expired (§3). It is sent as `error` and `end` frames, status 200.

    The client may start a new run: it sends its POST again without `Last-Event-ID`.
    """

    status, code, error_type, retryable = 200, "E1004", "ResumeExpired", True
    prefix = "이어받을 실행을 찾을 수 없습니다."


def error_frames(
    error: AuraError, session_id: str, first_id: int, shape: Shape, naming: Naming = _OWN_NAMES
) -> list[bytes]:
    """Return the frames `error`, `end` and `[DONE]`, which end a stream before or instead of its run (§1.4, §2.3).

    `first_id` is the id of the first frame, in milliseconds since the epoch.
    """
    timestamp = first_id // 1000
    raised = ErrorRaised(
        message=error.message, error_type=error.error_type, error_code=error.code, retryable=error.retryable
    )
    bodies = [
        *encode(raised, session_id, timestamp, shape),
        *encode(End(message=error.message, status="failed"), session_id, timestamp, shape),
        DONE_BODY,
    ]
    named = [body for stored in bodies if (body := naming.apply(stored)) is not None]
    return [encode_frame(LogEntry(first_id + i, body)) for i, body in enumerate(named)]
