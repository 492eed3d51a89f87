"""`/aura/hitl/…`: read an approval request, decide it, read the last signal (§5), as the Main Service does."""

from __future__ import annotations

from typing import Any

from pydantic import Json
from quart import Blueprint, Response, request

from app.errors import NotFound, PermissionDenied, RecordChanged
from app.ports.decisions import ApprovalRequest, RequestStatus
from app.ports.responses import DecisionResult, Signal, StoredApprovalRequest
from app.runs.approvals import ApprovalService
from app.web.auth import Authenticator
from app.web.openapi.operations import operation
from app.web.refusals import origin_of
from app.web.responses import ResponseBuilder
from app.web.validation import ApproveBody, PlatformApproveBody, PlatformRejectBody, RejectBody, read, validate
from statemachine.decisions import Verdict
from statemachine.frames import compact_json

RETRIEVED = "Approval request retrieved"
_DECIDED = {"approved": "Request approved successfully", "rejected": "Request rejected"}
_CLOSED = {
    RequestStatus.EXPIRED: "Request has expired",
    RequestStatus.CANCELLED: "Request was cancelled with its run",
}
_ALREADY_DECIDED = "Request was already processed (idempotent)"

_DECIDING: dict[str, Any] = {
    "data": DecisionResult,
    "further_responses": {409: DecisionResult},
    "is_body_required": False,
    "is_user_required": True,
    "errors": (NotFound, RecordChanged),
}


def hitl_routes(auth: Authenticator, approvals: ApprovalService, responses: ResponseBuilder) -> Blueprint:
    routes = Blueprint("hitl", __name__, url_prefix="/aura/hitl")

    @routes.get("/requests/<request_id>")
    @operation(
        "Return an approval request as JSON text (§5).",
        data=Json[StoredApprovalRequest],
        errors=(NotFound, RecordChanged),
    )
    async def show(request_id: str) -> Response:
        found = await approvals.request(auth.authenticate(request.headers), request_id)
        return responses.success(compact_json(found.stored), message=RETRIEVED)

    @routes.post("/approve/<request_id>")
    @operation(
        "Approve a request; 409: it was decided earlier, or its deadline has passed.",
        body=PlatformApproveBody,
        **_DECIDING,
    )
    async def approve(request_id: str) -> Response:
        return await decide(auth, approvals, responses, request_id, "approved", PlatformApproveBody)

    @routes.post("/reject/<request_id>")
    @operation(
        "Reject a request; 409: it was decided earlier, or its deadline has passed.",
        body=PlatformRejectBody,
        **_DECIDING,
    )
    async def reject(request_id: str) -> Response:
        return await decide(auth, approvals, responses, request_id, "rejected", PlatformRejectBody)

    @routes.get("/signals/<session_id>")
    @operation("Return the last signal of a session as JSON text (§5).", data=Json[Signal], may_lack_data=True)
    async def signal(session_id: str) -> Response:
        raw = await approvals.signal(auth.authenticate(request.headers), session_id)
        return responses.success(raw, message="No signal found for session" if raw is None else "Signal retrieved")

    return routes


async def decide(
    auth: Authenticator,
    approvals: ApprovalService,
    responses: ResponseBuilder,
    request_id: str,
    verdict: Verdict,
    body_type: type[ApproveBody | RejectBody | PlatformApproveBody],
) -> Response:
    """Decide a request as its caller, with a body of this type, and answer as the Main Service does."""
    principal = auth.authenticate(request.headers, user_required=True)
    body = await read(request, body_type, may_be_empty=True) or validate(body_type, {})
    if body.user_id is not None and body.user_id != principal.user_id:
        raise PermissionDenied("userId differs from the token's sub")
    is_approval = verdict == "approved"
    decided, is_first = await approvals.decide(
        principal,
        request_id,
        verdict,
        arguments_digest=body.arguments_digest,
        reason=body.reason,
        arguments=getattr(body, "params", None) if is_approval else None,
        skip=not is_approval and getattr(body, "skip", False),
        origin=origin_of(request),
    )
    message = _DECIDED[verdict] if is_first else _CLOSED.get(decided.status, _ALREADY_DECIDED)
    return responses.success(_decision_result(decided), message=message, status=200 if is_first else 409)


def _decision_result(decided: ApprovalRequest) -> DecisionResult:
    result: DecisionResult = {
        "requestId": decided.request_id,
        "sessionId": decided.session_id,
        "status": decided.status,
    }
    if decided.reason is not None:
        result["reason"] = decided.reason
    return result
