"""`aura diagram`, `aura timeline`: the machine, and runs as they went through it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import click

from app.cli.options import Asker, asker_options, deliver, output_option

if TYPE_CHECKING:
    from app.web.diagrams import DiagramFormat

Answer = TypeVar("Answer")
_COLUMNS = 120
"""Where there is no terminal to ask."""


@click.command()
@click.option(
    "--format",
    type=click.Choice(["mermaid", "dot", "svg", "png", "json", "table"]),
    default="mermaid",
    show_default=True,
    help="`json` is a machine config that XState loads.",
)
@click.option("--session", "session_id", metavar="SESSION", help="Mark where this run of a running service stands.")
@output_option
@click.option("--check", is_flag=True, help="Prove the machine's properties instead, and print them.")
@asker_options
def diagram(*, format: DiagramFormat, session_id: str | None, output: Path | None, check: bool, asker: Asker) -> None:
    """Draw the state machine, from the table that runs.

    With --check, ends with 1 if a property does not hold.
    """
    if check:
        if session_id or output:
            raise click.UsageError("--check goes with neither --session nor --output")
        sys.exit(_prove())
    if session_id is None:
        from app.web.diagrams import draw

        drawing = draw(format)
    else:
        drawing = _fetched(asker, "/aura/fsm/diagram", bytes, format=format, sessionId=session_id)
    if format == "png" and output is None and sys.stdout.isatty():
        raise click.UsageError("a PNG is not for the terminal: give --output FILE")
    deliver(drawing, output)


def _prove() -> int:
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


@click.command()
@click.argument("session_id", metavar="SESSION")
@click.option(
    "--format",
    type=click.Choice(["chart", "json", "trace"]),
    default="chart",
    show_default=True,
    help="`trace` opens in Perfetto and chrome://tracing.",
)
@output_option
@asker_options
def timeline(*, session_id: str, format: Literal["chart", "json", "trace"], output: Path | None, asker: Asker) -> None:
    """Show where the time of a run went: states, model turns, tools, waits, decisions."""
    from urllib.parse import quote

    from app.dev.ask.chart import chart, indented, timeline_of

    path = f"/aura/runs/{quote(session_id, safe='')}/timeline"
    if format == "trace":
        deliver(_fetched(asker, path, bytes, format="trace"), output)
        return
    shown = _fetched(asker, path, timeline_of)
    is_terminal = output is None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else _COLUMNS
    text = chart(shown, width=width, is_coloured=is_terminal) if format == "chart" else indented(shown)
    deliver(text.encode(), output)


def _fetched(asker: Asker, path: str, read: Callable[[bytes], Answer], **parameters: str) -> Answer:
    """What the service answers. Ends the command with one line and 2 where it does not, or not what is expected."""
    import asyncio

    from app.client.answers import ClientError

    client = asker.client()

    async def fetch() -> bytes:
        async with client:
            return await client.fetch(path, **parameters)

    try:
        return read(asyncio.run(fetch()))
    except ClientError as error:
        click.echo(f"aura: {error}", err=True)
        sys.exit(2)
