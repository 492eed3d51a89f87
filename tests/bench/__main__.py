"""`python -m tests.bench [scenario…] [--json] [--profile] [--chart FILE]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import uvloop

from tests.bench import report
from tests.bench.profile import Profiler
from tests.bench.scenarios import SCENARIOS, ScenarioResult


@click.command()
@click.argument("names", metavar="[SCENARIO]…", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the tables.")
@click.option("--profile", is_flag=True, help="Profile the service (needs py-spy).")
@click.option(
    "--chart", type=click.Path(dir_okay=False, path_type=Path), help="Write the scaling curves to this file as SVG."
)
@click.option("--rounds", default=3, show_default=True, help="Measure this many rounds and report the median.")
def main(*, names: tuple[str, ...], as_json: bool, profile: bool, chart: Path | None, rounds: int) -> None:
    """Measure the service with a Redis and a model stub that are started for it. Without SCENARIO, all are measured."""
    profiler = Profiler() if profile else None
    results: list[ScenarioResult] = []
    for name in names or SCENARIOS:
        result: ScenarioResult = uvloop.run(SCENARIOS[name](rounds, profiler))
        results.append(result)
        if not as_json:
            click.echo(report.format_result(result))
    if as_json:
        json.dump(report.to_json_object(results), sys.stdout, indent=1, ensure_ascii=False)
    else:
        click.echo(report.format_table(results))
    if profiler is not None:
        click.echo(profiler.describe())
    if chart is not None:
        report.write_chart(results, chart)


if __name__ == "__main__":
    main()
