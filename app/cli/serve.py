"""The command `aura serve`: runs the service."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from app.cli.options import env_file_option


@click.command()
@click.option(
    "--bind", metavar="HOST:PORT", help="Listen on this address. [default: that of hypercorn.toml, port 9000]"
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Run this many processes on that port."
)
@env_file_option
def serve(bind: str | None, workers: int, env_file: Path | None) -> None:
    """Run the service. Its settings come from the environment and from a file `.env` (see README)."""
    from app import logs
    from app.cli.env_file import with_env_file
    from app.server import process
    from app.server.config import load_config
    from app.server.supervisor import supervise
    from app.settings import Settings, environment_of_process

    environment = with_env_file(environment_of_process(), env_file)
    settings = Settings.from_environment(environment)
    logs.configure(settings.aura_log_level, settings.aura_log_format, settings.secrets)
    config = load_config(bind)
    if workers > 1:
        sys.exit(supervise(workers, config, settings, environment))
    process.run(lambda: process.serve(settings, config))
