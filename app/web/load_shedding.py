"""Who would begin a run where there is no room for it is told before anything else is done for him: under overload what
refusals cost is what is missing at the runs."""

from __future__ import annotations

from collections.abc import Callable

from hypercorn.typing import HTTPScope

from app.errors import ServiceBusy
from app.runs.admission import AdmissionQueue
from app.web.responses import STREAM_PATH, PreparedResponse, ResponseBuilder


def shed_load(admission: AdmissionQueue, responses: ResponseBuilder) -> Callable[[HTTPScope], PreparedResponse | None]:
    """For `HttpConnection`; None: he may come in."""

    def shed_load(scope: HTTPScope) -> PreparedResponse | None:
        if _begins_a_run(scope):
            try:
                admission.check()
            except ServiceBusy as error:
                return responses.without_request(error, scope)
        return None

    return shed_load


def _begins_a_run(scope: HTTPScope) -> bool:
    if scope["method"] != "POST" or scope["path"].rstrip("/") != STREAM_PATH:
        return False
    return not any(name == b"last-event-id" and value for name, value in scope["headers"])
