"""`/aura/runs…`: list runs, read one and its timeline, cancel one. `/aura/approvals`: open approval requests."""

from __future__ import annotations

import re

from quart import Blueprint, Response, request

from app.errors import NotFound, RunEnded
from app.ports.responses import CancelAccepted, RequestPage, RunDetails, RunPage
from app.runs.queries import RunQueries
from app.runs.resume import RunLocator
from app.runs.service import RunService
from app.web.auth import Authenticator
from app.web.openapi.operations import operation
from app.web.responses import ResponseBuilder
from app.web.validation import PageQuery, RunQuery, TimelineQuery, read_query
from statemachine.frames import compact_json
from statemachine.views.timeline import Timeline, chrome_trace


def run_routes(
    auth: Authenticator,
    runs: RunService,
    queries: RunQueries,
    locator: RunLocator,
    responses: ResponseBuilder,
) -> Blueprint:
    routes = Blueprint("runs", __name__, url_prefix="/aura")
    _add_lists(routes, auth, queries, responses)
    _add_views_of_one_run(routes, auth, queries, locator, responses)
    _add_cancellation(routes, auth, runs, locator, responses)
    return routes


def _add_lists(routes: Blueprint, auth: Authenticator, queries: RunQueries, responses: ResponseBuilder) -> None:
    @routes.get("/runs")
    @operation(
        "List runs, newest first: the caller's own, or for approvers those of the tenant.", data=RunPage, query=RunQuery
    )
    async def list_runs() -> Response:
        principal = auth.authenticate(request.headers)
        query = read_query(request, RunQuery)
        page = await queries.page(
            principal, state=query.state, only_own=query.scope == "own", offset=query.offset, limit=query.limit
        )
        return responses.success(page)

    @routes.get("/approvals")
    @routes.get("/hitl/pending")
    @operation(
        "List open approval requests: the caller's own, or for approvers those of the tenant.",
        data=RequestPage,
        query=PageQuery,
    )
    async def pending() -> Response:
        principal = auth.authenticate(request.headers)
        query = read_query(request, PageQuery)
        return responses.success(await queries.pending(principal, offset=query.offset, limit=query.limit))


def _add_views_of_one_run(
    routes: Blueprint, auth: Authenticator, queries: RunQueries, locator: RunLocator, responses: ResponseBuilder
) -> None:
    @routes.get("/runs/<session_id>")
    @operation(
        "Return a complete run, with its tool calls, transitions, token usage and answer.",
        data=RunDetails,
        has_agent_metadata=True,
        errors=(NotFound,),
    )
    async def show(session_id: str) -> Response:
        record, checkpoint = await locator.load(auth.authenticate(request.headers), session_id)
        details = await queries.details(checkpoint, record.task_id)
        return responses.success(details, agent_metadata=queries.agent_metadata(checkpoint))

    @routes.get("/runs/<session_id>/timeline")
    @operation(
        "Return the timeline of a run; with format=trace a Chrome trace file for Perfetto, without the envelope.",
        data=Timeline,
        media_types=("application/json",),
        query=TimelineQuery,
        errors=(NotFound,),
    )
    async def timeline(session_id: str) -> Response:
        principal = auth.authenticate(request.headers)
        query = read_query(request, TimelineQuery)
        _, checkpoint = await locator.load(principal, session_id)
        view = queries.timeline(checkpoint)
        if query.format == "json":
            return responses.success(view.to_json_object())
        response = Response(compact_json(chrome_trace(view)), content_type="application/json")
        response.headers["Content-Disposition"] = f'attachment; filename="{_file_name(session_id)}.trace.json"'
        return response


def _add_cancellation(
    routes: Blueprint, auth: Authenticator, runs: RunService, locator: RunLocator, responses: ResponseBuilder
) -> None:
    @routes.post("/runs/<session_id>/cancel")
    @routes.delete("/runs/<session_id>")
    @operation("Cancel a run in any state, on any node.", data=CancelAccepted, status=202, errors=(NotFound, RunEnded))
    async def cancel(session_id: str) -> Response:
        principal = auth.authenticate(request.headers)
        await locator.get_record(principal, session_id)
        if not await runs.cancel(session_id, principal.user_id):
            raise RunEnded(f"the run {session_id} has ended; there is nothing to cancel")
        accepted: CancelAccepted = {"sessionId": session_id, "status": "cancelling"}
        return responses.success(accepted, status=202)


def _file_name(session_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", session_id)[:120]
