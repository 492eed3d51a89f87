"""The command `aura erase`: removes what is stored of a person."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from app.ports.erasure import Counts
    from app.settings import Settings

_EXIT_RUNS_ACTIVE = 1
_KEPT = "the record of decisions (aura audit) stays: it has digests and no content, and now this erasure"


@click.command()
@click.option("--user", required=True, help="The id of the person: `sub` of the person's tokens.")
@click.option("--tenant", required=True, help="The tenant of the person.")
@click.option("--dry-run", is_flag=True, help="Only count what would be removed.")
@click.option("--cancel", is_flag=True, help="Cancel runs that have not ended. [default: refuse]")
def erase(*, user: str, tenant: str, dry_run: bool, cancel: bool) -> None:
    """Remove what is stored of a person in Redis and, with AURA_ARCHIVE_URL, in the archive.

    These are runs with their prompts, answers and logs, threads, idempotency keys, tokens, approval requests, and the
    domain events of this person. The record of decisions gets an entry with the numbers. The command can be repeated.
    The exit code is 1 if runs have not ended.
    """
    if dry_run:
        counts, active = asyncio.run(_count(tenant, user))
        _print(counts, "would be removed")
        if active:
            click.secho(f"{len(active)} runs have not ended: {', '.join(active[:5])}", fg="yellow")
        return
    counts, cause = asyncio.run(_erase(tenant, user, cancel=cancel))
    if cause is not None:
        click.secho(f"nothing was removed: {cause}", fg="red", err=True)
        sys.exit(_EXIT_RUNS_ACTIVE)
    _print(counts, "were removed")
    click.echo(_KEPT)


def _print(counts: Counts, what: str) -> None:
    for kind, count in sorted(counts.items()):
        click.echo(f"{count:>8} {kind}")
    click.echo(f"{sum(counts.values())} things {what}")


async def _count(tenant: str, user: str) -> tuple[Counts, list[str]]:
    from app.bootstrap.erasure import person_eraser

    async with person_eraser(_settings()) as eraser:
        return await eraser.erasure.count(tenant, user), await eraser.erasure.active_runs(tenant, user)


async def _erase(tenant: str, user: str, *, cancel: bool) -> tuple[Counts, str | None]:
    """Return what was removed, or why nothing was."""
    from app.bootstrap.erasure import person_eraser
    from app.errors import RunsActive

    async with person_eraser(_settings()) as eraser:
        try:
            return await eraser.erase(tenant, user, cancel=cancel), None
        except RunsActive as error:
            return {}, error.cause


def _settings() -> Settings:
    from app import logs
    from app.settings import Settings

    settings = Settings.from_environment()
    logs.configure("ERROR", "console", settings.secrets)
    return settings
