"""`/aura/test/stream`: start a run, resume it, attach to it (§1, §3)."""

from __future__ import annotations

from quart import Blueprint, Response, g, request

from app.auth import Authenticator
from app.errors import FieldInvalid, NotFound
from app.ports import Journal, Principal
from app.resume import Position, Resumption
from app.routes.answers import STREAM_PATH, stream_headers
from app.routes.bodies import StreamBody, read
from app.runs import Ask, RunService
from app.sse import ResumeExpired, frames
from statemachine.frames import Shape

_HEADER_CHARACTERS = 200


def stream_routes(
    auth: Authenticator, runs: RunService, resumption: Resumption, journal: Journal, shape: Shape
) -> Blueprint:
    routes = Blueprint("stream", __name__)

    @routes.post(STREAM_PATH)
    async def start() -> Response:
        principal = auth.authenticate(request.headers)
        last_event_id = request.headers.get("Last-Event-ID")
        if last_event_id:
            resent = await read(request, StreamBody, may_be_empty=True)
            return await _resume(principal, last_event_id, _ask(resent) if resent else None)
        ask = _ask(await read(request, StreamBody))
        return _stream(Position(await runs.start(principal, ask), 0))

    @routes.get(STREAM_PATH)
    async def attach() -> Response:
        principal = auth.authenticate(request.headers)
        position = await resumption.find(
            principal, session_id=_session_id(), last_event_id=request.headers.get("Last-Event-ID")
        )
        if position is None:
            raise NotFound("there is no run to attach to; POST a prompt to start one")
        return _stream(position)

    async def _resume(principal: Principal, last_event_id: str, ask: Ask | None) -> Response:
        """It never starts a run: a prompt is not executed twice because a network broke (§3)."""
        position = await resumption.find(
            principal,
            session_id=_session_id(),
            last_event_id=last_event_id,
            prompt_digest=ask.digest if ask is not None else "",
        )
        if position is None:
            raise ResumeExpired("post the prompt again without Last-Event-ID")
        return _stream(position)

    def _stream(position: Position) -> Response:
        tail = journal.tail(position.session_id, position.after)
        # A HEAD would follow the run to its end and show nothing of it.
        response = Response(b"" if request.method == "HEAD" else frames(tail, position.session_id, shape))
        response.timeout = None  # Quart would cut a stream silently after 60 s
        stream_headers(response)
        response.headers["X-Session-ID"] = position.session_id
        return response

    return routes


def _session_id() -> str | None:
    return request.args.get("sessionId") or request.headers.get("X-Session-ID") or None


def _ask(body: StreamBody) -> Ask:
    return Ask(
        prompt=body.prompt,
        context=body.context,
        trace_id=g.trace_id,
        thread_id=body.thread_id,
        agent_id=_header("X-Agent-ID"),
        source=_header("X-DWP-Source"),
        caller_type=_header("X-DWP-Caller-Type"),
        idempotency_key=_header("Idempotency-Key"),
    )


def _header(name: str) -> str | None:
    value = request.headers.get(name) or None
    if value is not None and len(value) > _HEADER_CHARACTERS:
        raise FieldInvalid(f"{name}: at most {_HEADER_CHARACTERS} characters")
    return value
