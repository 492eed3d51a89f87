"""`/aura/approvals/…`: the approvals for Aura's own clients, with what the Main Service does not know (§1, §5).

An approval names the digest of the arguments that the person saw. Edited arguments come in here.
"""

from __future__ import annotations

from typing import cast

from quart import Blueprint, Response, request

from app.errors import NotFound, RecordChanged
from app.ports.decisions import ApprovalRequest
from app.ports.responses import ApprovalDetails, DecisionResult
from app.runs.approvals import ApprovalService
from app.web.auth import Authenticator
from app.web.openapi.operations import operation
from app.web.responses import ResponseBuilder
from app.web.routes.hitl import RETRIEVED, decide
from app.web.validation import ApproveBody, RejectBody

_SHOWN = frozenset(ApprovalDetails.__annotations__)


def approval_routes(auth: Authenticator, approvals: ApprovalService, responses: ResponseBuilder) -> Blueprint:
    routes = Blueprint("approvals", __name__, url_prefix="/aura/approvals")

    @routes.get("/<request_id>")
    @operation("Return an approval request.", data=ApprovalDetails, errors=(NotFound, RecordChanged))
    async def show(request_id: str) -> Response:
        found = await approvals.request(auth.authenticate(request.headers), request_id)
        return responses.success(_details(found), message=RETRIEVED)

    @routes.post("/<request_id>/approve")
    @operation(
        "Approve a request, with the digest of the arguments that the person saw; 409: it was decided earlier, or its"
        " deadline has passed.",
        data=DecisionResult,
        further_responses={409: DecisionResult},
        body=ApproveBody,
        is_user_required=True,
        errors=(NotFound, RecordChanged),
    )
    async def approve(request_id: str) -> Response:
        return await decide(auth, approvals, responses, request_id, "approved", ApproveBody)

    @routes.post("/<request_id>/reject")
    @operation(
        "Reject a request; 409: it was decided earlier, or its deadline has passed.",
        data=DecisionResult,
        further_responses={409: DecisionResult},
        body=RejectBody,
        is_body_required=False,
        is_user_required=True,
        errors=(NotFound, RecordChanged),
    )
    async def reject(request_id: str) -> Response:
        return await decide(auth, approvals, responses, request_id, "rejected", RejectBody)

    return routes


def _details(found: ApprovalRequest) -> ApprovalDetails:
    shown = {"warnings": [], **{name: value for name, value in found.stored.items() if name in _SHOWN}}
    decision = found.decision
    if decision is not None:
        shown |= {"decidedAt": decision.decided_at, "via": decision.via, "deciderTold": decision.via == "redis"}
        shown |= {"decidedBy": decision.decided_by} if decision.decided_by is not None else {}
    return cast("ApprovalDetails", {**shown, "status": found.status})
