"""The agents of this process: read at its start and again on demand, and chosen from for each new run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from app.agents.definitions import Agents, AgentsInvalid
from app.agents.file import Basis, read_agents
from app.agents.selection import choose
from app.agents.tool_names import KnownTools, ToolFinding, check_tool_names
from app.errors import FieldInvalid
from app.ports.agents import ChosenAgent

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AgentsFile:
    """Where the agents are defined, and what their definitions are completed and compared with.

    `tools` returns the tools that there are at this moment.
    """

    path: str
    basis: Basis
    tools: Callable[[], KnownTools]

    def read(self) -> tuple[Agents, list[ToolFinding]]:
        """Read and check the file. Returns the agents, and what is noteworthy of them. Raises `AgentsInvalid`."""
        agents = read_agents(self.path, self.basis)
        findings = check_tool_names(agents, self.tools())
        if errors := [f"{self.path}: {finding.text}" for finding in findings if finding.is_error]:
            raise AgentsInvalid(errors)
        return agents, findings


class AgentCatalog:
    """Chooses the agents of new runs (`ports.agents.AgentChooser`). Without a file, no run has an agent."""

    def __init__(
        self, basis: Basis, file: AgentsFile | None = None, *, on_change: Callable[[Agents], None] = lambda _: None
    ) -> None:
        """`on_change` is called with agents that were read, before a run can get one of them.

        Raises `AgentsInvalid` where the file cannot be used.
        """
        self._without = ChosenAgent(None, basis.instructions, basis.limits)
        self._file = file
        self._on_change = on_change
        self._reading = asyncio.Lock()
        self._agents = Agents({})
        if file is not None:
            self._use("agents.loaded", *file.read())

    def choose(self, requested: str | None, active_app: object, tenant_id: str) -> ChosenAgent:
        if self._file is None and requested is not None:
            raise FieldInvalid("agent: this service has no agents (AURA_AGENTS is not set); leave the field out")
        chosen = choose(self._agents, requested, active_app, tenant_id)
        return self._without if chosen is None else ChosenAgent(chosen.agent, chosen.instructions, chosen.limits)

    async def reload(self) -> bool:
        """Read the file again, for the runs that start from now on. Returns False, and keeps what it had, where the
        file cannot be used: the log has the cause."""
        if self._file is None:
            return False
        async with self._reading:  # of two reloads the later one reads what the file has last
            try:
                self._use("agents.reloaded", *await asyncio.to_thread(self._file.read))
            except AgentsInvalid as error:  # its cause is the file; the place in the code adds nothing
                log.error("agents.reload_failed", cause=error.log_cause, agents=self._agents.versions)  # noqa: TRY400
                return False
        return True

    def _use(self, log_event: str, agents: Agents, findings: Collection[ToolFinding]) -> None:
        self._on_change(agents)
        self._agents = agents
        log.info(log_event, agents=agents.versions)
        for finding in findings:
            log.warning("agents.tool_missing", agent=finding.agent, cause=finding.text)
