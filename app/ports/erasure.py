"""Removing what is stored of a person."""

from __future__ import annotations

from typing import Protocol

Counts = dict[str, int]
"""How many things of each kind there are, by the name of the kind. A kind of which there is nothing is left out."""


class PersonalData(Protocol):
    """One place that stores something of people. Every method raises `StorageUnavailable`."""

    async def count(self, tenant_id: str, user_id: str) -> Counts:
        """Return what is stored of a user."""
        ...

    async def erase(self, tenant_id: str, user_id: str) -> Counts:
        """Remove what is stored of a user, and return what was removed. A second call finds nothing."""
        ...


class PersonalRuns(PersonalData, Protocol):
    """The place that stores the runs under way."""

    async def active_runs(self, tenant_id: str, user_id: str) -> list[str]:
        """Return the runs of a user that have not ended."""
        ...
