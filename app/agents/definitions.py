"""What a file of agents defines, once it is read and checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from app.errors import ConfigurationError
from statemachine.agent import Agent
from statemachine.checkpoint import Limits


@dataclass(frozen=True, slots=True)
class AgentDefinition:
    """One agent, and who may use it. `tenants` None: all of them. `apps` are the values of `context.activeApp` that
    choose it. `instructions` are the text with which its system prompts begin."""

    agent: Agent
    limits: Limits
    instructions: str = field(repr=False)
    description: str = ""
    apps: frozenset[str] = frozenset()
    tenants: frozenset[str] | None = None

    @property
    def name(self) -> str:
        return self.agent.name

    def may_be_used_by(self, tenant_id: str) -> bool:
        return self.tenants is None or tenant_id in self.tenants


@dataclass(frozen=True, slots=True)
class Agents:
    """All agents of a file by their names, and the names of those that are used where nothing else chooses one."""

    by_name: Mapping[str, AgentDefinition]
    default: str | None = None
    tenant_defaults: Mapping[str, str] = field(default_factory=dict)

    @property
    def versions(self) -> dict[str, str]:
        """The short version of each agent, as the log shows it."""
        return {name: definition.agent.short_version for name, definition in self.by_name.items()}

    def usable_by(self, tenant_id: str) -> list[str]:
        """Return the names of the agents that a tenant may use, in the order of the file."""
        return [name for name, definition in self.by_name.items() if definition.may_be_used_by(tenant_id)]


class AgentsInvalid(ConfigurationError):
    """A file of agents cannot be used. Each problem is one line with the file, the key, the cause and the remedy."""

    def __init__(self, problems: Collection[str]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - 1
        rest = f" (and {more} more: `aura agents check` shows all)" if more else ""
        super().__init__(f"AURA_AGENTS: {self.problems[0]}{rest}")
