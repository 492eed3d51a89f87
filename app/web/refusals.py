"""Records refused requests: those of known callers in the record of their tenant, and failed authentications."""

from __future__ import annotations

import hashlib
import re

import structlog
from quart import Request, g, request

from app.errors import AuraError
from app.ports.audit import AuditTrail, AuthenticationFailed, RequestRefused
from app.ports.clock import Clock
from app.ports.identity import Origin, Principal

_MAX_CHARACTERS = 200
_MAX_CALLER_TYPE_CHARACTERS = 16
_ADDRESSES = re.compile(r"[0-9a-f.:,\[\] ]+", re.IGNORECASE)
_TOKEN_DIGEST_CHARACTERS = 16

log = structlog.get_logger(__name__)


def origin_of(incoming: Request) -> Origin:
    """Return where a request came from. Of the headers, in which anybody may send a token by mistake or on purpose,
    only what looks like addresses and the beginning of a kind of caller is kept."""
    forwarded_for = incoming.headers.get("X-Forwarded-For", "")
    return Origin(
        address=incoming.remote_addr,
        forwarded_for=forwarded_for[:_MAX_CHARACTERS] if _ADDRESSES.fullmatch(forwarded_for) else None,
        caller_type=incoming.headers.get("X-DWP-Caller-Type", "")[:_MAX_CALLER_TYPE_CHARACTERS] or None,
    )


class RefusalRecorder:
    """Records the refusal of the current request."""

    def __init__(self, audit: AuditTrail, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock

    def record(self, error: AuraError) -> None:
        """Record an error with a status from 400 to 499; of an unknown caller only what is meant to identify it."""
        principal: Principal | None = g.get("principal")
        if 400 <= error.status < 500:
            _log_refusal(error, principal)
        origin = origin_of(request)
        if error.status == 401 or (error.status == 403 and principal is None):  # 403: a code of the console
            self._audit.record_failure(
                AuthenticationFailed(
                    at=int(self._clock.now() * 1000),
                    code=error.code,
                    cause=error.cause[:_MAX_CHARACTERS],
                    method=request.method,
                    route=_route(),
                    address=origin.address,
                    forwarded_for=origin.forwarded_for,
                    token_digest=_token_digest(request.headers.get("Authorization")),
                )
            )
        elif principal is not None and 400 <= error.status < 500:
            self._audit.record_refusal(
                principal.tenant_id,
                RequestRefused(
                    user=principal.user_id,
                    role=principal.role,
                    status=error.status,
                    code=error.code,
                    method=request.method,
                    route=_route(),
                    caller_type=origin.caller_type,
                    address=origin.address,
                    forwarded_for=origin.forwarded_for,
                    trace_id=g.get("trace_id"),
                ),
            )


def _log_refusal(error: AuraError, principal: Principal | None) -> None:
    """Log a refusal in one line. Its cause is in the answer alone: it may quote what was sent."""
    who = {} if principal is None else {"tenantId": principal.tenant_id, "userId": principal.user_id}
    log.info(
        "request.refused",
        status=error.status,
        code=error.code,
        method=request.method,
        route=_route() or None,
        **who,
    )


def _route() -> str:
    """Return the route as it is declared, without the ids of the request."""
    return "" if request.url_rule is None else str(request.url_rule.rule)


def _token_digest(header: str | None) -> str | None:
    """Return the beginning of the token's SHA-256: equal tokens can be recognised, none can be used."""
    if not header:
        return None
    return hashlib.sha256(header.encode("utf-8", "replace")).hexdigest()[:_TOKEN_DIGEST_CHARACTERS]
