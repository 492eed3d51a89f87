"""The command line `aura`: one module for each command, and the options that commands share (`options`)."""

from __future__ import annotations

import sys

import click

from app.cli.agents import agents
from app.cli.ask import ask
from app.cli.audit import audit
from app.cli.chaos import chaos
from app.cli.demo import demo
from app.cli.diagram import diagram
from app.cli.erase import erase
from app.cli.knowledge import knowledge
from app.cli.model import model
from app.cli.serve import serve
from app.cli.timeline import timeline
from app.cli.token import token
from app.cli.tools import tools
from app.errors import AuraError


class _Commands(click.Group):
    """Prints an `AuraError` as one line on stderr and exits with code 2, without a stack trace."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except AuraError as error:
            click.echo(f"aura: {error.prefix} {error.log_cause}".replace(":  ", ": "), err=True)
            sys.exit(2)


@click.group(cls=_Commands)
@click.version_option(package_name="aura-platform")
def main() -> None:
    """Aura is the AI-agent service of the DWP platform."""


for _command in (serve, token, ask, timeline, diagram, audit, erase, knowledge, model, tools, agents, demo, chaos):
    main.add_command(_command)
