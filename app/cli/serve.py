"""The command `aura serve`: runs the service."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option(
    "--bind", metavar="HOST:PORT", help="Listen on this address. [default: that of hypercorn.toml, port 9000]"
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Run this many processes on that port."
)
def serve(bind: str | None, workers: int) -> None:
    """Run the service. Its settings come from the environment (see README)."""
    from app import logs
    from app.server import process
    from app.server.config import load_config
    from app.server.supervisor import supervise
    from app.settings import Settings

    settings = Settings.from_environment()
    logs.configure(settings.aura_log_level, settings.aura_log_format, settings.secrets)
    config = load_config(bind)
    if workers > 1:
        sys.exit(supervise(workers, config))
    process.run(lambda: process.serve(settings, config))
