"""Which repositories of GitHub a tenant may use (`AURA_GITHUB_REPOSITORIES`): one token often sees those of several."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from app.errors import ToolError

_EVERY_TENANT = "*"


class AllowedRepositories:
    """The list of each tenant: `owner/repository`, `owner/*` or `*/*`, in lower case, as GitHub ignores case.

    None as `lists` allows everything that the token may see.
    """

    def __init__(self, lists: Mapping[str, Collection[str]] | None) -> None:
        self._lists = lists

    @property
    def is_restricted(self) -> bool:
        return self._lists is not None

    def check(self, tenant_id: str, repository: str) -> None:
        """Raises `ToolError` unless the tenant may use the repository `owner/name`.

        The error is the same for one that does not exist: it does not tell what the token could see.
        """
        if self._lists is None:
            return
        allowed = {*self._lists.get(_EVERY_TENANT, ()), *self._lists.get(tenant_id, ())}
        name = repository.lower()
        if not allowed & {name, f"{name.partition('/')[0]}/*", "*/*"}:
            own = ", ".join(sorted(allowed)) or "none"
            raise ToolError(
                f"the repository {repository} is not one of those that this organisation may use here: {own}."
                " An administrator can add it to AURA_GITHUB_REPOSITORIES"
            )
