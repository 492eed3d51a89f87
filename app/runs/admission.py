"""Admits new runs, a limited number in each time slice, or refuses them under overload.

The limit leaves processor time to the active runs and keeps the queue of commands to Redis short: otherwise the renewal
of a lease would wait behind thousands of new runs. It also makes the number of waiting requests known.

Runs that must wait are admitted in turn: one of each tenant, and of a tenant one of each user. The last place of each
slice is kept for a tenant of which no run waits and none was admitted in it. So a tenant whose users send thousands of
requests does not delay the first run of another tenant, nor a user those of its colleagues.

While several tenants start runs, those that wait leave the share of one more: a slice admits one run of each, and only
if the process has been idle for half of the time since the last ones (one tenant waits), for a third (two), a fourth …
What delays the first event of a request, once its run is admitted, is the work of the other runs. Few refusals are sent
then, too, for many clients send their request again as soon as it is refused.

A new run is refused only if two conditions hold: the queue has not been empty for `_PERSISTENCE_SECONDS`, and the run
would wait longer than the limit, behind the runs of its tenant. So a burst is admitted, however long its queue is (as
in CoDel, RFC 8289, which judges a queue by its duration, not by its length), and so is a lasting queue whose waits stay
below the limit. Both are measured in processor time of this process: if other programs use the processor, refusing
runs here would not help.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

import structlog

from app.errors import ServiceBusy

_SLICE_RUNS = 16
_SLICE_SECONDS = 0.005
"""The minimum length of a time slice; a busy event loop has longer ones. An idle process admits 3,200 runs a second."""
_SEVERAL_SECONDS = 10.0
"""For how long few runs are admitted after two tenants have started one."""
_MAX_PAUSE_SECONDS = 0.1
"""However busy the process is, one run of each tenant in the queue is admitted in this time."""
_REFUSAL_SLICES = 1000
"""In about so many slices, 5 s or more, every refusal is sent."""
_PERSISTENCE_SECONDS = 3.0
"""How long a queue must have existed before runs are refused. A burst must arrive within this time, else the last of
2,000 requests would be refused because of the others."""

log = structlog.get_logger(__name__)


class _FairQueue:
    """Waiting requests, taken in turn from each tenant, and of a tenant from each user."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[str, deque[asyncio.Future[None]]]] = OrderedDict()
        self._counts: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, tenant_id: str, user_id: str, request: asyncio.Future[None]) -> None:
        """Append a request to those of its user."""
        self._tenants.setdefault(tenant_id, OrderedDict()).setdefault(user_id, deque()).append(request)
        self._counts[tenant_id] = self._counts.get(tenant_id, 0) + 1
        self._count += 1

    def pop(self) -> tuple[str, asyncio.Future[None]]:
        """Remove and return the next request, with its tenant. This and its user are the last in turn then."""
        tenant_id, users = self._tenants.popitem(last=False)
        user_id, requests = users.popitem(last=False)
        request = requests.popleft()
        if requests:
            users[user_id] = requests
        if users:
            self._tenants[tenant_id] = users
        self._count -= 1
        self._counts[tenant_id] -= 1
        if not self._counts[tenant_id]:
            del self._counts[tenant_id]
        return tenant_id, request

    @property
    def tenant_count(self) -> int:
        """The number of tenants of which a request waits."""
        return len(self._tenants)

    def __contains__(self, tenant_id: str) -> bool:
        """Whether a request of this tenant waits."""
        return tenant_id in self._counts

    def position(self, tenant_id: str) -> int:
        """Return about how many requests are taken before the last one that this tenant adds now."""
        own = self._counts.get(tenant_id, 0)
        return sum(min(count, own + 1) for count in self._counts.values())


class AdmissionQueue:
    """Admits new runs of this process in fair turn, or refuses them under overload."""

    def __init__(self, *, max_wait_seconds: float, processor_seconds: Callable[[], float] = time.process_time) -> None:
        """`max_wait_seconds` is the processor time that a new run may have to wait; 0 is no limit."""
        self._max_wait_seconds = max_wait_seconds
        self._processor_seconds = processor_seconds
        self._waiting = _FairQueue()
        self._admitted = 0
        self._places = self._free = _SLICE_RUNS
        self._in_slice: set[str] = set()
        """The tenants of the runs that this slice has admitted."""
        self._last_tenant = ""
        self._several_until = self._admitted_at = self._busy_at = 0.0
        self._refusals: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._queue_exists_since = 0.0
        self._seconds_per_run = 0.0
        self._is_refusing = False

    def check(self, tenant_id: str = "") -> None:
        """Raise `ServiceBusy` where a new run of this tenant would wait too long."""
        if not 0 < self._max_wait_seconds < len(self._waiting) * self._seconds_per_run:
            return
        wait_seconds = self._waiting.position(tenant_id) * self._seconds_per_run
        if wait_seconds <= self._max_wait_seconds:
            return
        if self._processor_seconds() - self._queue_exists_since < _PERSISTENCE_SECONDS:
            return
        if not self._is_refusing:
            self._is_refusing = True
            log.warning("admission.closed", waiting=len(self._waiting), waitSeconds=round(wait_seconds, 1))
        raise ServiceBusy(f"{len(self._waiting)} runs wait to be started on this replica; send the request again later")

    async def acquire(self, tenant_id: str = "", user_id: str = "") -> None:
        """Wait until a run of this user is admitted."""
        self._note_tenant(tenant_id)
        if self._timer is None:
            self._begin_slice()
        if self._free > int(tenant_id in self._in_slice) and tenant_id not in self._waiting:
            self._free -= 1
            self._in_slice.add(tenant_id)
            return
        admitted = asyncio.get_running_loop().create_future()
        arrived_at, admitted_before = self._processor_seconds(), self._admitted
        if not self._waiting:
            self._queue_exists_since = arrived_at
        self._waiting.add(tenant_id, user_id, admitted)
        await admitted
        passed = self._processor_seconds() - arrived_at
        self._seconds_per_run = passed / max(self._admitted - admitted_before, _SLICE_RUNS)

    async def wait_to_refuse(self) -> None:
        """Wait until a refusal may be sent."""
        refused = asyncio.get_running_loop().create_future()
        self._refusals.append(refused)
        if self._timer is None:
            self._begin_slice()
        await refused

    def _note_tenant(self, tenant_id: str) -> None:
        """Remember for some seconds that several tenants start runs."""
        if tenant_id != self._last_tenant:
            if self._last_tenant:
                self._several_until = asyncio.get_running_loop().time() + _SEVERAL_SECONDS
            self._last_tenant = tenant_id

    def _slice_runs(self, now: float) -> int:
        """Return how many runs of the queue this slice admits."""
        if now >= self._several_until:
            return _SLICE_RUNS - 1
        tenants = max(1, self._waiting.tenant_count)
        passed, busy = now - self._admitted_at, self._processor_seconds() - self._busy_at
        if busy <= passed * tenants / (tenants + 1) or passed >= _MAX_PAUSE_SECONDS:
            return min(tenants, _SLICE_RUNS - 1)
        return 0

    def _begin_slice(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._in_slice.clear()
        count = self._slice_runs(now)
        self._places = self._free = 1 + count
        self._send_refusals(count)
        while self._waiting and self._free > 1:
            tenant_id, admitted = self._waiting.pop()
            if not admitted.done():
                admitted.set_result(None)
                self._in_slice.add(tenant_id)
                self._admitted += 1
                self._admitted_at, self._busy_at = now, self._processor_seconds()
                self._free -= 1
        if self._is_refusing and not self._waiting:
            self._is_refusing = False
            log.warning("admission.reopened")
        self._timer = loop.call_later(_SLICE_SECONDS, self._end_slice)

    def _send_refusals(self, count: int) -> None:
        """Send as many refusals as runs are admitted, at least one, and more where thousands wait."""
        for _ in range(min(len(self._refusals), max(count, 1 + len(self._refusals) // _REFUSAL_SLICES))):
            refused = self._refusals.popleft()
            if not refused.done():
                refused.set_result(None)

    def _end_slice(self) -> None:
        self._timer = None
        if self._waiting or self._refusals or self._free < self._places:
            self._begin_slice()
