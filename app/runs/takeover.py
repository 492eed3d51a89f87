"""Claiming a run whose node has ended, and loading it."""

from __future__ import annotations

from contextlib import suppress

from structlog.contextvars import bind_contextvars

from app.errors import RecordChanged, RunLost
from app.ports.nodes import Claim
from app.runs.changed_records import checkpoint_gone, close_request, empty_checkpoint, end_of_changed
from app.runs.task import RunPorts, RunTask, Start
from statemachine.messages import RunRecovered
from statemachine.states import State
from statemachine.streamed_text import streamed_text


async def claim_run(ports: RunPorts, session_id: str, claim: Claim) -> tuple[RunTask, Start] | None:
    """Claim a run. Returns its task and how that begins; None where another node has the run, or it has expired.

    A run whose record another program has changed is claimed to be ended, and its request is closed.
    Raises `CheckpointTooNew`, `CheckpointUnreadable`, `StorageUnavailable`.
    """
    journal = ports.journal
    with suppress(RecordChanged):
        readable = await journal.load(session_id)
        if readable is not None:  # the log line about the claim has the run's identity
            bind_contextvars(traceId=readable.request.trace_id, tenantId=readable.request.tenant_id)
    lock = await claim()
    if lock is None:
        return None
    try:
        checkpoint = await journal.load(session_id)
        if checkpoint is None:
            raise checkpoint_gone(session_id)
    except RecordChanged as error:
        try:
            checkpoint = await empty_checkpoint(journal, lock)
        except RunLost:
            return None
        await close_request(journal, ports.requests, session_id)
        return RunTask(ports, lock, checkpoint), Start(fact=end_of_changed(session_id, error))
    streamed = ""
    if checkpoint.state is State.CONTENT:
        streamed = streamed_text([body async for body in journal.read_bodies(session_id)])
    return RunTask(ports, lock, checkpoint), Start(fact=RunRecovered(streamed), log_event="run.recovered")
