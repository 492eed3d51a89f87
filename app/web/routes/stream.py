"""`/aura/test/stream`: starts a run, resumes its stream, or attaches to it (§1, §3)."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from quart import Blueprint, Response, g, request

from app.errors import EventsGone, NotFound, QuotaExceeded, RequestMalformed, ServiceBusy, ThreadBusy, UrlTooLong
from app.ports.identity import Principal
from app.runs.creation import StartRun
from app.runs.resume import RunLocator, StreamPosition
from app.runs.service import RunService
from app.web.auth import Authenticator
from app.web.connection import StreamResponse
from app.web.openapi.operations import operation
from app.web.responses import STREAM_PATH, stream_headers
from app.web.sse import EventStreams, StreamSlot
from app.web.stream_frames import ResumeExpired
from app.web.validation import (
    SAME_URL_SECONDS,
    URL_LIMIT_BYTES,
    ResumeHeaders,
    StartHeaders,
    StartQuery,
    StreamBody,
    StreamQuery,
    read,
    read_headers,
    read_query,
)


def stream_routes(auth: Authenticator, runs: RunService, locator: RunLocator, streams: EventStreams) -> Blueprint:
    routes = Blueprint("stream", __name__)
    _add_start(routes, auth, runs, locator, streams)
    _add_attachment(routes, auth, runs, locator, streams)
    return routes


def _add_start(
    routes: Blueprint, auth: Authenticator, runs: RunService, locator: RunLocator, streams: EventStreams
) -> None:
    @routes.post(STREAM_PATH)
    @operation(
        "Start a run and stream its events; with Last-Event-ID resume a stream (the body may be empty then).",
        is_stream=True,
        body=StreamBody,
        query=StreamQuery,
        headers=StartHeaders,
        errors=(ResumeExpired, EventsGone, ServiceBusy, ThreadBusy, QuotaExceeded),
    )
    async def start() -> Response:
        principal = auth.authenticate(request.headers)
        headers, query = read_headers(request, StartHeaders), read_query(request, StreamQuery)
        if headers.last_event_id:
            body = await read(request, StreamBody, may_be_empty=True)
            repeated = _start_run(body, headers) if body else None
            with await streams.reserve(principal) as slot:
                found = await _find_resumed(locator, principal, headers, query, repeated)
                return _stream_response(streams, slot, found, query)
        start_run = _start_run(await read(request, StreamBody), headers)
        with await streams.reserve(principal) as slot:
            begun = StreamPosition(await runs.start(principal, start_run), 0)
            return _stream_response(streams, slot, begun, query)


def _add_attachment(
    routes: Blueprint, auth: Authenticator, runs: RunService, locator: RunLocator, streams: EventStreams
) -> None:
    @routes.get(STREAM_PATH)
    @operation(
        "Stream the events of a run: the given one, or else the caller's newest. With a prompt, start one.",
        is_stream=True,
        further_responses={204: None},
        query=StartQuery,
        headers=StartHeaders,
        errors=(NotFound, RequestMalformed, ServiceBusy, ThreadBusy, QuotaExceeded, UrlTooLong),
    )
    async def attach() -> Response:
        principal = auth.authenticate(request.headers)
        _check_url()
        headers, query = read_headers(request, StartHeaders), read_query(request, StartQuery)
        start_run = _start_by_url(query, headers)
        attaches = request.method == "HEAD" or bool(headers.last_event_id or query.session_id or headers.session_id)
        with await streams.reserve(principal) as slot:
            if start_run is not None and not attaches:
                begun = StreamPosition(await runs.start(principal, start_run), 0)
                return _stream_response(streams, slot, begun, query)
            position = await _find_attached(locator, principal, headers, query, start_run)
            if headers.last_event_id and await locator.is_end(position):
                slot.release()
                # It stops an `EventSource`, which would else come back for ever (§2.1).
                return Response(b"", 204, {"X-Session-ID": position.session_id})
            return _stream_response(streams, slot, position, query)


def _check_url() -> None:
    size = len(request.path.encode()) + 1 + len(request.query_string)
    if size > URL_LIMIT_BYTES:
        raise UrlTooLong(f"it has {size} bytes, at most {URL_LIMIT_BYTES} are allowed; send the prompt by POST")


def _start_by_url(query: StartQuery, headers: StartHeaders) -> StartRun | None:
    """Return the run that the URL asks for, with a key that makes the same URL attach to it for a while."""
    body = query.body
    if body is None:
        return None
    start_run = _start_run(body, headers)
    if start_run.idempotency_key is not None:
        return start_run
    key = f"GET {hashlib.sha256(request.query_string).hexdigest()}"
    return replace(start_run, idempotency_key=key, idempotency_seconds=SAME_URL_SECONDS)


async def _find_attached(
    locator: RunLocator, principal: Principal, headers: ResumeHeaders, query: StreamQuery, repeated: StartRun | None
) -> StreamPosition:
    """Return the position of a caller that names a run, or a prompt, or nothing. Raises `NotFound`."""
    try:
        found = await locator.find(
            principal,
            session_id=query.session_id or headers.session_id,
            last_event_id=headers.last_event_id,
            prompt_digests=None if repeated is None else _prompt_digests(repeated),
        )
    except EventsGone as error:
        raise NotFound(error.cause) from error
    if found is None:
        raise NotFound("there is no run to attach to; send a prompt by POST to start one")
    return found


async def _find_resumed(
    locator: RunLocator, principal: Principal, headers: StartHeaders, query: StreamQuery, repeated: StartRun | None
) -> StreamPosition:
    """Return where to resume. This never starts a run, so a prompt is not executed twice after a network error (§3).

    Raises `ResumeExpired` where there is no run to resume, `EventsGone` where its last events are lost.
    """
    position = await locator.find(
        principal,
        session_id=query.session_id or headers.session_id,
        last_event_id=headers.last_event_id,
        prompt_digests=_prompt_digests(repeated) if repeated is not None else (),
    )
    if position is None:
        raise ResumeExpired("send the prompt again without Last-Event-ID")
    return position


def _prompt_digests(start_run: StartRun) -> tuple[str, ...]:
    """Return what the record of a run with this prompt has; those of older releases have the context in it."""
    return start_run.prompt_digest, start_run.digest


def _stream_response(streams: EventStreams, slot: StreamSlot, position: StreamPosition, query: StreamQuery) -> Response:
    if request.method == "HEAD":  # it would otherwise be open until the run ends, without a body
        slot.release()
        response = Response(b"")
    else:
        naming = query.naming(streams.names)
        response = StreamResponse(streams.open(position.session_id, position.last_event_id, slot, naming))
    response.headers.update(stream_headers(request.http_version))
    response.headers["X-Session-ID"] = position.session_id
    return response


def _start_run(body: StreamBody, headers: StartHeaders) -> StartRun:
    return StartRun(
        prompt=body.prompt,
        context=body.context,
        trace_id=g.trace_id,
        thread_id=body.thread,
        agent=body.agent,
        agent_id=headers.agent_id,
        source=headers.source,
        caller_type=headers.caller_type,
        idempotency_key=headers.idempotency_key,
    )
