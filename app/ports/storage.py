"""What the service may do in its storage."""

from __future__ import annotations

from typing import Protocol


class StorageRights(Protocol):
    """The rights of the user with which this process uses the storage."""

    async def check(self) -> None:
        """Raises `StorageForbidden`, which names the missing rights, and `StorageUnavailable`."""
        ...
