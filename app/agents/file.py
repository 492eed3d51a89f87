"""Reads a file of agents (TOML) and the prompt files that it names, and checks their content.

A file with a problem defines nothing: `AgentsInvalid` names all of its problems.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from pydantic import ValidationError

from app.agents.definitions import AgentDefinition, Agents, AgentsInvalid
from app.agents.tables import AgentsTable, AgentTable, problems_of
from app.settings.prompt_file import PromptFile
from app.settings.text_files import did_you_mean, read_text
from app.settings.types import token_limit
from statemachine.agent import Agent
from statemachine.checkpoint import Limits
from statemachine.instructions import text_digest
from statemachine.stored import JsonObject

_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Basis:
    """What an agent has where its file sets nothing: the instructions, the limits and the options of the settings."""

    limits: Limits
    instructions: str = field(repr=False)
    options: JsonObject = field(default_factory=dict)


def read_agents(path: str, basis: Basis) -> Agents:
    """Read the file `path`. Raises `AgentsInvalid`."""
    try:
        tables = AgentsTable.model_validate(_parse(path))
    except ValidationError as error:
        raise AgentsInvalid([f"{path}: {problem}" for problem in problems_of(error)]) from None
    problems: list[str] = []
    definitions: dict[str, AgentDefinition] = {}
    for name, table in tables.agents.items():
        try:
            instructions = _instructions(table, Path(path).parent, basis)
        except ValueError as error:
            problems.append(f"{path}: agents.{name}.{error}")
            continue
        definitions[name] = _definition(name, table, instructions, basis)
    tenant_defaults = {tenant: it.default for tenant, it in tables.tenants.items() if it.default is not None}
    agents = Agents(definitions, tables.default, tenant_defaults)
    if not problems:
        problems = [f"{path}: {problem}" for problem in (*_wrong_defaults(agents), *_contested_apps(agents))]
    if problems:
        raise AgentsInvalid(problems)
    return agents


def _parse(path: str) -> JsonObject:
    """Return the content of a TOML file. Raises `AgentsInvalid`."""
    try:
        text = read_text(path, _MAX_BYTES, "move the prompts into files of their own")
    except ValueError as error:
        raise AgentsInvalid([str(error)]) from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no `TOMLDecodeError`
        raise AgentsInvalid([f"{path}: it is not TOML: {error or 'it is nested too deeply'}"]) from None


def _instructions(table: AgentTable, folder: Path, basis: Basis) -> str:
    """Return the text with which an agent's system prompts begin. Raises `ValueError` with the key and the cause."""
    if table.prompt is not None and table.prompt_file is not None:
        raise ValueError("prompt: prompt_file is there too, and one text is the prompt; remove one of them")
    text = basis.instructions if table.prompt is None else table.prompt
    if table.prompt_file is not None:
        try:
            text = PromptFile.read(str(folder / table.prompt_file)).text
        except ValueError as error:
            raise ValueError(f"prompt_file: {error}") from None
    if table.language is None:
        return text
    return f"{text}\n\nAnswer in the language with the BCP 47 tag {table.language}, unless the user asks for another."


def _definition(name: str, table: AgentTable, instructions: str, basis: Basis) -> AgentDefinition:
    options = {**basis.options, **table.options}
    agent = Agent.of(
        name=name,
        model=table.model,
        options=options,
        tools=None if table.tools is None else tuple(table.tools),
        language=table.language,
        instructions=text_digest(instructions),
        limits=table.limits.given,
    )
    tokens = token_limit(options)
    return AgentDefinition(
        agent,
        limits=Limits(**{**basis.limits.to_json_object(), **table.limits.given, "completion_tokens": tokens}),
        instructions=instructions,
        description=table.description,
        apps=frozenset(table.apps),
        tenants=None if table.tenants is None else frozenset(table.tenants),
    )


def _wrong_defaults(agents: Agents) -> Iterator[str]:
    names = list(agents.by_name)
    defaults = {f"tenants.{tenant}.default": name for tenant, name in agents.tenant_defaults.items()}
    if agents.default is not None:
        defaults["default"] = agents.default
    for key, name in defaults.items():
        if name not in agents.by_name:
            near = did_you_mean(name, names) or f"; the agents are {', '.join(names) or 'none'}"
            yield f"{key}: there is no agent {name!r}{near}"
    for tenant, name in agents.tenant_defaults.items():
        definition = agents.by_name.get(name)
        if definition is not None and not definition.may_be_used_by(tenant):
            yield (
                f"tenants.{tenant}.default: {tenant} may not use {name!r}; add it to agents.{name}.tenants,"
                " or name another agent"
            )


def _contested_apps(agents: Agents) -> Iterator[str]:
    """Yield a line for each app that would choose two agents of one tenant."""
    for one, other in combinations(agents.by_name.values(), 2):
        if one.tenants is not None and other.tenants is not None and not one.tenants & other.tenants:
            continue
        for app in sorted(one.apps & other.apps):
            tenants = [each.tenants for each in (one, other) if each.tenants is not None]
            shared = sorted(frozenset.intersection(*tenants)) if tenants else []
            who = ", ".join(shared) or "every tenant"
            yield f"agents.{other.name}.apps: {app!r} chooses {one.name!r} for {who}; remove it from one of them"
