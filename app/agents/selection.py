"""Which agent a request gets."""

from __future__ import annotations

from app.agents.definitions import AgentDefinition, Agents
from app.errors import FieldInvalid

_MAX_NAME_CHARACTERS = 64


def choose(agents: Agents, requested: str | None, active_app: object, tenant_id: str) -> AgentDefinition | None:
    """Return the agent of a request, or None where the file names none for it.

    The first of these counts that the tenant may use: the requested one, that of the app that the user has open, the
    tenant's default, the file's default. Raises `FieldInvalid` where the requested one does not exist for the tenant:
    an agent of other tenants is refused with the same words as one that nobody has.
    """
    usable = {name: agents.by_name[name] for name in agents.usable_by(tenant_id)}
    if requested is not None:
        if requested not in usable:
            shown = requested[:_MAX_NAME_CHARACTERS]
            raise FieldInvalid(f"agent: there is no agent {shown!r}; available: {', '.join(usable) or 'none'}")
        return usable[requested]
    app = active_app if isinstance(active_app, str) else None
    of_app = [definition for definition in usable.values() if app in definition.apps]
    defaults = (agents.tenant_defaults.get(tenant_id), agents.default)
    return next(iter((*of_app, *(usable[name] for name in defaults if name in usable))), None)
