"""Wires the named agents."""

from __future__ import annotations

from app.agents.catalog import AgentCatalog, AgentsFile
from app.agents.definitions import Agents
from app.agents.file import Basis
from app.agents.tool_names import KnownTools
from app.redis.checkpoints import Checkpoints
from app.settings import Settings
from app.tools import plan
from app.tools.built_in import KNOWN_TOOL_NAMES
from app.tools.registry import ToolRegistry
from app.tools.workspace import SearchWorkspace
from statemachine.instructions import INSTRUCTIONS


def make_agents(settings: Settings, toolbox: ToolRegistry, checkpoints: Checkpoints) -> AgentCatalog:
    """Return the agents of the file in the settings. Their texts and definitions are stored once for all their runs.

    Raises `AgentsInvalid` where the file cannot be used.
    """

    def share(agents: Agents) -> None:
        definitions = agents.by_name.values()
        checkpoints.share([it.instructions for it in definitions], [it.agent.definition for it in definitions])

    path = settings.aura_agents
    file = None if path is None else agents_file(path, settings, toolbox)
    return AgentCatalog(basis_of(settings), file, on_change=share)


def agents_file(path: str, settings: Settings, toolbox: ToolRegistry) -> AgentsFile:
    """Return the file `path` as a process with these settings and tools would read it."""
    always = [plan.NAME, *([SearchWorkspace.name] if settings.aura_knowledge else [])]
    servers = [server.name for server in settings.aura_mcp_servers]

    def tools() -> KnownTools:
        return KnownTools([*(tool.name for tool in toolbox.select()), *always], KNOWN_TOOL_NAMES, servers)

    return AgentsFile(path, basis_of(settings), tools)


def basis_of(settings: Settings) -> Basis:
    """Return what an agent has where its file sets nothing, and what a run without an agent has."""
    prompt_file = settings.aura_system_prompt_file
    instructions = INSTRUCTIONS if prompt_file is None else prompt_file.text
    return Basis(settings.limits, instructions, settings.aura_model_options)
