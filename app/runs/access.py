"""The only rule of access to runs, approval requests and the record of decisions; used by the routes, the approvals and
the lists."""

from __future__ import annotations

from app.errors import PermissionDenied
from app.ports.identity import Principal


class AccessPolicy:
    """Runs and approval requests belong to a user of a tenant; approver roles may see and decide those of the whole
    tenant (CONTRACT §5)."""

    def __init__(self, approver_roles: frozenset[str], auditor_roles: frozenset[str] = frozenset()) -> None:
        self._approver_roles = approver_roles
        self._auditor_roles = auditor_roles

    def sees_whole_tenant(self, principal: Principal) -> bool:
        """Whether the caller may see and decide what belongs to other users of its tenant."""
        return principal.role in self._approver_roles

    def check(self, principal: Principal, tenant_id: str, user_id: str) -> None:
        """Raise `PermissionDenied` unless the caller may see and decide what belongs to this user of this tenant."""
        if tenant_id != principal.tenant_id:
            raise PermissionDenied("it belongs to another tenant")
        if user_id != principal.user_id and not self.sees_whole_tenant(principal):
            raise PermissionDenied("it belongs to another user; only its owner or an approver may see and decide it")

    def check_auditor(self, principal: Principal) -> None:
        """Raise `PermissionDenied` unless the caller may read the record of decisions of its tenant."""
        if principal.role not in self._auditor_roles:
            raise PermissionDenied("the record of decisions is for auditors: AURA_AUDITOR_ROLES names their roles")
