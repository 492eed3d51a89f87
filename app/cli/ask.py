"""The command `aura ask`: starts a run, or attaches to one, and shows it in the terminal."""

from __future__ import annotations

import sys
from typing import Any, Literal

import click

from app.cli.options import ServiceAccess, access_options, context_option, decision_options


@click.command()
@click.argument("prompt", required=False)
@click.option("--attach", "session_id", metavar="SESSION", help="Show an existing run instead of starting one.")
@click.option("--agent", metavar="NAME", help="Let this agent run the prompt. [default: the service decides]")
@access_options
@context_option
@decision_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line, for programs.")
def ask(
    *,
    prompt: str | None,
    session_id: str | None,
    agent: str | None,
    access: ServiceAccess,
    context: dict[str, Any],
    verdict: Literal["approve", "reject"] | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Send PROMPT to a running service and show the run as it proceeds. You decide its approvals here.

    The exit code is 0 if the run completed, 1 if it did not complete, 2 if the service refused it, and 130 after
    Ctrl-C (the run continues). It is 129 if the terminal was closed, and 143 after SIGTERM; neither decides anything.
    """
    from app.dev.ask import conversation

    if (prompt is None) == (session_id is None):
        raise click.UsageError("give a PROMPT, or --attach SESSION")
    if session_id is not None and context:
        raise click.UsageError("--context needs a PROMPT: the context of an existing run is fixed")
    if session_id is not None and agent is not None:
        raise click.UsageError("--agent needs a PROMPT: the agent of an existing run is fixed")
    client = access.client()
    is_interactive = conversation.is_at_terminal() and not as_json
    policy = conversation.ApprovalPolicy(verdict, reason, is_interactive=is_interactive)
    stream = client.run(prompt, context, agent=agent) if prompt is not None else client.attach(session_id or "")
    sys.exit(conversation.run_in_terminal(client, stream, policy, prompt=prompt, as_json=as_json))
