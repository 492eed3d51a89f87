"""The command `aura model check`: shows what the configured model servers can do."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from app.model.check import ServerReport, TurnReport
    from app.settings import Settings

_MAX_DETAIL_CHARACTERS = 400


@click.group()
def model() -> None:
    """Examine the model servers of the settings."""


@model.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per server and line, for programs.")
def check(*, as_json: bool) -> None:
    """Request one answer and one tool call from each model server, and print what it can do.

    The servers are that of OPENAI_BASE_URL and those of AURA_MODEL_FALLBACKS. The tool is not run, and Redis is not
    needed. The exit code is 0 if the first server can answer and call tools, else 1.
    """
    from app import logs
    from app.settings import Settings

    settings = Settings.from_environment()
    logs.configure("ERROR", "console", settings.secrets)
    sys.exit(0 if asyncio.run(_check_all(settings, as_json=as_json)) else 1)


async def _check_all(settings: Settings, *, as_json: bool) -> bool:
    """Print the report of each server as soon as there is one. Return whether the first server is usable."""
    from app.bootstrap.model import make_models
    from app.model.check import check_server

    usable: list[bool] = []
    for server, client in zip(settings.model_servers, make_models(settings), strict=True):
        try:
            report = await check_server(client, server.base_url.partition("?")[0])
        finally:
            await client.close()
        if as_json:
            click.echo(report.to_json())
        else:
            _print_report(report, is_first=not usable)
        usable.append(report.is_usable)
    return usable[0]


def _print_report(report: ServerReport, *, is_first: bool) -> None:
    if not is_first:
        click.echo()
    click.secho(_printable(f"{report.model} at {report.address} ({'main' if is_first else 'fallback'})"), bold=True)
    answer, call = report.answer, report.tool_call
    _print_row("answer", answer.problem is None, _describe_answer(answer))
    if answer.detail:
        click.echo(f"      {_printable(answer.detail)}")
    if not answer.is_error:
        streams = f"{answer.pieces} pieces in {answer.seconds:.2f} s" if report.streams else "the answer came at once"
        _print_row("streaming", report.streams, streams)
        _print_row("usage", answer.usage is not None, _describe_usage(answer))
        is_shown = answer.shows_reasoning or (call is not None and call.shows_reasoning)
        _print_row("reasoning", None, "shown" if is_shown else "not shown")
    if call is not None:
        _print_row("tool call", call.problem is None, _describe_call(call))
        if call.detail:
            click.echo(f"      {_printable(call.detail)}")
        _print_row("features", None, f"refused: {', '.join(report.refused_features) or 'none'}")
    click.echo(f"  → {'usable' if report.is_usable else 'not usable'} for runs")


def _describe_answer(turn: TurnReport) -> str:
    if turn.problem is not None:
        return _describe_problem(turn)
    return f"first word after {turn.first_word_seconds or 0:.2f} s, finish_reason {turn.finish_reason}"


def _describe_call(turn: TurnReport) -> str:
    if turn.problem is not None:
        return _describe_problem(turn)
    return f"{turn.call_name} {turn.call_arguments}, finish_reason {turn.finish_reason}"


def _describe_problem(turn: TurnReport) -> str:
    """Return the cause with its kind, and the arguments where a call has the wrong ones."""
    kind = f"{turn.failure}: " if turn.failure else ""
    return f"{kind}{turn.problem}" + (f": {turn.call_arguments}" if turn.call_arguments else "")


def _describe_usage(turn: TurnReport) -> str:
    if turn.usage is None:
        return "not reported; budgets count estimates"
    usage = turn.usage
    return f"{usage.prompt_tokens} tokens read ({usage.cached_tokens} from a cache), {usage.completion_tokens} written"


def _print_row(name: str, is_good: bool | None, text: str) -> None:
    """Print one finding with its mark; None is for what is neither good nor bad."""
    mark = "·" if is_good is None else "✔" if is_good else "✗"
    click.echo(f"  {mark} {name:<10} {_printable(text)}")


def _printable(text: str) -> str:
    """Return text of a server in one line, without control characters, which a terminal would obey."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= _MAX_DETAIL_CHARACTERS else f"{line[:_MAX_DETAIL_CHARACTERS]}…"
