"""Who would begin a run where there is no room for it is told before anything else is done for him: under overload what
refusals cost is what is missing at the runs."""

from __future__ import annotations

from collections.abc import Callable

from hypercorn.typing import HTTPScope

from app.errors import ServiceBusy
from app.runs.admission import Door
from app.web.responses import STREAM_PATH, Answers, Told


def turning_away(door: Door, answers: Answers) -> Callable[[HTTPScope], Told | None]:
    """For `HttpConnection`; None: he may come in."""

    def turn_away(scope: HTTPScope) -> Told | None:
        if _begins_a_run(scope):
            try:
                door.check()
            except ServiceBusy as error:
                return answers.without_request(error, scope)
        return None

    return turn_away


def _begins_a_run(scope: HTTPScope) -> bool:
    if scope["method"] != "POST" or scope["path"].rstrip("/") != STREAM_PATH:
        return False
    return not any(name == b"last-event-id" and value for name, value in scope["headers"])
