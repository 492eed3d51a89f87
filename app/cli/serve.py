"""`aura serve`, `aura token`: the service and a token for it."""

from __future__ import annotations

import sys

import click

from app.cli.options import issue_token_from_settings


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="Where to listen. [default: what hypercorn.toml says, port 9000]")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes on that port.")
def serve(bind: str | None, workers: int) -> None:
    """Run the service. Settings come from the environment (see README)."""
    from app import logs
    from app.server import process as server
    from app.server.config import load_config
    from app.server.supervisor import supervise
    from app.settings import Settings

    settings = Settings.from_environment()
    logs.configure(settings.aura_log_level, settings.aura_log_format, settings.secrets)
    config = load_config(bind)
    if workers > 1:
        sys.exit(supervise(workers, config))
    server.run(lambda: server.serve(settings, config))


@click.command()
@click.option("--user", required=True, help="`sub` of the token.")
@click.option("--tenant", required=True, help="`tenant_id` of the token.")
@click.option("--role", help="`role`, e.g. admin or approver.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), default=24, show_default=True, help="Lifetime.")
def token(user: str, tenant: str, role: str | None, hours: float) -> None:
    """Print a token signed with JWT_SECRET, for development."""
    click.echo(issue_token_from_settings(user, tenant, role, hours))
