"""The command `aura audit verify | export | show`: the record of decisions."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

import click

if TYPE_CHECKING:
    from app.audit.queries import AuditQueries, Verification
    from app.audit.verification import KnownHead
    from app.ports.audit import AuditArchive, AuditStore
    from app.ports.responses import AuditEntry

ResultT = TypeVar("ResultT")

_MS_PER_DAY = 86_400_000
_NOT_INTACT = "  [does not fit its MAC]"
_EXIT_WITHOUT_RECORD = 3
_NO_RECORD = (
    "there is no record in Redis: either no process of the service has started with it yet, or the record was removed,"
    " because every process writes its first entry when it starts"
)
_NO_RECORD_OF_TENANT = (
    "there is no record of this tenant in Redis: either nothing was recorded of it yet, or its record was removed;"
    " --heads with the log of the service tells which"
)


@dataclass(frozen=True, slots=True)
class _Record:
    """What the commands work with: the stores, the keys of the MACs, and the time before which entries may be gone."""

    store: AuditStore
    archive: AuditArchive | None
    keys: list[bytes]
    retention_days: float
    oldest_ms: int


@click.group()
def audit() -> None:
    """Verify, export and show the record of decisions."""


@audit.command()
@click.option("--tenant", help="Verify only the chains of this tenant. [default: all of them]")
@click.option(
    "--heads",
    "head_files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Compare with the heads in this log of the service (lines `audit.head`); may be repeated.",
)
def verify(*, tenant: str | None, head_files: tuple[Path, ...]) -> None:
    """Find entries that were changed, dropped, moved, repeated, copied, replaced or cut off.

    The chains in Redis are verified, and those in the database of AURA_AUDIT_URL, where that is set. An end that was
    cut off is found against --heads and against the database. The exit code is 1 if something is wrong, and 3 if there
    is no chain in Redis.
    """
    heads = [head for path in head_files for head in _read_heads(path)]
    results = _with_record(lambda record: _verify(record, tenant, heads))
    is_sound = True
    for name, found, invalid_failures in results:
        click.echo(f"{name}: {found.chains} chains, {found.entries} entries, compared with {found.heads} heads")
        for problem in found.problems:
            click.secho(f"  {_printable(str(problem))}", fg="red")
        if invalid_failures:
            click.secho(f"  failed authentications: {invalid_failures} entries do not fit their MAC", fg="red")
        is_sound = is_sound and not found.problems and not invalid_failures
    if is_sound and not results[-1][1].chains:
        click.secho(_NO_RECORD if tenant is None else _NO_RECORD_OF_TENANT, fg="yellow")
        sys.exit(_EXIT_WITHOUT_RECORD)
    click.echo("nothing is wrong" if is_sound else "the record was changed")
    sys.exit(0 if is_sound else 1)


@audit.command()
@click.option("--tenant", help="Export only the chains of this tenant. [default: all of them]")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file. [default: the terminal]"
)
@click.option("--database", is_flag=True, help="Copy what is missing to the database of AURA_AUDIT_URL instead.")
def export(*, tenant: str | None, output: Path | None, database: bool) -> None:
    """Write the entries as JSON, one per line, chain by chain; or copy them to the database.

    A running service copies by itself where AURA_AUDIT_URL is set.
    """
    if database:
        if tenant is not None or output is not None:
            raise click.UsageError("--database copies everything: leave out --tenant and --output")
        click.echo(f"{_with_record(_copy_to_database)} entries copied")
        return
    if output is None:
        _with_record(lambda record: _write_entries(record, tenant, sys.stdout))
        return
    try:
        output.touch(mode=0o600)
        with output.open("w", encoding="utf-8") as file:
            _with_record(lambda record: _write_entries(record, tenant, file))
    except OSError as error:
        raise click.FileError(str(output), error.strerror or "it cannot be written") from error


@audit.command()
@click.option("--tenant", help="Show the record of this tenant. [default: that of the service itself]")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Show at most this many.")
@click.option("--kind", help="Show only this kind, e.g. decision or tool.started.")
@click.option("--session", help="Show only what concerns this run.")
@click.option("--failures", is_flag=True, help="Show failed authentications, which have no tenant.")
def show(*, tenant: str | None, limit: int, kind: str | None, session: str | None, failures: bool) -> None:
    """Show the newest entries, the last one at the bottom."""
    if failures:
        for line in reversed(_with_record(lambda record: _failure_lines(record, limit))):
            click.echo(line)
        return
    for entry in reversed(_with_record(lambda record: _newest(record, tenant or "", limit, kind, session))):
        fields = " ".join(f"{name}={_shown(value)}" for name, value in entry["details"].items())
        mark = "" if entry["intact"] else _NOT_INTACT
        click.echo(_printable(f"{_format_time(entry['at'])}  {entry['kind']:<16} {fields}{mark}"))


# --- what the commands do ---------------------------------------------------------------------------------------------


async def _verify(record: _Record, tenant: str | None, heads: list[KnownHead]) -> list[tuple[str, Verification, int]]:
    from app.audit.queries import AuditQueries, count_invalid_failures
    from app.redis.audit import MAX_FAILURES

    results = []
    if record.archive is not None:
        archived = AuditQueries(record.archive, record.keys)
        found = await archived.verify(record.oldest_ms, heads, tenant_id=tenant)
        results.append(("database", found, 0))
        heads = [*heads, *await archived.heads("the database")]
    tenants = {tenant or "", *(head.chain.tenant_id for head in heads)}
    unlisted = await record.store.find_unlisted(tenants, record.oldest_ms)
    stored = AuditQueries(record.store, record.keys)
    found = await stored.verify(record.oldest_ms, heads, tenant_id=tenant, unlisted=unlisted)
    invalid_failures = 0 if tenant else await count_invalid_failures(record.store, record.keys, MAX_FAILURES)
    results.append(("Redis", found, invalid_failures))
    return results


async def _copy_to_database(record: _Record) -> int:
    from app.audit.export import Exporter
    from app.clock import SystemClock
    from app.errors import ConfigurationError

    if record.archive is None:
        raise ConfigurationError("AURA_AUDIT_URL: it is not set; set it to the URL of the database")
    exporter = Exporter(
        record.store, record.archive, set(), SystemClock(), keys=record.keys, retention_days=record.retention_days
    )
    return await exporter.export_all()


async def _write_entries(record: _Record, tenant: str | None, file: TextIO) -> None:
    from app.audit.queries import AuditQueries, to_response

    queries = AuditQueries(record.store, record.keys)
    for chain in await queries.chains(tenant):
        async for entry in queries.entries(chain):
            line = {"tenant": chain.tenant_id, **to_response(chain, entry, record.keys)}
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace").decode() + "\n")


async def _newest(record: _Record, tenant: str, limit: int, kind: str | None, session: str | None) -> list[AuditEntry]:
    from app.audit.queries import AuditQueries

    queries: AuditQueries = AuditQueries(record.store, record.keys)
    found: list[AuditEntry] = []
    cursor: str | None = None
    while len(found) < limit:
        page = await queries.page(tenant, cursor=cursor, limit=limit - len(found), kind=kind, session_id=session)
        found += page["entries"]
        cursor = page.get("nextCursor")
        if cursor is None:
            break
    return found


async def _failure_lines(record: _Record, limit: int) -> list[str]:
    from app.audit.chain import is_failure_sealed
    from app.audit.queries import parse_event

    lines = []
    for failure in await record.store.read_failures(limit):
        event = parse_event(failure.body)
        at = event.pop("at", 0)
        shown = " ".join(f"{name}={_shown(value)}" for name, value in event.items())
        mark = "" if is_failure_sealed(record.keys, failure) else _NOT_INTACT
        time_shown = _format_time(at / 1000) if isinstance(at, int) else "?"
        lines.append(_printable(f"{time_shown}  {shown}{mark}"))
    return lines


def _with_record(work: Callable[[_Record], Awaitable[ResultT]]) -> ResultT:
    """Run `work` with the record that the settings of the environment name."""

    async def main() -> ResultT:
        async with _open_record() as record:
            return await work(record)

    return asyncio.run(main())


@asynccontextmanager
async def _open_record() -> AsyncIterator[_Record]:
    from app import logs
    from app.audit.service import audit_keys
    from app.bootstrap.audit import make_audit_stores
    from app.redis.wire.connection import Connection
    from app.settings import Settings

    settings = Settings.from_environment()
    logs.configure("ERROR", "console", settings.secrets)
    connection = Connection(settings.redis_address, timeout_seconds=settings.aura_redis_timeout_seconds)
    store, archive = make_audit_stores(settings, connection)
    days = settings.aura_audit_retention_days
    oldest_ms = int(time.time() * 1000 - days * _MS_PER_DAY)
    try:
        yield _Record(store, archive, audit_keys(settings.audit_secrets), days, oldest_ms)
    finally:
        if archive is not None:
            await archive.close()
        await connection.close()


def _read_heads(path: Path) -> list[KnownHead]:
    """Return the heads in a log. A file without any is a mistake: nothing would be compared."""
    from app.audit.heads import parse_heads

    with path.open(encoding="utf-8", errors="replace") as lines:
        heads = list(parse_heads(lines, path.name))
    if not heads:
        raise click.BadParameter(f"{path} has no line audit.head; the log must be JSON (AURA_LOG_FORMAT=json)")
    return heads


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(min(max(at, 0), 253_402_300_799), UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _printable(text: str) -> str:
    """Return text in one line, without control characters, which a terminal would obey."""
    return "".join(character if character.isprintable() else "�" for character in text)
