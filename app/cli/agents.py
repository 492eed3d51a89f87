"""The command `aura agents check`: shows what a file of named agents defines, and what is wrong with it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.options import env_file_option, read_settings
from app.cli.tools import print_missing_servers

if TYPE_CHECKING:
    from app.agents.definitions import AgentDefinition, Agents
    from app.agents.tool_names import ToolFinding
    from app.settings import Settings


@click.group()
def agents() -> None:
    """Examine the named agents."""


@agents.command()
@env_file_option
@click.option("--file", "path", metavar="FILE", help="Check this file. [default: that of AURA_AGENTS]")
@click.option("--tenant", metavar="T", help="Show which agent a request of this tenant gets.")
@click.option("--app", metavar="A", help="With --tenant: the request has this `context.activeApp`.")
@click.option("--connect", is_flag=True, help="Connect to the MCP servers, and compare with their tools.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def check(
    *, env_file: Path | None, path: str | None, tenant: str | None, app: str | None, connect: bool, as_json: bool
) -> None:
    """Read a file of agents as the service would, with its settings, and print its agents.

    Neither Redis nor a model server is needed. The exit code is 0 if the service can use the file, 1 if it has errors,
    and 2 if it could not be checked. A tool that is not offered now, but may be later, is a warning.
    """
    from app import logs
    from app.agents.definitions import AgentsInvalid

    if app is not None and tenant is None:
        raise click.UsageError("--app needs --tenant: who may use an agent depends on the tenant")
    settings = read_settings(env_file)
    logs.configure("ERROR", "console", settings.secrets)
    path = path or settings.aura_agents
    if path is None:
        raise click.UsageError("there is no file to check: pass --file FILE, or set AURA_AGENTS")
    try:
        defined, findings = asyncio.run(_read(path, settings, connect=connect))
    except AgentsInvalid as error:
        _print_problems(path, error.problems, as_json=as_json)
        sys.exit(1)
    report = _Report(path, defined, findings, tenant, app)
    click.echo(json.dumps(report.as_json(), ensure_ascii=False) if as_json else report.as_text())


async def _read(path: str, settings: Settings, *, connect: bool) -> tuple[Agents, list[ToolFinding]]:
    """Read the file as a process with these settings would. Raises `AgentsInvalid`, `ConfigurationError`."""
    from app.bootstrap.agents import agents_file
    from app.bootstrap.keys import make_purpose_keys
    from app.bootstrap.tools import make_tools
    from app.clock import SystemClock

    tools = make_tools(settings, make_purpose_keys(settings), SystemClock(), knowledge=None)
    file = agents_file(path, settings, tools.registry)
    if not connect:
        return file.read()
    await tools.start_listing(60)
    try:
        print_missing_servers(tools)
        return file.read()
    finally:
        await tools.stop()


def _print_problems(path: str, problems: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"file": path, "problems": problems}, ensure_ascii=False))
        return
    for problem in problems:
        click.secho(f"✗ {problem}", fg="red")


class _Report:
    """What the command prints of a file that the service can use."""

    def __init__(
        self, path: str, defined: Agents, findings: list[ToolFinding], tenant: str | None, app: str | None
    ) -> None:
        from app.agents.selection import choose

        self._path = path
        self._defined = defined
        self._findings = findings
        self._tenant = tenant
        self._app = app
        self._chosen = None if tenant is None else choose(defined, None, app, tenant)

    def as_json(self) -> dict[str, Any]:
        report: dict[str, Any] = {
            "file": self._path,
            "problems": [],
            "warnings": [finding.text for finding in self._findings],
            "default": self._defined.default,
            "tenantDefaults": dict(self._defined.tenant_defaults),
            "agents": [_described(definition) for definition in self._defined.by_name.values()],
        }
        if self._tenant is not None:
            report["chosen"] = None if self._chosen is None else self._chosen.name
        return report

    def as_text(self) -> str:
        lines = []
        for definition in self._defined.by_name.values():
            shown = _described(definition)
            lines.append(click.style(f"{definition.name} {definition.agent.short_version}", bold=True))
            lines += [f"  {name:<9} {text}" for name, text in _rows(shown)]
        lines += [click.style(f"! {finding.text}", fg="yellow") for finding in self._findings]
        lines.append(f"default: {self._defined.default or 'none: such a run has no agent'}")
        lines += [f"default of {tenant}: {name}" for tenant, name in self._defined.tenant_defaults.items()]
        if self._tenant is not None:
            place = "" if self._app is None else f" with {self._app!r} open"
            got = "no agent" if self._chosen is None else self._chosen.name
            lines.append(f"→ a request of {self._tenant}{place} gets {got}")
        return "\n".join(lines)


def _described(definition: AgentDefinition) -> dict[str, Any]:
    from statemachine.tokens import estimate_tokens

    agent, limits = definition.agent, definition.limits
    return {
        "name": agent.name,
        "version": agent.version,
        "description": definition.description,
        "promptBytes": len(definition.instructions.encode()),
        "promptTokens": estimate_tokens(definition.instructions),
        "model": agent.model,
        "options": agent.options,
        "tools": agent.tools,
        "language": agent.language,
        "limits": limits.to_json_object(),
        "apps": sorted(definition.apps),
        "tenants": None if definition.tenants is None else sorted(definition.tenants),
    }


def _rows(shown: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of an agent: name and text, without those that have nothing to say."""
    rows = [
        ("", shown["description"]),
        ("prompt", f"{shown['promptBytes']} bytes, about {shown['promptTokens']} tokens"),
        ("model", shown["model"] or "that of OPENAI_MODEL"),
        ("options", json.dumps(shown["options"], ensure_ascii=False) if shown["options"] else ""),
        ("tools", "all" if shown["tools"] is None else ", ".join(shown["tools"]) or "none"),
        ("language", shown["language"] or ""),
        ("limits", ", ".join(f"{name} {value}" for name, value in shown["limits"].items())),
        ("apps", ", ".join(shown["apps"])),
        ("tenants", "all" if shown["tenants"] is None else ", ".join(shown["tenants"])),
    ]
    return [(name, text) for name, text in rows if text]
