"""The command `aura token`: issues a token for development."""

from __future__ import annotations

import click

from app.cli.options import issue_token_from_settings


@click.command()
@click.option("--user", required=True, help="Set the claim `sub`.")
@click.option("--tenant", required=True, help="Set the claim `tenant_id`.")
@click.option("--role", help="Set the claim `role`, e.g. admin or approver.")
@click.option("--email", help="Set the claim `email`: events that name this address are found, too.")
@click.option(
    "--hours", type=click.FloatRange(0, min_open=True), default=24, show_default=True, help="Set the lifetime in hours."
)
def token(user: str, tenant: str, role: str | None, email: str | None, hours: float) -> None:
    """Print a token that is signed with JWT_SECRET, for development."""
    click.echo(issue_token_from_settings(user, tenant, role, hours, email))
