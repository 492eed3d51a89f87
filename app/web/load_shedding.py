"""Rejects requests before parsing and authentication: new runs while admission is closed, and ambiguous requests.

Under overload, the time that rejections cost is taken from the runs that are in progress.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hypercorn.typing import HTTPScope

from app.errors import RequestMalformed, ServiceBusy
from app.runs.admission import AdmissionQueue
from app.web.requests import has_ambiguous_length
from app.web.responses import STREAM_PATH, PreparedResponse, ResponseBuilder


def shed_load(
    admission: AdmissionQueue, responses: ResponseBuilder
) -> Callable[[HTTPScope], Awaitable[PreparedResponse | None]]:
    """Return the check that `HttpConnection` makes first: a response that rejects the request, or None to handle it."""

    async def reject(scope: HTTPScope) -> PreparedResponse | None:
        if has_ambiguous_length(scope):
            cause = "the request has both Content-Length and Transfer-Encoding; send one of them"
            return responses.prepare_error(RequestMalformed(cause), scope, closes=True)
        if _starts_run(scope):
            try:
                # Not verified yet: who names a tenant falsely is rejected with the token, and starts no run.
                admission.check(_tenant(scope))
            except ServiceBusy as error:
                await admission.wait_to_refuse()
                return responses.prepare_error(error, scope)
        return None

    return reject


def _tenant(scope: HTTPScope) -> str:
    return next((value.decode("utf-8", "replace") for name, value in scope["headers"] if name == b"x-tenant-id"), "")


def _starts_run(scope: HTTPScope) -> bool:
    if scope["path"].rstrip("/") != STREAM_PATH:
        return False
    sent = {name for name, value in scope["headers"] if value}
    if b"last-event-id" in sent:
        return False
    if scope["method"] != "GET":
        return scope["method"] == "POST"
    query = {part.partition(b"=")[0] for part in scope["query_string"].split(b"&")}
    names_a_run = b"sessionId" in query or b"x-session-id" in sent  # such a GET attaches to it
    return bool(query & {b"prompt", b"message"}) and not names_a_run
