"""`python -m tests.bench [scenario…] [--json] [--profile] [--chart FILE]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import uvloop

from tests.bench import report
from tests.bench.profile import Profiler
from tests.bench.scenarios import SCENARIOS, Outcome


@click.command()
@click.argument("names", metavar="[SCENARIO]…", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the tables.")
@click.option("--profile", is_flag=True, help="Show where the service's time goes (needs py-spy).")
@click.option("--chart", type=click.Path(dir_okay=False, path_type=Path), help="Draw the scaling lines, as SVG.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of which the median counts.")
def main(*, names: tuple[str, ...], as_json: bool, profile: bool, chart: Path | None, rounds: int) -> None:
    """Measure the service on a Redis and a stub model of its own; no SCENARIO means all."""
    profiler = Profiler() if profile else None
    outcomes: list[Outcome] = []
    for name in names or SCENARIOS:
        outcome: Outcome = uvloop.run(SCENARIOS[name](rounds, profiler))
        outcomes.append(outcome)
        if not as_json:
            click.echo(report.told(outcome))
    if as_json:
        json.dump(report.as_json(outcomes), sys.stdout, indent=1, ensure_ascii=False)
    else:
        click.echo(report.table(outcomes))
    if profiler is not None:
        click.echo(profiler.told())
    if chart is not None:
        report.draw(outcomes, chart)


if __name__ == "__main__":
    main()
