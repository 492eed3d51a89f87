"""How much one user and one tenant may use (`AURA_RUNS_PER_MINUTE_USER` …). It is counted in storage, by all nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from statemachine.checkpoint import RunRequest


@dataclass(frozen=True, slots=True)
class Quotas:
    """The limits of a user and of a tenant; 0 is no limit."""

    runs_per_minute_user: int = 0
    runs_per_minute_tenant: int = 0
    runs_per_user: int = 0
    waiting_per_user: int = 0
    stored_bytes_user: int = 0
    stored_bytes_tenant: int = 0
    streams_per_user: int = 0

    @property
    def counts_bytes(self) -> bool:
        """Whether it must be counted how many bytes of runs are stored."""
        return bool(self.stored_bytes_user or self.stored_bytes_tenant)


class WaitingQuota(Protocol):
    """How many runs of a user may wait for a person at the same time."""

    async def reserve(self, request: RunRequest, until: float) -> str | None:
        """Count a run that is about to wait, until it goes on or `until` (Unix s) has passed.

        Returns None, or where the user has no room for another one the reason, which the model reads.
        Raises `StorageUnavailable`.
        """
        ...


class StreamQuota(Protocol):
    """How many streams a user may have open at the same time."""

    async def open(self, tenant_id: str, user_id: str) -> None:
        """Count a stream that is about to be opened. Raises `QuotaExceeded`, `StorageUnavailable`."""
        ...

    def close(self, tenant_id: str, user_id: str) -> None:
        """Count a stream no longer."""
        ...
