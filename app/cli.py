"""The command line: `aura serve | token | ask | demo | diagram | chaos`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from app.errors import AuraError

if TYPE_CHECKING:
    from statemachine.diagram import Format


class _Commands(click.Group):
    """Errors of ours are one line on stderr, exit code 2; never a stack trace."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except AuraError as error:
            click.echo(f"aura: {error.message}", err=True)
            sys.exit(2)


@click.group(cls=_Commands)
@click.version_option(package_name="aura-platform")
def main() -> None:
    """Aura: the AI-agent service of the DWP platform."""


@main.command()
@click.option("--bind", metavar="HOST:PORT", help="Where to listen. [default: what hypercorn.toml says, port 9000]")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes on that port.")
def serve(bind: str | None, workers: int) -> None:
    """Run the service. Settings come from the environment (see README)."""
    from app import logs, server
    from app.settings import Settings

    settings = Settings.from_environment()
    logs.configure(settings.aura_log_level, settings.aura_log_format, settings.secrets)
    config = server.configuration(bind)
    if workers > 1:
        sys.exit(server.supervise(workers, config))
    server.run(lambda: server.serve(settings, config))


@main.command()
@click.option("--user", required=True, help="`sub` of the token.")
@click.option("--tenant", required=True, help="`tenant_id` of the token.")
@click.option("--role", help="`role`, e.g. admin or approver.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), default=24, show_default=True, help="Lifetime.")
def token(user: str, tenant: str, role: str | None, hours: float) -> None:
    """Print a token signed with JWT_SECRET, for development."""
    click.echo(_minted(user, tenant, role, hours))


def _minted(user: str, tenant: str, role: str | None, hours: float) -> str:
    from app.auth import mint
    from app.settings import Settings

    secret = Settings.from_environment().jwt_secret.get_secret_value()
    lifetime = int(hours * 3600)
    return mint(secret, user_id=user, tenant_id=tenant, role=role, now=time.time(), lifetime_seconds=lifetime)


@main.command("diagram")
@click.option(
    "--format",
    type=click.Choice(["mermaid", "dot", "json", "table"]),
    default="mermaid",
    show_default=True,
    help="`json` is a machine config that XState loads.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file. [default: the terminal]")
def draw(format: Format, output: Path | None) -> None:
    """Draw the state machine, from the table that runs."""
    from statemachine import diagram

    drawing = diagram.render(format)
    if output is None:
        click.echo(drawing, nl=False)
        return
    try:
        output.write_text(drawing, encoding="utf-8")
    except OSError as error:
        raise click.FileError(str(output), error.strerror or "it cannot be written") from error


def _context(_: click.Context, __: click.Parameter, given: str | None) -> dict[str, Any]:
    """The screen's context from JSON text or from `@file`."""
    if not given:
        return {}
    try:
        value = json.loads(Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given)
    except OSError as error:
        raise click.BadParameter(f"{given[1:]}: {error.strerror}") from error
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.BadParameter("a JSON object is required")
    return value


_context_option = click.option(
    "--context", metavar="JSON|@FILE", callback=_context, help="The screen's context, a JSON object."
)
_approve_option = click.option("--approve", "verdict", flag_value="approve", help="Say yes to every approval.")
_reject_option = click.option("--reject", "verdict", flag_value="reject", help="Say no to every approval.")


@main.command()
@click.argument("prompt", required=False)
@click.option("--attach", "session_id", metavar="SESSION", help="Show a run that exists instead of starting one.")
@click.option("--url", default="http://127.0.0.1:9000", show_default=True, help="The service or the gateway's /api.")
@click.option("--token", "given_token", metavar="JWT", help="Whose run it is; or else:")
@click.option("--user", help="`sub` of a token signed with JWT_SECRET.")
@click.option("--tenant", help="`tenant_id` of that token.")
@click.option("--role", help="`role` of that token.")
@_context_option
@_approve_option
@_reject_option
@click.option("--reason", help="Why, with --reject.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
def ask(
    *,
    prompt: str | None,
    session_id: str | None,
    url: str,
    given_token: str | None,
    user: str | None,
    tenant: str | None,
    role: str | None,
    context: dict[str, Any],
    verdict: Literal["approve", "reject"] | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Ask PROMPT of a running service and show the run as it goes; approvals are asked here.

    Ends with 0 completed, 1 not completed, 2 refused, 130 Ctrl-C (the run goes on).
    """
    from app.ask import conversation as asking
    from app.ask.answers import ClientError
    from app.ask.client import AuraClient, Caller

    if (prompt is None) == (session_id is None):
        raise click.UsageError("give a PROMPT, or --attach SESSION")
    if reason is not None and verdict != "reject":
        raise click.UsageError("--reason goes with --reject")
    if given_token is None:
        if not user or not tenant:
            raise click.UsageError("say who asks: --token JWT, or --user and --tenant with JWT_SECRET set")
        given_token = _minted(user, tenant, role, hours=1)
    try:
        client = AuraClient(url, Caller.of(given_token))
    except ClientError as error:
        raise click.UsageError(str(error)) from error
    policy = asking.Policy(verdict, reason, is_interactive=asking.at_terminal() and not as_json)
    stream = client.run(prompt, context) if prompt is not None else client.attach(session_id or "")
    sys.exit(asking.in_terminal(client, stream, policy, prompt=prompt, as_json=as_json))


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Where to listen.  [default: 9000; any with --prompt]")
@click.option("--prompt", help="Run this one and end, instead of serving.")
@_context_option
@_approve_option
@_reject_option
@click.option("--reason", help="Why, with --reject.")
def demo(
    *,
    port: int | None,
    prompt: str | None,
    context: dict[str, Any],
    verdict: Literal["approve", "reject"] | None,
    reason: str | None,
) -> None:
    """Everything on this machine, with nothing installed: a Redis, a scripted model, a mail sink, a GitHub stand-in.

    With OPENAI_API_KEY set the model is real. Nothing else leaves this machine.
    """
    from app.demo import tour

    if prompt is None and (context or verdict or reason):
        raise click.UsageError("--context, --approve and --reject go with --prompt")
    if reason is not None and verdict != "reject":
        raise click.UsageError("--reason goes with --reject")
    sys.exit(tour.serve(port or 9000) if prompt is None else tour.play(prompt, context, verdict, reason, port or 0))


@main.command()
@click.option("--runs", type=click.IntRange(min=1), default=300, show_default=True, help="Runs to start.")
@click.option(
    "--kill-every", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds between faults."
)
@click.option("--nodes", type=click.IntRange(2, 16), default=3, show_default=True, help="Nodes, a process each.")
@click.option("--seed", type=int, help="Of the plan of runs and faults.  [default: a random one, which is told]")
@click.option("--lease", type=click.FloatRange(min=1), help="AURA_LEASE_SECONDS.  [default: the service's own]")
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
def chaos(*, runs: int, kill_every: float, nodes: int, seed: int | None, lease: float | None, as_json: bool) -> None:
    """Kill nodes and Redis while runs with tools and approvals go on; nothing may be lost or happen twice.

    Real processes on 127.0.0.1, nothing else. Ends with 0 only if nothing was.
    """
    import secrets

    from app.chaos import report
    from app.chaos.trial import Options
    from app.settings import Settings

    options = Options(
        runs=runs,
        kill_every_seconds=kill_every,
        nodes=nodes,
        seed=secrets.randbelow(10**6) if seed is None else seed,
        lease_seconds=lease or float(Settings.model_fields["aura_lease_seconds"].default),
    )
    sys.exit(report.run(options, as_json=as_json))
