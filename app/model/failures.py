"""Turns a failure of a model's server into a `ModelError`: its kind, words for the user, details for the log.

The kind decides whether the turn is requested again: a refusal for the quota or the context length would only be
repeated. Users read no address, not even one that the server quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import httpx2
from pydantic_core import from_json

from app.errors import ModelError, without_addresses
from app.http.failures import describe_failure
from app.http.retry_after import retry_after_seconds
from statemachine.messages import ModelFailure
from statemachine.surrogates import repair

_MAX_DETAIL_CHARACTERS = 2000
_TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})
_STATUS_OF_NAME = {
    **dict.fromkeys(("authenticationerror", "unauthorizederror", "invalidapikey", "unauthenticated"), 401),
    **dict.fromkeys(("permissiondeniederror", "permissionerror", "permissiondenied", "forbidden"), 403),
    **dict.fromkeys(("notfounderror", "modelnotfound", "notfound"), 404),
    **dict.fromkeys(
        (
            *("badrequesterror", "badrequest", "invalidrequesterror", "invalidrequest", "invalidargument"),
            *("unprocessableentityerror", "validationerror", "contentpolicyviolation", "unsupportedparamserror"),
        ),
        400,
    ),
    **dict.fromkeys(("ratelimiterror", "ratelimitexceeded", "ratelimited", "toomanyrequests"), 429),
}
_CONTEXT_TOO_LONG = re.compile(
    r"context[_ ]length|context[_ ]window|context size|maximum context|max_model_len|max_seq_len"
    r"|(prompt|input|request|messages?|conversation)( \w+)? (is|are) too (long|large)|too many (input |prompt )?tokens"
    r"|reduce the length|input token count|exceeds? the (max|limit)[a-z ]* (of )?tokens|(prompt|input) exceeds",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    r"insufficient[_ ](quota|balance|credits?|funds)|(exceeded|over) your (current )?quota|quota (was |is |has been )?"
    r"(exceeded|exhausted)|billing|credit balance|out of credits|payment required",
    re.IGNORECASE,
)


def error_of_status(status: int, body: bytes, headers: Mapping[str, str]) -> ModelError:
    """Return the error of a response that is not a success."""
    error = _decoded(body)
    said = _message(error)
    cause = f"the model's server responded with HTTP {status}" + (f": {without_addresses(said)}" if said else "")
    kind = _kind(status, said, _names(error))
    retry_after = retry_after_seconds(headers)
    return ModelError(kind, cause, retry_after, detail=f"HTTP {status} {_detail(body)}", server_status=status)


def error_in_response(error: Any) -> ModelError:
    """Return the error that stands in the body of a 200, as one object or in the stream."""
    said, names = _message(error), list(_names(error))
    status = next((int(name) for name in names if re.fullmatch("[45][0-9]{2}", name)), None)
    if status is None:
        status = next((_STATUS_OF_NAME[name] for name in map(_plain, names) if name in _STATUS_OF_NAME), 500)
    cause = without_addresses(said) or "the model's server reported an error"
    detail = _detail(repr(error).encode("utf-8", "replace"))
    return ModelError(_kind(status, said, names), cause, detail=detail, server_status=status)


def error_of_connection(error: httpx2.HTTPError, url: str, *, has_response: bool) -> ModelError:
    """Return the error of a request that got no response, or whose response broke off."""
    what = describe_failure(error)
    detail = f"{type(error).__name__} at {url}: {error}"
    if isinstance(error, httpx2.TimeoutException):
        return ModelError("timeout", "the model did not respond in time", detail=detail)
    if has_response:
        return ModelError("interrupted", f"the model's stream broke: {what}", detail=detail)
    return ModelError("unavailable", f"the model's server cannot be reached: {what}", detail=detail)


def not_a_completion(body: bytes) -> ModelError:
    """Return the error of a response in which there is no chat completion, such as a web page."""
    cause = "the server's response is not a chat completion; the base URL may be wrong"
    return ModelError("interrupted", cause, detail=_detail(body))


def _kind(status: int, said: str, names: Iterable[str]) -> ModelFailure:
    words = " ".join((said, *names))
    is_request_error = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    if _CONTEXT_TOO_LONG.search(words) and status not in (429, 401, 403):
        return "context_too_long"
    if _QUOTA.search(words):
        return "refused"
    return "unavailable" if status in _TRANSIENT_STATUSES or not is_request_error else "refused"


def _decoded(body: bytes) -> Any:
    try:
        return from_json(body)
    except (ValueError, RecursionError):
        return None


def _message(error: Any, depth: int = 3) -> str:
    """Return what an error object says. Servers nest it under `error`, or name it `message`, `detail` or `msg`."""
    if isinstance(error, str):
        return repair(error).strip()
    if depth and isinstance(error, list):
        return "; ".join(filter(None, (_message(item, depth - 1) for item in error[:3])))
    if depth and isinstance(error, dict):
        for name in ("error", "message", "detail", "errors", "msg", "error_message", "title"):
            if said := _message(error.get(name), depth - 1):
                return said
    return ""


def _names(error: Any, depth: int = 3) -> Iterable[str]:
    """Yield the codes and types of an error object, as text."""
    if depth and isinstance(error, list):
        for item in error[:3]:
            yield from _names(item, depth - 1)
    if depth and isinstance(error, dict):
        for name in ("code", "status", "status_code", "statusCode", "http_status_code", "type"):
            if isinstance(error.get(name), str | int):
                yield str(error[name])
        for name in ("error", "detail", "errors"):
            yield from _names(error.get(name), depth - 1)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _detail(body: bytes) -> str:
    return body[:_MAX_DETAIL_CHARACTERS].decode("utf-8", "replace").strip()
