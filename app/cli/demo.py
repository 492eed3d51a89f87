"""The command `aura demo`: the whole service with everything that it needs, on one machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import click

from app.cli.options import context_option, decision_options


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Listen on this port.  [default: 9000; with --prompt a free one]"
)
@click.option("--prompt", help="Execute this prompt and exit, instead of serving.")
@context_option
@decision_options
@click.option(
    "--scenarios",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Let the scripted model play the scenarios of this folder first (fixtures/README.md has their format).",
)
def demo(
    *,
    port: int | None,
    prompt: str | None,
    scenarios: Path | None,
    context: dict[str, Any],
    verdict: Literal["approve", "reject"] | None,
    reason: str | None,
) -> None:
    """Run the service on this machine with a Redis, a scripted model, a mail sink and a GitHub stand-in.

    Nothing needs to be installed. If OPENAI_API_KEY is set, the real model is used. Nothing else leaves this machine.
    The settings of tools, MCP servers and agents (AURA_TOOLS and others) count here too.
    """
    from app.dev.demo import walkthrough
    from app.dev.demo.scenarios import load_scenarios

    if prompt is None and (context or verdict or reason):
        raise click.UsageError("--context, --approve and --reject need --prompt")
    try:
        played = load_scenarios(scenarios) if scenarios is not None else []
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--scenarios") from None
    sys.exit(
        walkthrough.serve(port or 9000, played)
        if prompt is None
        else walkthrough.run_prompt(prompt, context, verdict, reason, port or 0, played)
    )
