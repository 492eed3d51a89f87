"""Refuses users and tenants that have just exceeded a quota, without asking storage again.

A client that sends its request over and over, in spite of `Retry-After`, costs one check per second.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from app.errors import QuotaExceeded
from app.ports.clock import Clock
from app.ports.identity import Principal

_REMEMBERED_SECONDS = 1.0
_MAX_REMEMBERED = 10_000


class Refusals:
    """The quotas that were exceeded within the last second, by user or tenant."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._found: OrderedDict[tuple[str, str | None], tuple[float, QuotaExceeded]] = OrderedDict()

    def check(self, principal: Principal) -> None:
        """Raise the `QuotaExceeded` that this caller, or another user of its tenant, has got a moment ago."""
        for key in ((principal.tenant_id, principal.user_id), (principal.tenant_id, None)):
            at, error = self._found.get(key, (0.0, None))
            if error is None:
                continue
            passed = self._clock.now() - at
            if 0 <= passed < min(_REMEMBERED_SECONDS, error.retry_after_seconds or 0):
                raise error.in_seconds(max(1, math.ceil((error.retry_after_seconds or 0) - passed)))
            del self._found[key]

    def remember(self, principal: Principal, error: QuotaExceeded) -> None:
        """Refuse the caller, or its whole tenant, for a moment, unless there may be room at any time."""
        if not error.is_timed:
            return
        key = (principal.tenant_id, None if error.is_of_tenant else principal.user_id)
        self._found[key] = (self._clock.now(), error)
        self._found.move_to_end(key)
        if len(self._found) > _MAX_REMEMBERED:
            self._found.popitem(last=False)
