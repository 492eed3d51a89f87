"""How a run ends whose record another program has changed (CONTRACT §5): nothing runs, and its stream ends well."""

from __future__ import annotations

import structlog

from app.errors import RecordChanged, RunLost
from app.ports.decisions import ApprovalRequests, RequestStatus
from app.ports.journal import Journal, RunLock
from statemachine.checkpoint import Checkpoint, Limits, RunRequest
from statemachine.messages import InternalErrorOccurred

_UNKNOWN = "(이 실행의 기록이 변경되어 표시할 수 없습니다.)"

log = structlog.get_logger(__name__)


def end_of_changed(session_id: str, error: RecordChanged) -> InternalErrorOccurred:
    """Name in the log what was changed, and return the fact that ends the run."""
    log.error("record.changed", sessionId=session_id, cause=error.cause)
    return InternalErrorOccurred(error.prefix, error.error_type, error.code)


def changed_request(request_id: str) -> RecordChanged:
    """Return the error about an open request that does not show what would run."""
    return RecordChanged(f"the approval request {request_id} does not show what would run")


def checkpoint_gone(session_id: str) -> RecordChanged:
    """Return the error about a run that exists, but whose checkpoint does not."""
    return RecordChanged(f"the checkpoint of {session_id} is gone")


async def empty_checkpoint(journal: Journal, lock: RunLock) -> Checkpoint:
    """Return a checkpoint from which a run can be ended whose own cannot be trusted.

    Nothing of the changed one is in it: what others wrote must neither run nor reach the thread's later runs.
    Raises `RunLost` where the run has expired, `StorageUnavailable`.
    """
    record = await journal.get_record(lock.session_id)
    if record is None:
        raise RunLost(lock.session_id, "its data is gone from Redis")
    request = RunRequest(
        session_id=lock.session_id,
        thread_id=lock.session_id,
        user_id=record.user_id,
        tenant_id=record.tenant_id,
        trace_id=lock.session_id,
        prompt=_UNKNOWN,
    )
    return Checkpoint(
        request=request,
        limits=Limits(),
        created_at=lock.created_at,
        updated_at=lock.created_at,
        messages=[{"role": "user", "content": _UNKNOWN}],
    )


async def close_request(journal: Journal, requests: ApprovalRequests, session_id: str) -> None:
    """Close the request for which a run waits whose checkpoint cannot be trusted. Raises `StorageUnavailable`."""
    request_id = await journal.open_request_id(session_id)
    request = None if request_id is None else await requests.get(request_id)
    if request is not None and request.is_intact and request.session_id == session_id:
        await requests.close(request.request_id, RequestStatus.CANCELLED)
