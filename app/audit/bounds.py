"""What bounds the parts of the record that a caller can make grow: refusals, and failed authentications."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from app.ports.audit import AuditEvent, AuthenticationFailed, FailuresSuppressed

_PER_USER = 20
_PER_TENANT = 200
_PER_FLUSH = 50
_MINUTE_SECONDS = 60


class MinuteBudget:
    """Admits so many refusals of a user, and of a tenant, in each minute, and counts the others."""

    def __init__(self, *, per_user: int = _PER_USER, per_tenant: int = _PER_TENANT) -> None:
        self._per_user = per_user
        self._per_tenant = per_tenant
        self._minute = 0
        self._users: Counter[tuple[str, str]] = Counter()
        self._tenants: Counter[str] = Counter()
        self._suppressed: Counter[str] = Counter()

    def admits(self, now: float, tenant_id: str, user_id: str) -> bool:
        """Whether this refusal gets an entry of its own. `now` is Unix seconds."""
        self._begin_minute(now)
        self._users[tenant_id, user_id] += 1
        self._tenants[tenant_id] += 1
        if self._users[tenant_id, user_id] <= self._per_user and self._tenants[tenant_id] <= self._per_tenant:
            return True
        self._suppressed[tenant_id] += 1
        return False

    def take_suppressed(self, now: float) -> Sequence[tuple[str, int]]:
        """Return how many refusals of each tenant got no entry since the last call."""
        self._begin_minute(now)
        suppressed, self._suppressed = self._suppressed, Counter()
        return list(suppressed.items())

    def _begin_minute(self, now: float) -> None:
        minute = int(now // _MINUTE_SECONDS)
        if minute != self._minute:
            self._minute = minute
            self._users.clear()
            self._tenants.clear()


class RecentFailures:
    """The failed authentications since the last write: the first ones, and the number of the others."""

    def __init__(self, *, limit: int = _PER_FLUSH) -> None:
        self._limit = limit
        self._kept: list[AuditEvent] = []
        self._suppressed = 0

    def add(self, failure: AuthenticationFailed) -> None:
        if len(self._kept) < self._limit:
            self._kept.append(failure)
        else:
            self._suppressed += 1

    def take(self, now_ms: int) -> list[AuditEvent]:
        """Return them, and begin anew."""
        kept, self._kept = self._kept, []
        if self._suppressed:
            kept.append(FailuresSuppressed(at=now_ms, count=self._suppressed))
            self._suppressed = 0
        return kept
