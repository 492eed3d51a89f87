"""The only rule of access to runs and approval requests; used by the routes, the approvals and the lists."""

from __future__ import annotations

from app.errors import NotFound, PermissionDenied
from app.ports.identity import Principal

Owner = tuple[str, str]
"""The ids of a tenant and of a user of it."""


class AccessPolicy:
    """Runs and approval requests belong to a user of a tenant; approver roles may see and decide those of the whole
    tenant (CONTRACT §5). For everybody else, what belongs to another tenant does not exist (§1.4)."""

    def __init__(self, approver_roles: frozenset[str]) -> None:
        self._approver_roles = approver_roles

    def sees_whole_tenant(self, principal: Principal) -> bool:
        """Whether the caller may see and decide what belongs to other users of its tenant."""
        return principal.role in self._approver_roles

    def exists(self, principal: Principal, owner: Owner | None) -> bool:
        """Whether a thing exists for the caller: it has an owner, who is of the caller's tenant."""
        return owner is not None and owner[0] == principal.tenant_id

    def check(self, principal: Principal, owner: Owner, unknown: str = "") -> None:
        """Raise unless the caller may see and decide what belongs to this owner.

        Raises `NotFound` for another tenant, with the text `unknown` that an unknown id gets too, so that nobody learns
        which ids other tenants use; `PermissionDenied` for another user of the tenant.
        """
        if not self.exists(principal, owner):
            raise NotFound(unknown)
        if owner[1] != principal.user_id and not self.sees_whole_tenant(principal):
            raise PermissionDenied("it belongs to another user; only its owner or an approver may see and decide it")
