"""`/aura/hitl/…`: read an approval request, decide it, read the last signal (§5), as the Main Service does."""

from __future__ import annotations

from typing import Any

from pydantic import Json
from quart import Blueprint, Response, request

from app.errors import NotFound, PermissionDenied
from app.ports.decisions import ApprovalRequest
from app.ports.responses import DecisionResult, Signal, StoredApprovalRequest
from app.runs.approvals import ApprovalService
from app.web.auth import Authenticator
from app.web.openapi.operations import operation
from app.web.responses import ResponseBuilder
from app.web.validation import DecisionBody, read
from statemachine.decisions import Verdict

_DECIDING: dict[str, Any] = {
    "data": DecisionResult,
    "further_responses": {409: DecisionResult},
    "body": DecisionBody,
    "is_body_required": False,
    "is_user_required": True,
    "errors": (NotFound,),
}


def hitl_routes(auth: Authenticator, approvals: ApprovalService, responses: ResponseBuilder) -> Blueprint:
    routes = Blueprint("hitl", __name__, url_prefix="/aura/hitl")

    @routes.get("/requests/<request_id>")
    @operation("Return an approval request as JSON text (§5).", data=Json[StoredApprovalRequest], errors=(NotFound,))
    async def show(request_id: str) -> Response:
        found = await approvals.request(auth.authenticate(request.headers), request_id)
        return responses.success(found.raw, message="승인 요청입니다.")

    @routes.post("/approve/<request_id>")
    @operation("Approve a request; 409: it was decided earlier, or its deadline has passed.", **_DECIDING)
    async def approve(request_id: str) -> Response:
        return await _decide(auth, approvals, responses, request_id, "approved")

    @routes.post("/reject/<request_id>")
    @operation("Reject a request; 409: it was decided earlier, or its deadline has passed.", **_DECIDING)
    async def reject(request_id: str) -> Response:
        return await _decide(auth, approvals, responses, request_id, "rejected")

    @routes.get("/signals/<session_id>")
    @operation(
        "Return the last signal of a session as JSON text (§5).",
        data=Json[Signal],
        may_lack_data=True,
    )
    async def signal(session_id: str) -> Response:
        raw = await approvals.signal(auth.authenticate(request.headers), session_id)
        return responses.success(raw, message="아직 신호가 없습니다." if raw is None else "마지막 신호입니다.")

    return routes


async def _decide(
    auth: Authenticator, approvals: ApprovalService, responses: ResponseBuilder, request_id: str, verdict: Verdict
) -> Response:
    principal = auth.authenticate(request.headers, user_required=True)
    body = await read(request, DecisionBody, may_be_empty=True) or DecisionBody()
    if body.user_id is not None and body.user_id != principal.user_id:
        raise PermissionDenied("userId differs from the token's sub")
    decided, is_first = await approvals.decide(
        principal,
        request_id,
        verdict,
        reason=body.reason,
        arguments=body.params if verdict == "approved" else None,
        skip=body.skip and verdict == "rejected",
    )
    message = "결정이 기록되었습니다." if is_first else "이미 결정되었거나 만료된 요청입니다."
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
