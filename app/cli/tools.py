"""The commands `aura tools` and `aura tools call`: what the model is offered, and one tool run by hand."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.options import env_file_option, read_settings

if TYPE_CHECKING:
    from app.bootstrap.tools import ToolParts
    from app.tools.registered import RegisteredTool
    from statemachine.messages import RequestedCall, ToolFinished

_FAILED, _REFUSED = 1, 2
_MCP_SECONDS = 60.0
"""How long a command waits for the MCP servers; a service does not wait so long."""


@click.group(invoke_without_command=True)
@env_file_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array with the whole schemas, for programs.")
@click.pass_context
def tools(context: click.Context, *, env_file: Path | None, as_json: bool) -> None:
    """List the tools that the model is offered: where each is from, its arguments, its approval and why.

    The tools are those of the settings, of AURA_TOOLS, and of installed packages. Redis is not needed.
    """
    context.obj = env_file
    if context.invoked_subcommand is None:
        asyncio.run(_list(env_file, as_json=as_json))


@tools.command()
@click.argument("name")
@click.argument("arguments", default="{}")
@click.option("--approve", is_flag=True, help="Approve the call, where it needs an approval. [default: ask]")
@click.option("--user", default="user", show_default=True, help="Run it for this user.")
@click.option("--tenant", default="tenant", show_default=True, help="Run it for this tenant.")
@click.option("--email", help="The address of the user, which some tools need.")
@click.pass_obj
def call(
    env_file: Path | None, *, name: str, arguments: str, approve: bool, user: str, tenant: str, email: str | None
) -> None:
    """Run one tool by hand with ARGUMENTS, a JSON object, and print its result as JSON.

    The arguments are checked as those of a model. No run is made, and nothing is recorded. The exit code is 0 if the
    tool succeeded, 1 if it failed, 2 if it was not run.
    """
    from app.ports.tools import ToolContext

    call_id = f"call-{secrets.token_hex(4)}"
    context = ToolContext(f"by-hand-{call_id}", tenant, user, f"by-hand:{call_id}", email)
    sys.exit(asyncio.run(_call(env_file, name, arguments, call_id, context, approve=approve)))


def _make_tools(env_file: Path | None) -> ToolParts:
    """Return the tools of the settings, as a service has them. Raises `ConfigurationError`."""
    from app import logs
    from app.bootstrap import create_app

    settings = read_settings(env_file)
    logs.configure("ERROR", "console", settings.secrets)
    parts: ToolParts = create_app(settings).extensions["aura"].tools
    return parts


async def _list(env_file: Path | None, *, as_json: bool) -> None:
    parts = _make_tools(env_file)
    await parts.start_listing(_MCP_SECONDS)
    try:
        found = parts.registry.select()
        print_missing_servers(parts)
    finally:
        await parts.stop()
    if as_json:
        click.echo(json.dumps([_as_json(tool) for tool in found], ensure_ascii=False, indent=2))
        return
    for tool in found:
        _print_tool(tool)
    click.echo(f"{len(found)} tools; update_plan, which runs nothing, is offered with them")


def print_missing_servers(parts: ToolParts) -> None:
    """Print to stderr which MCP servers are not connected, and why."""
    for server, cause in parts.missing_servers.items():
        click.echo(f"aura: the MCP server {server} is not connected, so its tools are missing: {cause}", err=True)


def _as_json(tool: RegisteredTool) -> dict[str, Any]:
    return {
        **tool.schema["function"],
        "title": tool.tool.title,
        "source": tool.source,
        "needsApproval": tool.needs_approval,
        "approvalReason": tool.approval_reason or None,
        "idempotent": tool.tool.idempotent,
        "outward": tool.outward,
        "untrusted": tool.untrusted,
        "timeoutSeconds": tool.tool.timeout_seconds,
    }


def _print_tool(tool: RegisteredTool) -> None:
    click.secho(tool.name, bold=True, nl=False)
    click.echo(f"  {tool.tool.title}")
    click.echo(f"  from       {tool.source}")
    click.echo(f"  meaning    {tool.description}")
    for name, text in _arguments(tool.schema["function"]["parameters"]):
        click.echo(f"  argument   {name}: {text}")
    approval = f"needed: {tool.approval_reason}" if tool.needs_approval else "not needed"
    if tool.outward and not tool.needs_approval:
        approval += ", until the run has read text from outside (the tool is outward)"
    click.echo(f"  approval   {approval}")
    after_crash = "repeated" if tool.tool.idempotent else "a person decides whether it is repeated"
    click.echo(f"  after a crash in a call: {after_crash}")
    if tool.untrusted:
        click.echo("  its result is text from outside")
    click.echo()


def _arguments(schema: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the arguments of a schema with their types, bounds and descriptions in short."""
    required = schema.get("required", [])
    shown = []
    for name, field in schema.get("properties", {}).items():
        kind = field.get("type") or ("one of several types" if "anyOf" in field or "oneOf" in field else "any value")
        kind = kind if isinstance(kind, str) else " or ".join(kind)
        rules = {key: value for key, value in field.items() if key not in ("type", "description", "default", "anyOf")}
        parts = [kind, *(f"{key} {value}" for key, value in rules.items() if not isinstance(value, dict | list))]
        parts += [] if name in required else [f"default {json.dumps(field.get('default'), ensure_ascii=False)}"]
        description = f" – {field['description']}" if field.get("description") else ""
        shown.append((name, ", ".join(parts) + description))
    return shown


async def _call(env_file: Path | None, name: str, arguments: str, call_id: str, context: Any, *, approve: bool) -> int:
    parts = _make_tools(env_file)
    await parts.start(_MCP_SECONDS)
    try:
        requested = parts.registry.resolve(call_id, name, arguments)
        if requested.refusal is not None:
            click.echo(f"aura: {requested.refusal}", err=True)
            print_missing_servers(parts)  # the tool may be one of theirs
            return _REFUSED
        if not _is_approved(requested, approve=approve):
            click.echo("aura: the tool was not run: the call was not approved", err=True)
            return _REFUSED
        return _print_outcome(await _execute(parts, requested, context))
    finally:
        await parts.stop()


def _is_approved(requested: RequestedCall, *, approve: bool) -> bool:
    for warning in requested.warnings:
        click.echo(f"warning: {warning.field or 'call'}: {warning.message}", err=True)
    if not requested.needs_approval or approve:
        return True
    shown = json.dumps(requested.shown_arguments, ensure_ascii=False)
    click.echo(f"{requested.name}({shown})", err=True)
    return click.confirm(requested.question or f"{requested.title}: run it?", err=True)


async def _execute(parts: ToolParts, requested: RequestedCall, context: Any) -> ToolFinished:
    """Run the call as a run would: with the grant of a person where it needs one."""
    import time

    from statemachine.call import CallStatus, Confidence, Grant, ToolCall
    from statemachine.stored import digest

    now = time.time()
    grant = Grant(request_id="by-hand", arguments_digest=digest(requested.arguments), decided_at=now)
    call = ToolCall.of(requested, id=requested.id, confidence=Confidence.UNKNOWN, turn=1)
    started = {"status": CallStatus.STARTED, "started_at": now, "grant": grant if requested.needs_approval else None}
    fields = {name: getattr(call, name) for name in ToolCall.__struct_fields__}
    return await parts.registry.execute(ToolCall(**fields | started), context)


def _print_outcome(finished: ToolFinished) -> int:
    if finished.error is not None:
        click.echo(f"aura: {finished.error}", err=True)
        return _FAILED
    click.echo(json.dumps(finished.result, ensure_ascii=False, indent=2))
    return 0
