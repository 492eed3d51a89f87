"""`/aura/runs…`: see runs and where their time went, cancel one. `/aura/hitl/pending`: what waits for a decision."""

from __future__ import annotations

import re

from quart import Blueprint, Response, request

from app.auth import Authenticator
from app.errors import FieldInvalid, RunEnded
from app.records import MOST_PER_PAGE, RunRecords
from app.resume import Resumption
from app.routes.answers import Answers
from app.runs import RunService
from statemachine.frames import compact_json
from statemachine.timeline import chrome_trace

_PAGE = 20


def run_routes(
    auth: Authenticator,
    runs: RunService,
    records: RunRecords,
    resumption: Resumption,
    answers: Answers,
) -> Blueprint:
    routes = Blueprint("runs", __name__, url_prefix="/aura")

    @routes.get("/runs")
    async def listing() -> Response:
        page = await records.page(
            auth.authenticate(request.headers),
            state=request.args.get("state") or None,
            only_own=request.args.get("scope") == "own",
            offset=_number("offset", 0, 1_000_000),
            limit=_number("limit", _PAGE, MOST_PER_PAGE, least=1),
        )
        return answers.success(page)

    @routes.get("/hitl/pending")
    async def pending() -> Response:
        page = await records.pending(
            auth.authenticate(request.headers),
            offset=_number("offset", 0, 1_000_000),
            limit=_number("limit", _PAGE, MOST_PER_PAGE, least=1),
        )
        return answers.success(page)

    @routes.get("/runs/<session_id>")
    async def show(session_id: str) -> Response:
        record, checkpoint = await resumption.run(auth.authenticate(request.headers), session_id)
        return answers.success(records.whole(checkpoint, record.task_id))

    @routes.get("/runs/<session_id>/timeline")
    async def timeline(session_id: str) -> Response:
        format = request.args.get("format") or "json"
        if format not in ("json", "trace"):
            raise FieldInvalid(f"format: {format[:40]!r} is none of json, trace")
        _, checkpoint = await resumption.run(auth.authenticate(request.headers), session_id)
        shown = records.timeline(checkpoint)
        if format == "json":
            return answers.success(shown.to_json_object())
        response = Response(compact_json(chrome_trace(shown)), content_type="application/json")
        response.headers["Content-Disposition"] = f'attachment; filename="{_file_name(session_id)}.trace.json"'
        return response

    @routes.post("/runs/<session_id>/cancel")
    @routes.delete("/runs/<session_id>")
    async def cancel(session_id: str) -> Response:
        principal = auth.authenticate(request.headers)
        await resumption.visible(principal, session_id)
        if not await runs.cancel(session_id, principal.user_id):
            raise RunEnded(f"the run {session_id} has ended; there is nothing to cancel")
        return answers.success({"sessionId": session_id, "status": "cancelling"}, status=202)

    return routes


def _file_name(session_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", session_id)[:120]


def _number(name: str, default: int, most: int, *, least: int = 0) -> int:
    text = request.args.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise FieldInvalid(f"{name}: a number from {least} to {most} is required")
    return int(text)
