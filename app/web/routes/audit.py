"""`/aura/audit`: the record of decisions, for auditors of the tenant."""

from __future__ import annotations

from quart import Blueprint, Response, request

from app.ports.audit import AuditPages
from app.ports.responses import AuditPage
from app.runs.access import AccessPolicy
from app.web.auth import Authenticator
from app.web.openapi.operations import operation
from app.web.responses import ResponseBuilder
from app.web.validation import AuditQuery, read_query


def audit_routes(auth: Authenticator, access: AccessPolicy, pages: AuditPages, responses: ResponseBuilder) -> Blueprint:
    routes = Blueprint("audit", __name__, url_prefix="/aura")

    @routes.get("/audit")
    @operation(
        "List the record of decisions of the caller's tenant, newest first; for the roles in AURA_AUDITOR_ROLES.",
        data=AuditPage,
        query=AuditQuery,
    )
    async def list_entries() -> Response:
        principal = auth.authenticate(request.headers)
        access.check_auditor(principal)
        query = read_query(request, AuditQuery)
        page = await pages.page(
            principal.tenant_id,
            cursor=query.cursor,
            limit=query.limit,
            kind=query.kind,
            session_id=query.session_id,
        )
        return responses.success(page)

    return routes
