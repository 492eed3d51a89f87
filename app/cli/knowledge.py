"""The command `aura knowledge stats | search | rebuild`: inspects the index of the platform's domain events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from app.knowledge.service import Knowledge
    from app.ports.knowledge import LogSummary, SearchResult

ResultT = TypeVar("ResultT")


@click.group()
def knowledge() -> None:
    """Inspect the workspace's events: count them, search them, rebuild the index."""


@knowledge.command()
def stats() -> None:
    """Show what Redis stores for each tenant, and how many messages were malformed."""

    async def read(knowledge: Knowledge) -> tuple[list[LogSummary], dict[str, int]]:
        events = knowledge.events
        return [await events.summary(tenant) for tenant in await events.list_tenants()], await events.malformed_counts()

    summaries, malformed = _with_knowledge(read)
    row = "{:<24} {:>8} {:>8} {:>9}  {:<17} {}"
    click.echo(row.format("tenant", "events", "vectors", "KiB", "oldest", "newest"))
    for summary in sorted(summaries, key=lambda each: -each.events):
        times = (_format_minute(summary.oldest), _format_minute(summary.newest))
        size = f"{summary.bytes / 1024:,.0f}"
        click.echo(row.format(summary.tenant_id, summary.events, summary.vectors, size, *times))
    for reason, count in sorted(malformed.items()):
        click.echo(f"malformed: {count} {reason}")


@knowledge.command()
@click.argument("query")
@click.option("--tenant", required=True, help="Search the workspace of this tenant.")
@click.option("--user", required=True, help="Search as this user: find what they may find.")
@click.option("--email", help="The address in this user's token, if it has one.")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="Find only events from this time on (UTC)."
)
@click.option(
    "--type", "types", multiple=True, help="Find only events of this type, e.g. mail or approval; may be repeated."
)
@click.option("--limit", type=click.IntRange(1, 50), default=5, show_default=True, help="Show at most this many.")
def search(
    *,
    query: str,
    tenant: str,
    user: str,
    email: str | None,
    since: datetime | None,
    types: tuple[str, ...],
    limit: int,
) -> None:
    """Find what the agent would find for QUERY in a run of this user.

    If neither AURA_KNOWLEDGE_PATH nor AURA_KNOWLEDGE_URL is set, the index is built for this search alone.
    """
    from app.ports.knowledge import Query, Searcher

    searcher = Searcher(tenant, user, email)
    request = Query(query, since.replace(tzinfo=UTC).timestamp() if since else None, types, limit)

    async def find(knowledge: Knowledge) -> SearchResult:
        await knowledge.catch_up(tenant)
        return await knowledge.search(searcher, request)

    found = _with_knowledge(find)
    for hit in found.hits:
        click.secho(f"{hit.event.id}  {hit.event.type}  {_format_minute(hit.event.at)}  {hit.event.title}", bold=True)
        click.echo(f"  {' '.join(hit.excerpt.split())}")
    click.echo(f"{len(found.hits)} found by {'words and meaning' if found.used_vectors else 'words'}")


@knowledge.command()
def rebuild() -> None:
    """Make every running process rebuild its index from Redis.

    An index that is stored (AURA_KNOWLEDGE_PATH, AURA_KNOWLEDGE_URL) is rebuilt by this command before it exits.
    """
    from app.settings import Settings

    async def start(knowledge: Knowledge) -> tuple[int, int]:
        notified = await knowledge.events.start_generation()
        settings = Settings.from_environment()
        if settings.aura_knowledge_path is None and settings.aura_knowledge_url is None:
            return notified, 0
        return notified, sum([await knowledge.catch_up(tenant) for tenant in await knowledge.events.list_tenants()])

    notified, entries = _with_knowledge(start)
    click.echo(f"{notified} running process(es) were notified; {entries} entries indexed here")


def _with_knowledge(work: Callable[[Knowledge], Awaitable[ResultT]]) -> ResultT:
    """Run `work` with a `Knowledge` that is opened for this command from the settings of the environment."""
    from app import logs
    from app.bootstrap.knowledge import own_knowledge
    from app.settings import Settings

    settings = Settings.from_environment()
    logs.configure("ERROR", "console", settings.secrets)

    async def main() -> ResultT:
        async with own_knowledge(settings) as knowledge:
            return await work(knowledge)

    return asyncio.run(main())


def _format_minute(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%MZ")
