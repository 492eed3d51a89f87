"""The record of decisions in Redis: `ports.audit.AuditStore`.

Each chain is a stream; an entry's id is its time (ms) and its sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.errors import StorageUnavailable
from app.ports.audit import AppendResult, ChainBatch, ChainName, SealedFailure, StoredEntry
from app.redis import keys
from app.redis.wire.connection import Connection
from app.redis.wire.errors import unavailable
from app.redis.wire.script import Command, Script

MAX_FAILURES = 10_000
_MS_PER_SECOND = 1000

# Appends entries to a chain, all or none: each is an id, a header, a body and a MAC. A server without memory refuses
# the first write. Returns 'stored', also where this batch was stored before, or 'blocked' where something else is in
# its place: a stream that has gone on, or a value of another type.
APPEND = Script(
    """
local kind = redis.call('TYPE', stream_key).ok
if kind ~= 'none' and kind ~= 'stream' then return 'blocked' end
redis.call('ZADD', chains_key, 'GT', at_ms, chain)
redis.call('PEXPIRE', chains_key, ttl_ms)
for i = entries_start, #ARGV, 4 do
  local added = redis.pcall('XADD', stream_key, ARGV[i], 'h', ARGV[i + 1], 'b', ARGV[i + 2], 'm', ARGV[i + 3])
  if type(added) == 'table' and added.err then
    if not string.find(added.err, 'equal or smaller', 1, true) then return redis.error_reply(added.err) end
    local last = redis.call('XRANGE', stream_key, ARGV[#ARGV - 3], ARGV[#ARGV - 3])
    if last[1] and last[1][2][6] == ARGV[#ARGV] then return 'stored' end
    return 'blocked'
  end
end
redis.call('PEXPIRE', stream_key, ttl_ms)
return 'stored'
""",
    keys=("stream_key", "chains_key"),
    args=("chain", "at_ms", "ttl_ms"),
    rest="entries_start",
)


class RedisAuditStore:
    """The chains of all nodes. `retention_days` after its last write, a chain expires as a whole."""

    def __init__(self, connection: Connection, *, retention_days: float) -> None:
        self._connection = connection
        self._ttl_ms = int(retention_days * 86_400 * _MS_PER_SECOND)
        self._append = connection.register(APPEND)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[ChainBatch]) -> list[AppendResult]:
        scores = [part for batch in batches for part in (batch.entries[-1].place[0], batch.chain.tenant_id)]
        # The tenants are listed first, so that a chain is found even if only that is done.
        commands: list[Command] = [("ZADD", keys.AUDIT_TENANTS, "GT", *scores)]
        commands += [self._append_command(batch) for batch in batches]
        try:
            listed, *replies = await self._connection.pipeline_results(commands)
        except StorageUnavailable as error:
            return [error] * len(batches)
        except Exception as error:  # noqa: BLE001 - the writer serves all tenants, and tries again
            return [error] * len(batches)
        return [listed if isinstance(listed, Exception) else _result(reply) for reply in replies]

    def _append_command(self, batch: ChainBatch) -> Command:
        parts: list[Any] = []
        for entry in batch.entries:
            parts += (f"{entry.place[0]}-{entry.place[1]}", entry.header, entry.body, entry.mac)
        tenant_id, name = batch.chain
        return self._append.command(
            parts,
            stream_key=keys.audit_chain(tenant_id, name),
            chains_key=keys.audit_chains(tenant_id),
            chain=name,
            at_ms=batch.entries[-1].place[0],
            ttl_ms=self._ttl_ms,
        )

    async def expire(self, chains: Sequence[ChainName], before_ms: int) -> None:
        if not chains or before_ms <= 0:
            return
        tenants = {chain.tenant_id for chain in chains}
        await self._connection.pipeline(
            [
                ("ZREMRANGEBYSCORE", keys.AUDIT_TENANTS, "-inf", f"({before_ms}"),
                *(("ZREMRANGEBYSCORE", keys.audit_chains(tenant), "-inf", f"({before_ms}") for tenant in tenants),
                *(("XTRIM", keys.audit_chain(*chain), "MINID", before_ms) for chain in chains),
            ]
        )

    async def add_failures(self, failures: Sequence[SealedFailure]) -> None:
        await self._connection.pipeline(
            [
                *(
                    ("XADD", keys.AUDIT_FAILURES, "MAXLEN", MAX_FAILURES, "*", "b", failure.body, "m", failure.mac)
                    for failure in failures
                ),
                ("PEXPIRE", keys.AUDIT_FAILURES, self._ttl_ms),
            ]
        )

    # --- reading ------------------------------------------------------------------------------------------------------

    async def list_tenants(self) -> list[str]:
        return [_text(tenant) for tenant in await self._connection.execute("ZRANGE", keys.AUDIT_TENANTS, 0, -1)]

    async def list_chains(self, tenant_id: str) -> list[tuple[str, int]]:
        reply = await self._connection.execute("ZREVRANGE", keys.audit_chains(tenant_id), 0, -1, "WITHSCORES")
        # RESP 2 gives a flat list, RESP 3 pairs.
        flat = [part for item in reply for part in (item if isinstance(item, list | tuple) else [item])]
        return [(_text(name), int(float(score))) for name, score in zip(flat[::2], flat[1::2], strict=True)]

    async def read(self, chain: ChainName, after: tuple[int, int], limit: int) -> list[StoredEntry]:
        begin = f"({after[0]}-{after[1]}" if after != (0, 0) else "-"
        return _entries(await self._range("XRANGE", chain, begin, "+", limit))

    async def read_back(self, chain: ChainName, until: tuple[int, int | None], limit: int) -> list[StoredEntry]:
        ms, sequence = until
        if until == (0, 0):
            return []  # nothing is before it, which Redis refuses to be asked
        end = str(ms) if sequence is None else f"({ms}-{sequence}"
        return _entries(await self._range("XREVRANGE", chain, end, "-", limit))

    async def _range(self, command: str, chain: ChainName, begin: str, end: str, limit: int) -> Any:
        return await self._connection.execute(command, keys.audit_chain(*chain), begin, end, "COUNT", limit)

    async def read_failures(self, limit: int) -> list[SealedFailure]:
        reply = await self._connection.execute("XREVRANGE", keys.AUDIT_FAILURES, "+", "-", "COUNT", limit)
        return [SealedFailure(fields.get(b"b", b""), fields.get(b"m", b"")) for _, fields in _rows(reply)]


def _result(reply: Any) -> AppendResult:
    if isinstance(reply, StorageUnavailable):
        return reply
    if isinstance(reply, Exception):  # a refusal such as NOPERM: it is tried again, and named in the log
        return unavailable(reply)
    return "blocked" if reply == b"blocked" else "stored"


def _entries(reply: Any) -> list[StoredEntry]:
    return [
        StoredEntry(_place(id), fields.get(b"h", b""), fields.get(b"b", b""), fields.get(b"m", b""))
        for id, fields in _rows(reply)
    ]


def _rows(reply: Any) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
    """Return the ids and fields of stream entries. Fields that others wrote may be anything."""
    rows = []
    for id, pairs in reply:
        fields = pairs if isinstance(pairs, Mapping) else dict(zip(pairs[::2], pairs[1::2], strict=True))
        rows.append((id, fields))
    return rows


def _place(id: bytes | str) -> tuple[int, int]:
    ms, _, sequence = _text(id).partition("-")
    return int(ms), int(sequence)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
