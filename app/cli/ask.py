"""`aura ask`: a run in the terminal."""

from __future__ import annotations

import sys
from typing import Any, Literal

import click

from app.cli.options import Asker, approve_option, asker_options, context_option, reject_option


@click.command()
@click.argument("prompt", required=False)
@click.option("--attach", "session_id", metavar="SESSION", help="Show a run that exists instead of starting one.")
@asker_options
@context_option
@approve_option
@reject_option
@click.option("--reason", help="Why, with --reject.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
def ask(
    *,
    prompt: str | None,
    session_id: str | None,
    asker: Asker,
    context: dict[str, Any],
    verdict: Literal["approve", "reject"] | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Ask PROMPT of a running service and show the run as it goes; approvals are asked here.

    Ends with 0 completed, 1 not completed, 2 refused, 130 Ctrl-C (the run goes on).
    """
    from app.dev.ask import conversation as asking

    if (prompt is None) == (session_id is None):
        raise click.UsageError("give a PROMPT, or --attach SESSION")
    if reason is not None and verdict != "reject":
        raise click.UsageError("--reason goes with --reject")
    client = asker.client()
    policy = asking.Policy(verdict, reason, is_interactive=asking.at_terminal() and not as_json)
    stream = client.run(prompt, context) if prompt is not None else client.attach(session_id or "")
    sys.exit(asking.in_terminal(client, stream, policy, prompt=prompt, as_json=as_json))
