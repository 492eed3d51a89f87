"""What a run writes into the log (CONTRACT §8). Each line has the identity of the run, and none has content."""

from __future__ import annotations

import structlog
from structlog.contextvars import bind_contextvars

from app.ports.audit import DecisionApplied
from statemachine.checkpoint import Checkpoint
from statemachine.messages import AwaitDecision, Step

log = structlog.get_logger(__name__)


def bind_run(session_id: str, node_id: str) -> None:
    """Bind to every log line of the current task what is known of a run before it is loaded."""
    bind_contextvars(sessionId=session_id, nodeId=node_id)


def introduce(checkpoint: Checkpoint, log_event: str | None, *, log_content: bool) -> None:
    """Bind the run's identity to every log line of this task, and log its begin, with the agent that it has."""
    request, agent = checkpoint.request, checkpoint.agent
    bind_contextvars(
        traceId=request.trace_id,
        tenantId=request.tenant_id,
        source=request.source,
        callerType=request.caller_type,
    )
    if log_event is not None:
        named = {} if agent is None else {"agent": agent.name, "agentVersion": agent.short_version}
        log.info(log_event, **named, **({"prompt": request.prompt} if log_content else {}))


def log_commit(step: Step) -> None:
    """Log that a step is stored, and that the run now asks a person if it does."""
    log.debug("checkpoint saved", state=step.checkpoint.state.value)
    if isinstance(step.effect, AwaitDecision) and step.events:
        approval = step.effect.approval
        log.info(
            "HITL Interrupt",
            requestId=approval.request_id,
            tool=approval.action_type,
            deadline=int(step.effect.deadline_at),
        )


def log_applied(applied: DecisionApplied) -> None:
    """Log a decision that came through Redis, or that the time is over. One by HTTP is logged where it is made, with
    the role of the person."""
    if applied.verdict == "expired":
        log.info("approval.expired", requestId=applied.request, tool=applied.tool)
    elif applied.via != "http":
        log.info(
            "approval.decided",
            requestId=applied.request,
            tool=applied.tool,
            verdict=applied.verdict,
            userId=applied.user,
            role=None,  # another service does not tell it
            via=applied.via,
            edited=applied.edited,
        )
