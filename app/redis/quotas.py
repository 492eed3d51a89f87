"""The quotas of users and tenants (`ports.quotas`): the errors, the waiting runs, and what a tenant uses.

The counters of a user are in the slot of its runs, so `scripts.CREATE` checks them. Those of a tenant are in another
slot. They are checked before a run is created, but only if this process does not know that the tenant is far from its
limits: most runs take no additional round trip. A process learns what a tenant uses with each run, and once per second.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, defaultdict
from dataclasses import dataclass

import structlog

from app.errors import QuotaExceeded, StorageUnavailable
from app.ports.clock import Clock
from app.ports.quotas import Quotas
from app.redis import keys, quota_scripts
from app.redis.wire.connection import Connection
from app.redis.wire.script import Command
from statemachine.checkpoint import RunRequest

MEGABYTE = 1024 * 1024
_REPORT_SECONDS = 1.0
_MAX_TENANTS = 10_000
_MIN_BUCKET_SECONDS, _MAX_BUCKETS = 60, 60

log = structlog.get_logger(__name__)


def user_exceeded(kind: str, retry_after_seconds: int, quotas: Quotas) -> QuotaExceeded:
    """Return the error for a reply `FULL` of `scripts.CREATE`."""
    match kind:
        case "minute":
            cause = f"this user may start {quotas.runs_per_minute_user} runs per minute"
            return QuotaExceeded("AURA_RUNS_PER_MINUTE_USER", cause, max(1, retry_after_seconds))
        case "active":
            cause = f"this user may have {quotas.runs_per_user} runs under way, waiting ones included"
            return QuotaExceeded("AURA_MAX_RUNS_PER_USER", cause, max(1, retry_after_seconds), is_timed=False)
        case _:
            size = f"{_megabytes(quotas.stored_bytes_user)} MB"
            cause = f"this user's runs may have {size} in storage, until they expire"
            return QuotaExceeded("AURA_STORED_MEGABYTES_USER", cause, max(1, retry_after_seconds))


def _megabytes(size: int) -> str:
    return f"{round(size / MEGABYTE, 4):g}"


def expiry_bucket(now: float, retention_seconds: int) -> int:
    """Return the time (Unix s) to which bytes are counted that are written now: their expiry, rounded up.

    So a user has few counters.
    """
    width = max(_MIN_BUCKET_SECONDS, math.ceil(retention_seconds / _MAX_BUCKETS))
    return math.ceil((now + retention_seconds) / width) * width


class RedisWaitingQuota:
    """`ports.quotas.WaitingQuota`. The runs that wait are those of the user's active runs with a negative score."""

    def __init__(self, connection: Connection, clock: Clock, max_waiting: int) -> None:
        self._connection = connection
        self._clock = clock
        self._max_waiting = max_waiting
        self._reserve = connection.register(quota_scripts.RESERVE_WAIT)

    async def reserve(self, request: RunRequest, until: float) -> str | None:
        if not self._max_waiting:
            return None
        has_room = await self._connection.run_script(
            self._reserve,
            active_key=keys.active_of(request.tenant_id, request.user_id),
            session_id=request.session_id,
            now_ms=int(self._clock.now() * 1000),
            until_ms=int(until * 1000),
            max_waiting=self._max_waiting,
        )
        if has_room:
            return None
        log.warning("quota.exceeded", setting="AURA_MAX_WAITING_PER_USER", userId=request.user_id)
        return (
            f"Not run: {self._max_waiting} runs of this user wait for an approval already, which is the limit"
            " (AURA_MAX_WAITING_PER_USER). Tell the user to decide some of them first."
        )


@dataclass(slots=True)
class _Usage:
    """What this process knows of a tenant: its runs of the last minute, its stored bytes, and when the first expire."""

    runs: int = 0
    stored: int = 0
    first_expiry: int = 0


class RedisTenants:
    """Lists runs with their tenants and counts what each tenant uses."""

    def __init__(self, connection: Connection, clock: Clock, quotas: Quotas, *, retention_seconds: int) -> None:
        self._connection = connection
        self._clock = clock
        self._quotas = quotas
        self.retention_seconds = retention_seconds
        self._list = connection.register(quota_scripts.LIST_OF_TENANT)
        self._count = connection.register(quota_scripts.COUNT_STORED)
        self._known: OrderedDict[str, _Usage] = OrderedDict()
        self._changes: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._reporter: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._quotas.counts_bytes:
            self._reporter = asyncio.create_task(self._report_regularly())

    async def stop(self) -> None:
        if self._reporter is not None:
            self._reporter.cancel()
            await asyncio.gather(self._reporter, return_exceptions=True)
            await self._report()

    # --- runs ---------------------------------------------------------------------------------------------------------

    async def list_run(self, tenant_id: str, session_id: str, now_ms: int) -> Command | None:
        """List a run with its tenant, before it is created: then the result is None. If the tenant is known to be far
        from its limits, the command that lists the run is returned instead; send it along, and call `note_listed`.

        Raises `QuotaExceeded`, `StorageUnavailable`.
        """
        command = self._list_command(tenant_id, session_id, now_ms, 0)
        if self._is_far_from_limits(tenant_id):
            return command
        max_per_minute = self._quotas.runs_per_minute_tenant
        listed, stored = await self._connection.pipeline(
            [
                self._list_command(tenant_id, session_id, now_ms, max_per_minute),
                self._count_command(tenant_id, []),
            ]
        )
        self.note_listed(tenant_id, listed)
        usage = self._note_stored(tenant_id, stored)
        if listed[1]:
            cause = f"this tenant may start {max_per_minute} runs per minute"
            raise QuotaExceeded("AURA_RUNS_PER_MINUTE_TENANT", cause, max(1, listed[1]), is_of_tenant=True)
        max_stored = self._quotas.stored_bytes_tenant
        if max_stored and usage.stored >= max_stored:
            await self._connection.execute(*self.unlist_run(tenant_id, session_id))
            seconds = max(1, usage.first_expiry - int(self._clock.now()))
            cause = f"this tenant's runs may have {_megabytes(max_stored)} MB in storage, until they expire"
            raise QuotaExceeded("AURA_STORED_MEGABYTES_TENANT", cause, seconds, is_of_tenant=True)
        return None

    def note_listed(self, tenant_id: str, reply: list[int]) -> None:
        """Remember how many runs the tenant has started in the last minute."""
        self._usage(tenant_id).runs = reply[0]

    def unlist_run(self, tenant_id: str, session_id: str) -> Command:
        """Return the write that removes a run from the list of its tenant."""
        return ("ZREM", keys.tenant_runs(tenant_id), session_id)

    def _list_command(self, tenant_id: str, session_id: str, now_ms: int, max_per_minute: int) -> Command:
        return self._list.command(
            tenant_key=keys.tenant_runs(tenant_id),
            session_id=session_id,
            now_ms=now_ms,
            oldest_ms=now_ms - 2000 * self.retention_seconds,
            ttl=self.retention_seconds,
            max_per_minute=max_per_minute,
        )

    def _is_far_from_limits(self, tenant_id: str) -> bool:
        """Whether less than half of each limit is used, as far as this process knows."""
        max_runs, max_stored = self._quotas.runs_per_minute_tenant, self._quotas.stored_bytes_tenant
        if not max_runs and not max_stored:
            return True
        usage = self._known.get(tenant_id)
        if usage is None:
            return False
        return not (max_runs and 2 * usage.runs >= max_runs) and not (max_stored and 2 * usage.stored >= max_stored)

    def _usage(self, tenant_id: str) -> _Usage:
        usage = self._known.setdefault(tenant_id, _Usage())
        self._known.move_to_end(tenant_id)
        if len(self._known) > _MAX_TENANTS:
            self._known.popitem(last=False)
        return usage

    # --- stored bytes -------------------------------------------------------------------------------------------------

    def add_stored(self, tenant_id: str, expires_at: int, difference: int) -> None:
        """Count bytes that expire at that time (Unix s): more, or fewer. It is reported within a second."""
        if difference and self._quotas.stored_bytes_tenant:
            self._changes[tenant_id][expires_at] += difference

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            await self._report()

    async def _report(self) -> None:
        """Report the changes to Redis. If it is unavailable, they are lost: the counters are exact again when the bytes
        expire, and runs are not refused for bytes that may not be there."""
        if not self._changes:
            return
        reported, self._changes = list(self._changes.items()), defaultdict(lambda: defaultdict(int))
        commands = [
            self._count_command(tenant, [part for it in by_time.items() for part in it]) for tenant, by_time in reported
        ]
        try:
            replies = await self._connection.pipeline(commands)
        except StorageUnavailable as error:
            log.warning("quota.not_reported", cause=error.cause)
            return
        for (tenant_id, _), reply in zip(reported, replies, strict=True):
            self._note_stored(tenant_id, reply)

    def _count_command(self, tenant_id: str, changes: list[int]) -> Command:
        return self._count.command(
            changes,
            stored_key=keys.tenant_stored(tenant_id),
            now_s=int(self._clock.now()),
            ttl=self.retention_seconds,
        )

    def _note_stored(self, tenant_id: str, reply: list[int]) -> _Usage:
        usage = self._usage(tenant_id)
        usage.stored, usage.first_expiry = reply
        return usage
