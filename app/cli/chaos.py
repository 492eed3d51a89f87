"""The command `aura chaos`: kills nodes and Redis while runs proceed, and compares the outcome with what it must be."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=300, show_default=True, help="Start this many runs.")
@click.option(
    "--kill-every",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Inject a fault every N seconds.",
)
@click.option(
    "--redis",
    type=click.Choice(["single", "cluster", "sentinel"]),
    default="single",
    show_default=True,
    help="Start one Redis server, a cluster of three masters with a replica each, or a master with two replicas and"
    " three sentinels.",
)
@click.option(
    "--replicas",
    type=click.IntRange(min=0),
    help="Set AURA_REDIS_REPLICAS. With 0, what a failover loses is counted apart.  [default: all of a master]",
)
@click.option(
    "--nodes", type=click.IntRange(2, 16), default=3, show_default=True, help="Start this many nodes, one process each."
)
@click.option(
    "--seed", type=int, help="Repeat the plan of runs and faults of this seed.  [default: a random seed, printed]"
)
@click.option(
    "--lease", type=click.FloatRange(min=1), help="Set AURA_LEASE_SECONDS.  [default: the default of the service]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def chaos(
    *,
    runs: int,
    kill_every: float,
    redis: str,
    replicas: int | None,
    nodes: int,
    seed: int | None,
    lease: float | None,
    as_json: bool,
) -> None:
    """Kill nodes and Redis while runs with tools and approvals proceed; nothing may be lost or happen twice.

    Real processes are started on 127.0.0.1; nothing else is contacted. The exit code is 0 only if nothing was lost and
    nothing happened twice. Ctrl-C prints the verdict so far; the exit code is 130 then.
    """
    import secrets

    from app.dev.chaos import report
    from app.dev.chaos.experiment import Options
    from app.dev.chaos.faults import RedisKind
    from app.dev.chaos.storage import STORAGES
    from app.settings import Settings

    kind = RedisKind(redis)
    most = STORAGES[kind].max_replicas
    if replicas is not None and replicas > most:
        raise click.BadParameter(f"a master has {most} with --redis {redis}", param_hint="--replicas")
    options = Options(
        runs=runs,
        kill_every_seconds=kill_every,
        nodes=nodes,
        seed=secrets.randbelow(10**6) if seed is None else seed,
        lease_seconds=lease or float(Settings.model_fields["aura_lease_seconds"].default),
        redis=kind,
        replicas=most if replicas is None else replicas,
    )
    sys.exit(report.run(options, as_json=as_json))
