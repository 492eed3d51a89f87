"""The tables of the archive, and how a run becomes a row.

The log is stored as the text of its stream, `id:` lines included, so PostgreSQL compresses it as a whole and
`convert_from(events, 'UTF8')` shows it. The checkpoint has no MAC: nothing is executed from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from app.ports.archive import ArchivedRun
from app.ports.journal import ListedRun, LogEntry, RunRecord
from statemachine.views.summary import Summary
from statemachine.views.timeline import timeline

SCHEMA = "aura_archive_1"
"""Ends with the number of the format."""
LOCK = "SELECT pg_advisory_xact_lock(hashtext('aura_archive_1'))"
EXISTS = "SELECT to_regclass('aura_archive_1.erased')"
CREATE = """
CREATE SCHEMA IF NOT EXISTS aura_archive_1;
CREATE TABLE IF NOT EXISTS aura_archive_1.run (session text COLLATE "C" PRIMARY KEY, tenant text COLLATE "C" NOT NULL,
  user_id text COLLATE "C" NOT NULL, thread text COLLATE "C", prompt_digest text NOT NULL, task text,
  state text NOT NULL, created_ms bigint NOT NULL, first_id bigint NOT NULL, last_id bigint NOT NULL,
  summary bytea NOT NULL, checkpoint bytea NOT NULL, events bytea NOT NULL, timeline jsonb NOT NULL,
  decisions jsonb NOT NULL, archived_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX IF NOT EXISTS run_of_user ON aura_archive_1.run (tenant, user_id, first_id, session);
CREATE INDEX IF NOT EXISTS run_of_tenant ON aura_archive_1.run (tenant, created_ms, session);
CREATE INDEX IF NOT EXISTS run_of_thread ON aura_archive_1.run (tenant, user_id, thread, first_id)
  WHERE thread IS NOT NULL;
CREATE INDEX IF NOT EXISTS run_ended ON aura_archive_1.run (last_id);
CREATE TABLE IF NOT EXISTS aura_archive_1.erased (person bytea PRIMARY KEY, before_ms bigint NOT NULL);
"""

SHARE_PERSONS = (
    "SELECT pg_advisory_xact_lock_shared(('x' || left(encode(person, 'hex'), 16))::bit(64)::bigint)"
    " FROM unnest(%s::bytea[]) AS person"
)
LOCK_PERSON = "SELECT pg_advisory_xact_lock(('x' || left(encode(%s, 'hex'), 16))::bit(64)::bigint)"
"""An erasure waits for the inserts of this person's runs that have begun, and later ones see what it has noted."""
INSERT = """
INSERT INTO aura_archive_1.run (session, tenant, user_id, thread, prompt_digest, task, state, created_ms, first_id,
  last_id, summary, checkpoint, events, timeline, decisions)
SELECT %(session)s, %(tenant)s, %(user)s, %(thread)s, %(prompt)s, %(task)s, %(state)s, %(created_ms)s, %(first_id)s,
  %(last_id)s, %(summary)s, %(checkpoint)s, %(events)s, %(timeline)s, %(decisions)s
WHERE NOT EXISTS (SELECT 1 FROM aura_archive_1.erased WHERE person = %(person)s AND before_ms >= %(created_ms)s)
ON CONFLICT DO NOTHING
"""
NOTE_ERASURE = """
INSERT INTO aura_archive_1.erased (person, before_ms) VALUES (%s, %s)
ON CONFLICT (person) DO UPDATE SET before_ms = greatest(erased.before_ms, excluded.before_ms)
"""
RECORD = "SELECT session, user_id, tenant, prompt_digest, task FROM aura_archive_1.run"
LIST = "SELECT session, summary FROM aura_archive_1.run"
THREAD = """
SELECT checkpoint FROM (
  SELECT first_id, session, checkpoint, row_number() OVER newest AS nth, sum(length(checkpoint)) OVER newest AS bytes
  FROM aura_archive_1.run WHERE tenant = %s AND user_id = %s AND thread = %s AND session <> ALL(%s)
  WINDOW newest AS (ORDER BY first_id DESC, session DESC)
) AS found WHERE nth <= %s AND (nth = 1 OR bytes <= %s) ORDER BY first_id, session
"""
COUNT_THREAD = (
    "SELECT count(*) FROM aura_archive_1.run WHERE tenant = %s AND user_id = %s AND thread = %s AND session <> ALL(%s)"
)
EXPIRE = """
DELETE FROM aura_archive_1.run WHERE session IN (
  SELECT session FROM aura_archive_1.run WHERE {condition} LIMIT %s)
"""

_END = b"\n\n"


def person_digest(tenant_id: str, user_id: str) -> bytes:
    """Return what is kept of a person whose data was erased: not the name."""
    return hashlib.sha256(f"{tenant_id}\0{user_id}".encode("utf-8", "replace")).digest()


def row(run: ArchivedRun) -> dict[str, Any]:
    """Return the values of `INSERT`; the JSON ones are not encoded yet."""
    record, checkpoint, entries = run.record, run.checkpoint, run.entries
    thread_id = checkpoint.request.thread_id
    return {
        "session": record.session_id,
        "tenant": record.tenant_id,
        "user": record.user_id,
        "thread": None if thread_id == record.session_id else thread_id,
        "prompt": record.prompt_digest,
        "task": record.task_id,
        "state": str(checkpoint.state),
        "created_ms": int(checkpoint.created_at * 1000),
        "first_id": entries[0].id,
        "last_id": entries[-1].id,
        "summary": Summary.of(checkpoint).to_json(),
        "checkpoint": checkpoint.to_json(),
        "events": b"".join(b"id: %d\n%b" % entry for entry in entries),
        "timeline": storable(timeline(checkpoint, checkpoint.updated_at).to_json_object()),
        "decisions": storable([review.to_json_object() for review in checkpoint.reviews]),
        "person": person_digest(record.tenant_id, record.user_id),
    }


def storable(value: Any) -> Any:
    """Return a JSON value without the characters that `jsonb` refuses: NUL and halves of characters (surrogates)."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {storable(name): storable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [storable(each) for each in value]
    return value


def record(found: Sequence[Any]) -> RunRecord:
    """Return the record of a row of `RECORD`."""
    session_id, user_id, tenant_id, prompt_digest, task_id = found
    return RunRecord(session_id, user_id, tenant_id, prompt_digest, "", 0, is_final=True, task_id=task_id)


def listed(found: Sequence[tuple[str, bytes]]) -> list[ListedRun]:
    """Return the rows of `LIST`."""
    return [ListedRun(session_id, Summary.from_json(bytes(summary))) for session_id, summary in found]


def whole_entries(text: bytes) -> tuple[list[LogEntry], int]:
    """Return the entries that a part of a log has completely, and how many bytes they take."""
    size = text.rfind(_END) + len(_END) if _END in text else 0
    return [_entry(frame) for frame in text[:size].split(_END)[:-1]], size


def _entry(frame: bytes) -> LogEntry:
    first, _, body = frame.partition(b"\n")
    return LogEntry(int(first.removeprefix(b"id: ")), body + _END)
