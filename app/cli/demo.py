"""The command `aura demo`: the whole service with everything that it needs, on one machine."""

from __future__ import annotations

import sys
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
def demo(
    *,
    port: int | None,
    prompt: str | None,
    context: dict[str, Any],
    verdict: Literal["approve", "reject"] | None,
    reason: str | None,
) -> None:
    """Run the service on this machine with a Redis, a scripted model, a mail sink and a GitHub stand-in.

    Nothing needs to be installed. If OPENAI_API_KEY is set, the real model is used. Nothing else leaves this machine.
    """
    from app.dev.demo import walkthrough

    if prompt is None and (context or verdict or reason):
        raise click.UsageError("--context, --approve and --reject need --prompt")
    sys.exit(
        walkthrough.serve(port or 9000)
        if prompt is None
        else walkthrough.run_prompt(prompt, context, verdict, reason, port or 0)
    )
