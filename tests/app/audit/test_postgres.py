"""The copy of the record in PostgreSQL: what was removed from Redis is found against it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from app.audit.export import Exporter
from app.audit.postgres import PostgresArchive
from app.clock import SystemClock
from app.errors import ConfigurationError, StorageUnavailable
from tests.app.audit.conftest import AuditCommand
from tests.harness.approvals import FINAL_ANSWER, StartWaitingRun
from tests.harness.audit import StoredRecord
from tests.harness.postgres import PostgresServer
from tests.harness.waiting import eventually


@pytest.fixture
def archive(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server without a record."""
    drop = "DROP SCHEMA IF EXISTS aura_audit_1 CASCADE"
    postgres.execute(drop)
    yield postgres
    postgres.execute(drop)


def exported(archive: PostgresServer) -> list[str]:
    try:
        rows = archive.rows("SELECT kind FROM aura_audit_1.entry WHERE tenant = 'tenant1' ORDER BY sequence")
    except psycopg.errors.UndefinedTable:
        return []
    return [row[0] for row in rows]


async def test_entries_are_copied_while_the_service_runs_and_what_redis_lost_is_found(
    waiting_run: StartWaitingRun, archive: PostgresServer, record: StoredRecord, audit_command: AuditCommand
) -> None:
    environment = {"AURA_AUDIT_URL": archive.url}
    async with waiting_run(FINAL_ANSWER, aura_audit_url=archive.url) as run:
        await eventually(lambda: exported(archive) == ["policy", "request.opened"])
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()
    assert exported(archive) == record.kinds(), "the last entries are copied when the process stops"
    sound = await audit_command("verify", **environment)
    assert sound.exit_code == 0, sound.output
    assert sound.output.startswith("database: 2 chains, 7 entries")

    record.redis.xdel(record.key(), *[id for id, _ in record.rows()[4:]])
    cut_off = await audit_command("verify", **environment)
    assert cut_off.exit_code == 1
    assert ", entries 5 to 6: truncated: " in cut_off.output
    assert "known from the database" in cut_off.output

    archive.execute("UPDATE aura_audit_1.entry SET body = 'x' WHERE tenant = 'tenant1' AND sequence = 2")
    edited = await audit_command("verify", **environment)
    assert ", entry 2: edited: " in edited.output


async def test_the_record_of_a_process_that_was_killed_is_copied_later(
    waiting_run: StartWaitingRun, archive: PostgresServer, record: StoredRecord, audit_command: AuditCommand
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()
    record.redis.xadd(record.key(), {"b": '{"kind":"forged"}', "h": "", "m": ""}, id="99999999999999-7")
    copied = await audit_command("export", "--database", AURA_AUDIT_URL=archive.url)
    assert copied.output.endswith("7 entries copied\n"), "and not the entry that is not ours"
    assert exported(archive) == record.kinds()[:6]
    again = await audit_command("export", "--database", AURA_AUDIT_URL=archive.url)
    assert again.exit_code == 0
    assert len(exported(archive)) == 6


async def test_old_entries_are_removed_from_the_database(archive: PostgresServer, approved_run: object) -> None:
    kept = PostgresArchive(archive.url)
    await kept.expire(0)
    archive.execute(
        "INSERT INTO aura_audit_1.entry (tenant, chain, sequence, at_ms, event, header, body, mac, hash)"
        " VALUES ('t', 'c', 1, 5, '', '', '', '', '')"
    )
    await kept.expire(6)
    assert archive.rows("SELECT 1 FROM aura_audit_1.entry") == []
    await kept.close()


async def test_a_role_without_rights_is_told_what_it_needs(archive: PostgresServer) -> None:
    archive.execute("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'x'")
    weak = PostgresArchive(archive.url.replace("aura:a%20secret", "reader:x"))
    with pytest.raises(ConfigurationError, match=r"AURA_AUDIT_URL: .*GRANT"):
        await weak.last_places()
    await weak.close()
    archive.execute("DROP ROLE reader")


async def test_a_database_that_is_away_does_not_stop_anything(unused_tcp_port: int, record: StoredRecord) -> None:
    away = PostgresArchive(f"postgresql://u:p@127.0.0.1:{unused_tcp_port}/d")
    with pytest.raises(StorageUnavailable, match="audit database"):
        await away.last_places()
    exporter = Exporter(away, away, set(), SystemClock(), keys=[], retention_days=1)
    await exporter.start()
    await exporter.stop()


def test_a_url_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="AURA_AUDIT_URL") as refused:
        PostgresArchive("postgresql://u:pass word@host/d?x=1")
    assert "pass word" not in refused.value.message
