"""The record of decisions in Redis: `ports.audit.AuditStore`.

Each chain is a stream; an entry's id is its time (ms) and its sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.errors import StorageUnavailable
from app.ports.audit import (
    SERVICE_TENANT,
    AppendResult,
    ChainBatch,
    ChainName,
    SealedFailure,
    StoredEntry,
    UnlistedChain,
)
from app.redis import keys
from app.redis.wire.connection import Connection
from app.redis.wire.errors import is_wrong_type, raise_error_reply, unavailable
from app.redis.wire.script import Command, Script

MAX_FAILURES = 10_000
_MS_PER_SECOND = 1000

# Appends entries to a chain, all or none: each is an id, a header, a body and a MAC. A server without memory refuses
# the first write. Returns 'stored', also where this batch was stored before, or 'blocked' where something else is in
# its place: a stream that has gone on, or a value of another type. A list of another type has lost its chains already:
# a new one begins, and the chain ends, so that its successor tells of it.
APPEND = Script(
    """
local kind = redis.call('TYPE', stream_key).ok
if kind ~= 'none' and kind ~= 'stream' then return 'blocked' end
local listed = redis.call('TYPE', chains_key).ok
local is_blocked = listed ~= 'none' and listed ~= 'zset'
if is_blocked then redis.call('DEL', chains_key) end
if not is_blocked or kind == 'stream' then
  redis.call('ZADD', chains_key, 'GT', at_ms, chain)
  redis.call('PEXPIRE', chains_key, ttl_ms)
end
if is_blocked then return 'blocked' end
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

# Lists tenants: each is a time (ms) and an id. A value of another type is removed.
LIST_TENANTS = Script(
    """
local kind = redis.call('TYPE', tenants_key).ok
if kind ~= 'none' and kind ~= 'zset' then redis.call('DEL', tenants_key) end
for i = tenants_start, #ARGV, 2 do
  redis.call('ZADD', tenants_key, 'GT', ARGV[i], ARGV[i + 1])
end
""",
    keys=("tenants_key",),
    rest="tenants_start",
)

# Adds failed authentications, each a body and a MAC, to their bounded stream. A value of another type is removed.
ADD_FAILURES = Script(
    """
local kind = redis.call('TYPE', failures_key).ok
if kind ~= 'none' and kind ~= 'stream' then redis.call('DEL', failures_key) end
for i = failures_start, #ARGV, 2 do
  redis.call('XADD', failures_key, 'MAXLEN', maximum, '*', 'b', ARGV[i], 'm', ARGV[i + 1])
end
redis.call('PEXPIRE', failures_key, ttl_ms)
""",
    keys=("failures_key",),
    args=("maximum", "ttl_ms"),
    rest="failures_start",
)


class RedisAuditStore:
    """The chains of all nodes. `retention_days` after its last write, a chain expires as a whole."""

    def __init__(self, connection: Connection, *, retention_days: float) -> None:
        self._connection = connection
        self._ttl_ms = int(retention_days * 86_400 * _MS_PER_SECOND)
        self._append = connection.register(APPEND)
        self._list_tenants = connection.register(LIST_TENANTS)
        self._add_failures = connection.register(ADD_FAILURES)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[ChainBatch]) -> list[AppendResult]:
        scores = [part for batch in batches for part in (batch.entries[-1].place[0], batch.chain.tenant_id)]
        # The tenants are listed first, so that a chain is found even if only that is done.
        commands = [self._list_tenants.command(scores, tenants_key=keys.AUDIT_TENANTS)]
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
        await self._connection.run_script(
            self._add_failures,
            [part for failure in failures for part in failure],
            failures_key=keys.AUDIT_FAILURES,
            maximum=MAX_FAILURES,
            ttl_ms=self._ttl_ms,
        )

    # --- reading ------------------------------------------------------------------------------------------------------

    async def list_tenants(self) -> list[str]:
        return [_text(tenant) for tenant in await self._query("ZRANGE", keys.AUDIT_TENANTS, 0, -1)]

    async def list_chains(self, tenant_id: str) -> list[tuple[str, int]]:
        reply = await self._query("ZREVRANGE", keys.audit_chains(tenant_id), 0, -1, "WITHSCORES")
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
        return await self._query(command, keys.audit_chain(*chain), begin, end, "COUNT", limit)

    async def find_unlisted(self, tenants: Iterable[str], oldest_ms: int) -> list[UnlistedChain]:
        # Before the lists: a chain that begins now is listed in the same moment.
        stored = {_text(key) for key in await self._connection.find_keys(keys.ANY_AUDIT_CHAIN)}
        listed = await self.list_tenants()
        for tenant in listed:
            stored -= {keys.audit_chain(tenant, name) for name, _ in await self.list_chains(tenant)}
        owners = {keys.audit_owner(tenant): tenant for tenant in (SERVICE_TENANT, *tenants, *listed)}
        found = []
        for key in sorted(stored):
            chain = keys.read_audit_chain(key)
            last = _rows(await self._query("XREVRANGE", key, "+", "-", "COUNT", 1)) if chain is not None else []
            if chain is not None and last and _place(last[0][0])[0] >= oldest_ms:
                found.append(UnlistedChain(owners.get(chain[0]), chain[1], _place(last[0][0])))
        return found

    async def _query(self, *command: Any) -> Any:
        """Return the reply to a query; an empty one where others have put a value of another type there."""
        (reply,) = await self._connection.pipeline_results([command])
        if is_wrong_type(reply):
            return []
        raise_error_reply(reply)
        return reply

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
