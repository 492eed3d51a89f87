"""`aura knowledge stats | search | rebuild`: what the platform's domain events have left to be found."""

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
    """The workspace's events: how many there are, what a search finds, make the index again."""


@knowledge.command()
def stats() -> None:
    """What Redis keeps of each tenant, and how many messages were malformed."""

    async def look(knowledge: Knowledge) -> tuple[list[LogSummary], dict[str, int]]:
        events = knowledge.events
        return [await events.summary(tenant) for tenant in await events.list_tenants()], await events.malformed_counts()

    summaries, refused = _with_knowledge(look)
    row = "{:<24} {:>8} {:>8} {:>9}  {:<17} {}"
    click.echo(row.format("tenant", "events", "vectors", "KiB", "oldest", "newest"))
    for summary in sorted(summaries, key=lambda each: -each.events):
        times = (_minute(summary.oldest), _minute(summary.newest))
        size = f"{summary.bytes / 1024:,.0f}"
        click.echo(row.format(summary.tenant_id, summary.events, summary.vectors, size, *times))
    for reason, count in sorted(refused.items()):
        click.echo(f"malformed: {count} {reason}")


@knowledge.command()
@click.argument("query")
@click.option("--tenant", required=True, help="Whose workspace.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="From this time on, UTC.")
@click.option("--type", "types", multiple=True, help="Only this kind, e.g. mail or approval; may be repeated.")
@click.option("--limit", type=click.IntRange(1, 50), default=5, show_default=True)
def search(*, query: str, tenant: str, since: datetime | None, types: tuple[str, ...], limit: int) -> None:
    """Find what the agent would find for QUERY. Without AURA_KNOWLEDGE_PATH or _URL the index is made for
    this search."""
    from app.ports.knowledge import Query

    asked = Query(query, since.replace(tzinfo=UTC).timestamp() if since else None, types, limit)

    async def find(knowledge: Knowledge) -> SearchResult:
        await knowledge.catch_up(tenant)
        return await knowledge.search(tenant, asked)

    found = _with_knowledge(find)
    for hit in found.hits:
        click.secho(f"{hit.event.id}  {hit.event.type}  {_minute(hit.event.at)}  {hit.event.title}", bold=True)
        click.echo(f"  {' '.join(hit.excerpt.split())}")
    click.echo(f"{len(found.hits)} found by {'words and meaning' if found.used_vectors else 'words'}")


@knowledge.command()
def rebuild() -> None:
    """Have every running process make its index again from Redis, and a kept one (AURA_KNOWLEDGE_PATH, _URL) here
    and now."""
    from app.settings import Settings

    async def again(knowledge: Knowledge) -> tuple[int, int]:
        heard = await knowledge.events.start_generation()
        settings = Settings.from_environment()
        if settings.aura_knowledge_path is None and settings.aura_knowledge_url is None:
            return heard, 0
        return heard, sum([await knowledge.catch_up(tenant) for tenant in await knowledge.events.list_tenants()])

    heard, entries = _with_knowledge(again)
    click.echo(f"{heard} running process(es) were told; {entries} entries indexed here")


def _with_knowledge(work: Callable[[Knowledge], Awaitable[ResultT]]) -> ResultT:
    """Do it with parts of this command's own."""
    from app import logs
    from app.bootstrap import own_knowledge
    from app.settings import Settings

    settings = Settings.from_environment()
    logs.configure("ERROR", "console", settings.secrets)

    async def main() -> ResultT:
        async with own_knowledge(settings) as knowledge:
            return await work(knowledge)

    return asyncio.run(main())


def _minute(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%MZ")
