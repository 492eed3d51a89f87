"""The command line: `aura serve | token | ask | timeline | diagram | knowledge | demo | chaos`, a module a group."""

from __future__ import annotations

import sys

import click

from app.cli.ask import ask
from app.cli.demo import chaos, demo
from app.cli.diagram import diagram, timeline
from app.cli.knowledge import knowledge
from app.cli.serve import serve, token
from app.errors import AuraError


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


for _command in (serve, token, ask, timeline, diagram, knowledge, demo, chaos):
    main.add_command(_command)
