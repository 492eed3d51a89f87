"""The command `aura timeline`: shows how long each part of a run took."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Literal

import click

from app.cli.options import ServiceAccess, access_options, output_option, write_output

_COLUMNS = 120
"""The width of the chart where the output is not a terminal."""


@click.command()
@click.argument("session_id", metavar="SESSION")
@click.option(
    "--format",
    type=click.Choice(["chart", "json", "trace"]),
    default="chart",
    show_default=True,
    help="Choose the format; Perfetto and chrome://tracing open `trace`.",
)
@output_option
@access_options
def timeline(
    *, session_id: str, format: Literal["chart", "json", "trace"], output: Path | None, access: ServiceAccess
) -> None:
    """Show how long the states, model turns, tools, waits and decisions of a run took."""
    from urllib.parse import quote

    from app.dev.ask.chart import format_chart, format_json, parse_timeline

    path = f"/aura/runs/{quote(session_id, safe='')}/timeline"
    if format == "trace":
        write_output(access.fetch(path, bytes, format="trace"), output)
        return
    fetched = access.fetch(path, parse_timeline)
    is_terminal = output is None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else _COLUMNS
    text = format_chart(fetched, width=width, is_coloured=is_terminal) if format == "chart" else format_json(fetched)
    write_output(text.encode(), output)
