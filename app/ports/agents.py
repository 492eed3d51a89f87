"""The choice of the agent that a new run gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from statemachine.agent import Agent
from statemachine.checkpoint import Limits


@dataclass(frozen=True, slots=True)
class ChosenAgent:
    """What a new run begins with: its agent, None for a run without one, the static part of its system prompt, and its
    limits."""

    agent: Agent | None
    instructions: str = field(repr=False)
    limits: Limits


class AgentChooser(Protocol):
    """Chooses the agent of a new run, by the definitions that are valid at this moment."""

    def choose(self, requested: str | None, active_app: object, tenant_id: str) -> ChosenAgent:
        """Return what a run of this tenant begins with.

        `requested` is the name in the request, `active_app` the value of `context.activeApp`, of any type. Raises
        `FieldInvalid` where the tenant has no agent with the requested name.
        """
        ...
