"""The command `aura diagram`: draws the state machine, or checks its properties."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.cli.options import ServiceAccess, access_options, output_option, write_output

if TYPE_CHECKING:
    from app.web.diagrams import DiagramFormat


@click.command()
@click.option(
    "--format",
    type=click.Choice(["mermaid", "dot", "svg", "png", "json", "table"]),
    default="mermaid",
    show_default=True,
    help="Choose the format; `json` is a machine configuration that XState loads.",
)
@click.option("--session", "session_id", metavar="SESSION", help="Mark the state of this run of a running service.")
@output_option
@click.option("--check", is_flag=True, help="Prove the properties of the machine instead, and print them.")
@access_options
def diagram(
    *, format: DiagramFormat, session_id: str | None, output: Path | None, check: bool, access: ServiceAccess
) -> None:
    """Draw the state machine from the transition table that the service runs.

    With --check, the exit code is 1 if a property does not hold.
    """
    if check:
        if session_id or output:
            raise click.UsageError("--check cannot be combined with --session or --output")
        sys.exit(_check_properties())
    if session_id is None:
        from app.web.diagrams import draw

        drawing = draw(format)
    else:
        drawing = access.fetch("/aura/fsm/diagram", bytes, format=format, sessionId=session_id)
    if format == "png" and output is None and sys.stdout.isatty():
        raise click.UsageError("a PNG cannot be shown in a terminal: give --output FILE")
    write_output(drawing, output)


def _check_properties() -> int:
    """Print each property of the machine with its proof or counterexample; return the exit code."""
    from statemachine.checking import check

    proofs = check()
    for proof in proofs:
        click.echo(f"{'✔' if proof.holds else '✗'} {proof.claim}")
        click.echo(f"    {proof.coverage}")
        if proof.counterexample is not None:
            click.echo(f"    does not hold: {proof.counterexample}")
    broken = sum(not proof.holds for proof in proofs)
    click.echo(f"{len(proofs) - broken} of {len(proofs)} properties hold")
    return 1 if broken else 0
