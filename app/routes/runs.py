"""`/aura/runs…`: see runs, cancel one. `/aura/hitl/pending`: what waits for a decision."""

from __future__ import annotations

from quart import Blueprint, Response, request

from app.auth import Authenticator
from app.errors import FieldInvalid, NotFound, RunEnded
from app.ports import Journal
from app.records import MOST_PER_PAGE, RunRecords
from app.resume import Resumption
from app.routes.answers import Answers
from app.runs import RunService

_PAGE = 20


def run_routes(
    auth: Authenticator,
    runs: RunService,
    records: RunRecords,
    resumption: Resumption,
    journal: Journal,
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
        await resumption.visible(auth.authenticate(request.headers), session_id)
        checkpoint = await journal.load(session_id)
        if checkpoint is None:
            raise NotFound(f"the run {session_id} is no longer kept")
        return answers.success(records.whole(checkpoint))

    @routes.post("/runs/<session_id>/cancel")
    @routes.delete("/runs/<session_id>")
    async def cancel(session_id: str) -> Response:
        principal = auth.authenticate(request.headers)
        await resumption.visible(principal, session_id)
        if not await runs.cancel(session_id, principal.user_id):
            raise RunEnded(f"the run {session_id} has ended; there is nothing to cancel")
        return answers.success({"sessionId": session_id, "status": "cancelling"}, status=202)

    return routes


def _number(name: str, default: int, most: int, *, least: int = 0) -> int:
    text = request.args.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise FieldInvalid(f"{name}: a number from {least} to {most} is required")
    return int(text)
