"""Read-only views of runs for operators and clients: lists, one run in detail, open approval requests. No secrets.

A list is made of summaries and never loads a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

from app.ports.clock import Clock
from app.ports.decisions import ApprovalRequest, ApprovalRequests
from app.ports.identity import Principal
from app.ports.journal import ListedRun, RunIndex
from app.ports.responses import (
    AgentMetadata,
    AgentStep,
    ModelTurnRecord,
    PendingApproval,
    PendingRequest,
    RequestPage,
    RunDetails,
    RunPage,
    RunSummary,
    TokenUsage,
    ToolCallRecord,
)
from app.runs.access import AccessPolicy
from statemachine.call import ToolCall
from statemachine.checkpoint import Checkpoint, ModelTurn, PlanStep, Usage
from statemachine.states import State
from statemachine.stored import JsonObject
from statemachine.views.snapshot import RunSnapshot
from statemachine.views.summary import Summary
from statemachine.views.timeline import Timeline, timeline

_MAX_SCANNED = 1000
MAX_PER_PAGE = 100
_REQUEST_CHARACTERS = 1024 * 1024
"""A page ends when its approval requests have this size: the arguments of each may have 64 KiB."""
_REQUESTS_AT_ONCE = 10


class RunQueries:
    """Builds the answers of the runs API: lists from summaries, a run in detail from its checkpoint."""

    def __init__(
        self,
        journal: RunIndex,
        requests: ApprovalRequests,
        clock: Clock,
        access: AccessPolicy,
        describe_step: Callable[[Checkpoint, PlanStep], JsonObject],
    ) -> None:
        """`describe_step` returns a step as the platform's `AgentStep`."""
        self._describe_step = describe_step
        self._journal = journal
        self._requests = requests
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
        found: list[tuple[int, str, Summary]] = []
        position, has_more = offset, True
        while has_more and len(found) < limit and position < offset + _MAX_SCANNED:
            count = MAX_PER_PAGE if state is not None else limit - len(found)
            listed = await self._journal.list_runs(
                principal.tenant_id, user_id, position, count, may_be_archived=state is None or state.is_final
            )
            found += _in_state(listed.runs, position, state)
            position, has_more = position + len(listed.runs), listed.has_more
            if listed.is_cut:
                break
        if len(found) > limit:
            position, has_more = found[limit - 1][0] + 1, True
        runs, left_at = await self._with_requests(found[:limit])
        if left_at is not None:
            position, has_more = left_at, True
        return {"runs": runs, "nextOffset": position} if has_more else {"runs": runs}

    async def _with_requests(self, found: list[tuple[int, str, Summary]]) -> tuple[list[RunSummary], int | None]:
        """Return the runs as they are listed, with their approval requests.

        If these are too large together, the position of the first run that is left out is returned too.
        """
        runs: list[RunSummary] = []
        size = 0
        for start in range(0, len(found), _REQUESTS_AT_ONCE):
            part = found[start : start + _REQUESTS_AT_ONCE]
            request_ids = [it.request_id for _, _, it in part if it.request_id is not None]
            requests = dict(zip(request_ids, await self._requests.get_many(request_ids), strict=True))
            for position, session_id, summary in part:
                request = requests.get(summary.request_id) if summary.request_id is not None else None
                size += len(request.raw) if request is not None else 0
                if size > _REQUEST_CHARACTERS and runs:
                    return runs, position
                runs.append(self._listed(session_id, summary, request))
        return runs, None

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

    async def details(self, checkpoint: Checkpoint, task_id: str | None) -> RunDetails:
        """Describe one run: checkpoint without secrets, tool calls, timings, usage, its task in the Main Service."""
        approval = checkpoint.open_approval
        request = await self._requests.get(approval.request_id) if approval is not None else None
        return {
            **self._listed(checkpoint.session_id, Summary.of(checkpoint), request),
            "agentVersion": None if checkpoint.agent is None else checkpoint.agent.version,
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

    def agent_metadata(self, checkpoint: Checkpoint) -> AgentMetadata:
        """Return what the platform shows of the run beside its data (§1.4)."""
        steps = [cast("AgentStep", self._describe_step(checkpoint, step)) for step in checkpoint.plan]
        metadata: AgentMetadata = {
            "traceId": checkpoint.request.trace_id,
            "steps": steps,
            "additionalData": {
                "sessionId": checkpoint.session_id,
                "state": checkpoint.state,
                "turn": checkpoint.turn,
                "progress": round(checkpoint.plan_progress, 2),
            },
        }
        stated = [*(step.confidence for step in checkpoint.plan), *(call.confidence for call in checkpoint.calls)]
        values = [confidence.value for confidence in stated if confidence.source != "none"]
        return {**metadata, "confidence": min(values)} if values else metadata

    def timeline(self, checkpoint: Checkpoint) -> Timeline:
        """Return the timeline of the run until now."""
        return timeline(checkpoint, self._clock.now())

    def snapshot(self, checkpoint: Checkpoint) -> RunSnapshot:
        """Return the snapshot of the run that diagrams show."""
        return RunSnapshot.of(checkpoint, self._clock.now())

    def _listed(self, session_id: str, summary: Summary, request: ApprovalRequest | None) -> RunSummary:
        """Return a run as it is listed, with the approval request that it waits for."""
        run: RunSummary = {
            "sessionId": session_id,
            "threadId": summary.thread_id or session_id,
            "userId": summary.user_id,
            "traceId": summary.trace_id,
            "state": summary.state,
            "createdAt": summary.created_at,
            "updatedAt": summary.updated_at,
            "ageSeconds": round(self._clock.now() - summary.created_at, 3),
            "promptHead": summary.prompt_head,
        }
        if summary.agent_id is not None:
            run["agentId"] = summary.agent_id
        if summary.agent is not None:
            run["agent"] = summary.agent
        if request is not None and _may_be_shown(request, session_id):
            run["pendingApproval"] = self._pending(request)
        return run

    def _pending(self, request: ApprovalRequest) -> PendingApproval:
        shown, position, total = request.stored, *request.place
        return {
            "requestId": request.request_id,
            "actionType": request.action_type,
            "message": str(shown.get("message", "")),
            "context": request.arguments,
            "warnings": shown.get("warnings", []),
            "expiresAt": int(request.expires_at),
            "secondsLeft": round(max(0.0, request.expires_at - self._clock.now()), 3),
            "outcomeUnknown": shown.get("outcomeUnknown") is True,
            "queued": total - position,
            "argumentsDigest": request.arguments_digest,
            "position": position,
            "total": total,
        }


def _may_be_shown(request: ApprovalRequest, session_id: str) -> bool:
    """Return whether it is the run's own request as this service wrote it; nobody can decide any other one."""
    return request.is_intact and request.session_id == session_id and math.isfinite(request.expires_at)


def _in_state(runs: list[ListedRun], offset: int, state: State | None) -> list[tuple[int, str, Summary]]:
    """Return the runs in that state, or in any, each with its position in the whole list."""
    return [
        (position, run.session_id, run.summary)
        for position, run in enumerate(runs, offset)
        if run.summary is not None and state in (None, run.summary.state)
    ]


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
