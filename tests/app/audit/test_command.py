"""`aura audit`: what was done to the record in Redis is found and named by `verify`; `show` and `export` read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.redis import keys
from tests.app.audit.conftest import AuditCommand
from tests.harness.audit import Rows, StoredRecord
from tests.harness.service import SECRET

NEW_SECRET = "the secret that follows in the rotation, 32 bytes"


async def verify(audit_command: AuditCommand, *arguments: str, **environment: str) -> str:
    """Runs `aura audit verify`, which must find something."""
    result = await audit_command("verify", *arguments, **environment)
    assert result.exit_code == 1, result.output
    assert result.output.endswith("the record was changed\n")
    return result.output


async def test_an_untouched_record_is_verified_with_its_heads(audit_command: AuditCommand, approved_run: Path) -> None:
    result = await audit_command("verify", "--heads", str(approved_run))
    assert result.exit_code == 0, result.output
    assert result.output == "Redis: 2 chains, 7 entries, compared with 2 heads\nnothing is wrong\n"


async def test_verify_names_an_entry_that_was_edited(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    def edit(rows: Rows) -> Rows:
        id, fields = rows[2]
        innocent = fields[b"b"].replace(b'"user":"user1"', b'"user":"boss1"')
        assert innocent != fields[b"b"]
        return [*rows[:2], (id, {**fields, b"b": innocent}), *rows[3:]]

    record.rewrite(edit)
    output = await verify(audit_command)
    assert "tenant tenant1, chain node-" in output
    assert ", entry 3: edited: " in output
    assert output.count("entry ") == 1


async def test_verify_names_entries_that_were_dropped(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    record.redis.xdel(record.key(), *[id for id, _ in record.rows()[2:4]])
    assert ", entries 3 to 4: dropped: " in await verify(audit_command)


async def test_verify_names_entries_that_were_reordered(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    def swap(rows: Rows) -> Rows:
        return [*rows[:3], (rows[3][0], rows[4][1]), (rows[4][0], rows[3][1]), *rows[5:]]

    record.rewrite(swap)
    output = await verify(audit_command)
    assert ", entry 4: reordered: " in output
    assert ", entry 5: reordered: " in output


async def test_verify_names_an_end_that_was_cut_off_with_the_heads_of_the_log(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    record.redis.xdel(record.key(), *[id for id, _ in record.rows()[4:]])
    assert (await audit_command("verify")).exit_code == 0, "nothing but the heads knows of the end"
    output = await verify(audit_command, "--heads", str(approved_run))
    assert ", entries 5 to 6: truncated: " in output
    assert "known from service.log" in output


async def test_verify_finds_an_old_copy_of_the_stream_that_was_put_back(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    record.rewrite(lambda rows: rows[:3])  # as it was when the approval was requested
    assert ", entries 4 to 6: truncated: " in await verify(audit_command, "--heads", str(approved_run))


async def test_verify_finds_a_chain_that_was_put_in_the_place_of_another(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    record.redis.copy(record.key(""), record.key(), replace=True)  # that of the service itself
    output = await verify(audit_command, "--heads", str(approved_run))
    assert ", entry 1: copied: " in output
    assert ", entries 2 to 6: truncated: " in output


async def test_verify_finds_a_chain_that_is_gone(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    record.redis.flushall()
    assert ", entries 1 to 6: missing: " in await verify(audit_command, "--heads", str(approved_run))


@pytest.mark.parametrize("remains", ["nothing", "an empty list", "a value of another type", "another chain"])
async def test_verify_finds_an_edited_entry_whose_chain_was_removed_from_the_list(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord, remains: str
) -> None:
    chains = keys.audit_chains("tenant1")
    record.rewrite(lambda rows: [(id, {**fields, b"b": fields[b"b"] + b" "}) for id, fields in rows[:1]] + rows[1:])
    record.redis.delete(chains)
    if remains == "a value of another type":
        record.redis.set(chains, "x")
    elif remains == "another chain":
        record.redis.zadd(chains, {"other": 1})
    elif remains == "an empty list":
        record.redis.zrem(keys.AUDIT_TENANTS, "tenant1")
    for arguments in (["--tenant", "tenant1"], ["--heads", str(approved_run)]):
        output = await verify(audit_command, *arguments)
        assert ", entries 1 to 6: unlisted: " in output
        assert ", entry 1: edited: " in output


async def test_verify_names_chains_of_which_not_even_the_tenant_is_listed(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    record.redis.delete(keys.AUDIT_TENANTS)
    output = await verify(audit_command)
    assert "tenant ?, chain node-" in output
    assert "its tenant is not known" in output
    assert "tenant (the service), chain node-" in output, "the tenant of the service is always known"
    output = await verify(audit_command, "--heads", str(approved_run))
    assert "tenant tenant1, chain node-" in output
    assert "tenant ?" not in output
    record.redis.delete(*record.redis.keys("aura:audit:*"))
    assert ": missing: " in await verify(audit_command, "--heads", str(approved_run))


async def test_verify_finds_a_stream_that_is_gone_while_the_list_names_it(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    record.redis.delete(record.key())
    assert ": missing: " in await verify(audit_command)
    assert (await verify(audit_command, "--heads", str(approved_run))).count(": missing: ") == 1


async def test_a_chain_that_is_too_old_for_the_list_is_not_missed(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    record.redis.delete(keys.AUDIT_TENANTS, keys.audit_chains("tenant1"))
    result = await audit_command("verify", AURA_AUDIT_RETENTION_DAYS="0.00000001")
    assert "unlisted" not in result.output


async def test_a_redis_without_a_record_is_no_success(audit_command: AuditCommand, record: StoredRecord) -> None:
    record.redis.flushall()
    result = await audit_command("verify")
    assert result.exit_code == 3
    assert "nothing is wrong" not in result.output
    assert "there is no record in Redis" in result.output
    of_tenant = await audit_command("verify", "--tenant", "tenant9")
    assert of_tenant.exit_code == 3
    assert "no record of this tenant" in of_tenant.output


async def test_show_marks_an_entry_that_was_forged(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    record.redis.xadd(record.key(), {"b": '{"kind":"decision","user":"ceo"}'}, id="99999999999999-1")
    newest, before = reversed((await audit_command("show", "--tenant", "tenant1", "--limit", "2")).output.splitlines())
    assert "user=ceo" in newest
    assert newest.endswith("[does not fit its MAC]")
    assert "[does not fit" not in before


async def test_verify_finds_a_failed_authentication_that_was_edited(
    audit_command: AuditCommand, approved_run: Path, record: StoredRecord
) -> None:
    record.redis.xadd("aura:audit:failures", {"b": '{"kind":"authentication.failed"}', "m": "x"})
    assert "failed authentications: 1 entries do not fit" in await verify(audit_command)
    assert "[does not fit its MAC]" in (await audit_command("show", "--failures")).output


async def test_the_record_can_be_verified_after_a_rotation_of_the_secret(
    audit_command: AuditCommand, approved_run: Path
) -> None:
    assert "edited" in await verify(audit_command, JWT_SECRET=NEW_SECRET), "without the old secret it cannot"
    while_both = await audit_command("verify", JWT_SECRET=NEW_SECRET, JWT_SECRETS_ACCEPTED=json.dumps([SECRET]))
    assert while_both.exit_code == 0, while_both.output
    for_ever = await audit_command("verify", JWT_SECRET=NEW_SECRET, AURA_AUDIT_KEY=SECRET)
    assert for_ever.exit_code == 0, for_ever.output


async def test_a_log_without_heads_is_an_error(audit_command: AuditCommand, tmp_path: Path) -> None:
    log = tmp_path / "other.log"
    log.write_text("nothing\n", encoding="utf-8")
    result = await audit_command("verify", "--heads", str(log))
    assert result.exit_code == 2
    assert "no line audit.head" in result.output


async def test_show_prints_the_newest_entries_with_the_last_one_at_the_bottom(
    audit_command: AuditCommand, approved_run: Path
) -> None:
    lines = (await audit_command("show", "--tenant", "tenant1", "--limit", "3")).output.splitlines()
    assert [line.split()[2] for line in lines] == ["decision.applied", "tool.started", "tool.ended"]
    (line,) = (await audit_command("show", "--tenant", "tenant1", "--kind", "decision")).output.splitlines()
    assert "via=http" in line
    assert "user=user1" in line
    session = line.split("session=")[1].split()[0]
    of_run = await audit_command("show", "--tenant", "tenant1", "--session", session)
    assert len(of_run.output.splitlines()) == 5
    assert "policy" in (await audit_command("show")).output


async def test_export_writes_one_json_object_per_line_into_a_private_file(
    audit_command: AuditCommand, approved_run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "record.jsonl"
    result = await audit_command("export", "--tenant", "tenant1", "--output", str(path))
    assert result.exit_code == 0, result.output
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [entry["sequence"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert {entry["tenant"] for entry in entries} == {"tenant1"}
    assert path.stat().st_mode & 0o077 == 0
    everything = (await audit_command("export")).output.splitlines()
    assert len(everything) == 7


@pytest.mark.parametrize("arguments", [["--output", "x"], ["--tenant", "t"]])
async def test_export_refuses_options_that_contradict_each_other(
    audit_command: AuditCommand, arguments: list[str]
) -> None:
    result = await audit_command("export", "--database", *arguments)
    assert result.exit_code == 2
    assert "leave out" in result.output


async def test_export_to_a_database_names_the_missing_setting(audit_command: AuditCommand) -> None:
    result = await audit_command("export", "--database")
    assert result.exit_code == 2
    assert "AURA_AUDIT_URL: it is not set" in result.output
