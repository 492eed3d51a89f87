"""`aura demo`, `aura chaos`: everything on one machine, whole or while it is being broken."""

from __future__ import annotations

import sys
from typing import Any, Literal

import click

from app.cli.options import approve_option, context_option, reject_option


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Where to listen.  [default: 9000; any with --prompt]")
@click.option("--prompt", help="Run this one and end, instead of serving.")
@context_option
@approve_option
@reject_option
@click.option("--reason", help="Why, with --reject.")
def demo(
    *,
    port: int | None,
    prompt: str | None,
    context: dict[str, Any],
    verdict: Literal["approve", "reject"] | None,
    reason: str | None,
) -> None:
    """Everything on this machine, with nothing installed: a Redis, a scripted model, a mail sink, a GitHub stand-in.

    With OPENAI_API_KEY set the model is real. Nothing else leaves this machine.
    """
    from app.dev.demo import walkthrough

    if prompt is None and (context or verdict or reason):
        raise click.UsageError("--context, --approve and --reject go with --prompt")
    if reason is not None and verdict != "reject":
        raise click.UsageError("--reason goes with --reject")
    sys.exit(
        walkthrough.serve(port or 9000)
        if prompt is None
        else walkthrough.play(prompt, context, verdict, reason, port or 0)
    )


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=300, show_default=True, help="Runs to start.")
@click.option(
    "--kill-every", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds between faults."
)
@click.option("--nodes", type=click.IntRange(2, 16), default=3, show_default=True, help="Nodes, a process each.")
@click.option("--seed", type=int, help="Of the plan of runs and faults.  [default: a random one, which is told]")
@click.option("--lease", type=click.FloatRange(min=1), help="AURA_LEASE_SECONDS.  [default: the service's own]")
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
def chaos(*, runs: int, kill_every: float, nodes: int, seed: int | None, lease: float | None, as_json: bool) -> None:
    """Kill nodes and Redis while runs with tools and approvals go on; nothing may be lost or happen twice.

    Real processes on 127.0.0.1, nothing else. Ends with 0 only if nothing was.
    """
    import secrets

    from app.dev.chaos import report
    from app.dev.chaos.experiment import Options
    from app.settings import Settings

    options = Options(
        runs=runs,
        kill_every_seconds=kill_every,
        nodes=nodes,
        seed=secrets.randbelow(10**6) if seed is None else seed,
        lease_seconds=lease or float(Settings.model_fields["aura_lease_seconds"].default),
    )
    sys.exit(report.run(options, as_json=as_json))
