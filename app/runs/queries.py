"""Read-only views of runs for operators and clients: lists, one run in detail, open approval requests. No secrets."""

from __future__ import annotations

from app.ports.clock import Clock
from app.ports.identity import Principal
from app.ports.journal import Journal
from app.ports.responses import (
    ModelTurnRecord,
    PendingRequest,
    RequestPage,
    RunDetails,
    RunPage,
    RunSummary,
    TokenUsage,
    ToolCallRecord,
)
from app.runs.access import AccessPolicy
from statemachine.checkpoint import Checkpoint, ModelTurn, ToolCall, Usage
from statemachine.states import State
from statemachine.views.snapshot import RunSnapshot
from statemachine.views.timeline import Timeline, timeline

_PROMPT_HEAD_CHARACTERS = 120
_MAX_SCANNED = 1000
MAX_PER_PAGE = 100


class RunQueries:
    """Builds the answers of the runs API from checkpoints."""

    def __init__(self, journal: Journal, clock: Clock, access: AccessPolicy) -> None:
        self._journal = journal
        self._clock = clock
        self._access = access

    async def page(
        self, principal: Principal, *, state: State | None, only_own: bool, offset: int, limit: int
    ) -> RunPage:
        """List runs, newest first: the caller's own, or for approver roles the whole tenant's unless `only_own`.

        `nextOffset` in the result is the offset of the next page; it is absent on the last page.
        """
        sees_all = self._access.sees_whole_tenant(principal) and not only_own
        user_id = None if sees_all else principal.user_id
        runs: list[RunSummary] = []
        next_offset: int | None = offset
        while next_offset is not None and len(runs) < limit and next_offset < offset + _MAX_SCANNED:
            found = await self._journal.list_runs(principal.tenant_id, user_id, next_offset, MAX_PER_PAGE)
            for position, checkpoint in enumerate(found.checkpoints):
                if checkpoint is not None and state in (None, checkpoint.state):
                    runs.append(self._summary(checkpoint))
                    if len(runs) == limit:
                        return {"runs": runs, "nextOffset": next_offset + position + 1}
            next_offset = next_offset + MAX_PER_PAGE if found.has_more else None
        return {"runs": runs} if next_offset is None else {"runs": runs, "nextOffset": next_offset}

    async def pending(self, principal: Principal, *, offset: int, limit: int) -> RequestPage:
        """List open approval requests: the caller's own, or for approver roles the whole tenant's."""
        page = await self.page(principal, state=State.AWAITING_APPROVAL, only_own=False, offset=offset, limit=limit)
        requests: list[PendingRequest] = [
            {**run["pendingApproval"], "sessionId": run["sessionId"]}
            for run in page["runs"]
            if "pendingApproval" in run
        ]
        if "nextOffset" in page:
            return {"requests": requests, "nextOffset": page["nextOffset"]}
        return {"requests": requests}

    def details(self, checkpoint: Checkpoint, task_id: str | None) -> RunDetails:
        """Describe one run: checkpoint without secrets, tool calls, timings, usage, its task in the Main Service."""
        return {
            **self._summary(checkpoint),
            "taskId": task_id,
            "schemaVersion": checkpoint.schema_version,
            "prompt": checkpoint.request.prompt,
            "context": checkpoint.request.context,
            "turn": checkpoint.turn,
            "history": {
                "messages": checkpoint.history_messages,
                "omittedTurns": checkpoint.omitted_turns,
                "isShortened": checkpoint.is_history_shortened,
            },
            "plan": [step.to_json_object() for step in checkpoint.plan],
            "ledger": [_tool_call_record(call) for call in checkpoint.calls],
            "modelTurns": [_model_turn_record(turn) for turn in checkpoint.model_turns],
            "path": [passage.to_json_object() for passage in checkpoint.path],
            "answer": _answer(checkpoint),
            "usage": _token_usage(checkpoint.usage),
            "spentTokens": checkpoint.spent_tokens,
            "reservedTokens": checkpoint.reserved_tokens,
            "limits": checkpoint.limits.to_json_object(),
            "ending": checkpoint.ending.to_json_object() if checkpoint.ending else None,
            "cancelledBy": checkpoint.cancelled_by,
            "runDeadlineAt": checkpoint.run_deadline_at,
        }

    def timeline(self, checkpoint: Checkpoint) -> Timeline:
        """Return the timeline of the run until now."""
        return timeline(checkpoint, self._clock.now())

    def snapshot(self, checkpoint: Checkpoint) -> RunSnapshot:
        """Return the snapshot of the run that diagrams show."""
        return RunSnapshot.of(checkpoint, self._clock.now())

    def _summary(self, checkpoint: Checkpoint) -> RunSummary:
        request, approval = checkpoint.request, checkpoint.open_approval
        summary: RunSummary = {
            "sessionId": request.session_id,
            "threadId": request.thread_id,
            "userId": request.user_id,
            "traceId": request.trace_id,
            "state": checkpoint.state,
            "createdAt": checkpoint.created_at,
            "updatedAt": checkpoint.updated_at,
            "ageSeconds": round(self._clock.now() - checkpoint.created_at, 3),
            "promptHead": request.prompt[:_PROMPT_HEAD_CHARACTERS],
        }
        if request.agent_id is not None:
            summary["agentId"] = request.agent_id
        if approval is not None and checkpoint.deadline_at is not None:
            call = checkpoint.call(approval.call_id)
            position, total = checkpoint.approval_place
            summary["pendingApproval"] = {
                "requestId": approval.request_id,
                "actionType": approval.action_type,
                "message": approval.message,
                "context": call.shown_arguments if call else {},
                "warnings": call.warnings_as_json() if call else [],
                "expiresAt": int(checkpoint.deadline_at),
                "secondsLeft": round(max(0.0, checkpoint.deadline_at - self._clock.now()), 3),
                "outcomeUnknown": approval.outcome_unknown,
                "queued": len(checkpoint.pending_approvals) - 1,
                "argumentsDigest": approval.arguments_digest,
                "position": position,
                "total": total,
            }
        return summary


def _tool_call_record(call: ToolCall) -> ToolCallRecord:
    return {
        "toolCallId": call.id,
        "toolName": call.name,
        "toolArgs": call.shown_arguments,
        "warnings": call.warnings_as_json(),
        "turn": call.turn,
        "status": call.status,
        "requiresApproval": call.needs_approval,
        "idempotent": call.idempotent,
        "outcomeUnknown": call.outcome_unknown,
        "result": call.result,
        "error": call.error,
        "startedAt": call.started_at,
        "endedAt": call.ended_at,
        "decision": call.grant.to_json_object() if call.grant else None,
    }


def _model_turn_record(turn: ModelTurn) -> ModelTurnRecord:
    return {
        "turn": turn.turn,
        "attempt": turn.attempt,
        "model": turn.model,
        "outcome": turn.outcome,
        "usage": None if turn.usage is None else _token_usage(turn.usage),
        "startedAt": turn.started_at,
        "endedAt": turn.ended_at,
    }


def _token_usage(usage: Usage) -> TokenUsage:
    tokens: TokenUsage = {
        "promptTokens": usage.prompt_tokens,
        "completionTokens": usage.completion_tokens,
        "totalTokens": usage.total_tokens,
    }
    return {**tokens, "cachedTokens": usage.cached_tokens} if usage.cached_tokens else tokens


def _answer(checkpoint: Checkpoint) -> str | None:
    """Return the whole answer of a run in state `done`, else None."""
    last = checkpoint.messages[-1]
    is_answer = checkpoint.state is State.DONE and last["role"] == "assistant"
    return str(last["content"]) if is_answer else None
