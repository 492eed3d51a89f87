"""Reads the record: pages for auditors, whole chains for commands, and the verification of all that is stored."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from app.audit.chain import Head, entry_hash, is_failure_sealed, is_sealed, read_header
from app.audit.verification import ChainReport, KnownHead, Problem, compare_heads, verify_chain
from app.errors import FieldInvalid
from app.ports.audit import AuditReader, AuditStore, ChainName, StoredEntry, UnlistedChain
from app.ports.responses import AuditEntry, AuditPage

_PAGE_ENTRIES = 500
_MAX_READ_PER_PAGE = 5_000
_END = (1 << 62, None)
_CURSOR = re.compile(r"(\d{1,18})-(\d{1,18})-([A-Za-z0-9.-]{1,80})")


class _Position(NamedTuple):
    """Where an entry stands among all entries of a tenant: the newest have the greatest one."""

    at_ms: int
    sequence: int
    chain: str


class Verification(NamedTuple):
    """What was read, how many heads it was compared with, and what is wrong."""

    chains: int
    entries: int
    heads: int
    problems: list[Problem]


class AuditQueries:
    """Reads the chains in one store (`ports.audit.AuditPages`). `keys` are those of the MACs."""

    def __init__(self, source: AuditReader, keys: Sequence[bytes]) -> None:
        self._source = source
        self._keys = keys

    async def page(
        self, tenant_id: str, *, cursor: str | None, limit: int, kind: str | None = None, session_id: str | None = None
    ) -> AuditPage:
        before = _parse_cursor(cursor)
        found: list[AuditEntry] = []
        read = 0
        while read < _MAX_READ_PER_PAGE:
            step = await self._newest(tenant_id, before, limit)
            read += len(step)
            for chain, entry in step:
                before = _position(chain, entry)
                shown = to_response(chain, entry, self._keys)
                if kind in (None, shown["kind"]) and session_id in (None, shown["details"].get("session")):
                    found.append(shown)
                    if len(found) == limit:
                        return {"entries": found, "nextCursor": _to_cursor(before)}
            if len(step) < limit:
                return {"entries": found}
        return {"entries": found} if before is None else {"entries": found, "nextCursor": _to_cursor(before)}

    async def _newest(
        self, tenant_id: str, before: _Position | None, limit: int
    ) -> list[tuple[ChainName, StoredEntry]]:
        """Return the newest entries before a position, of all chains together, newest first."""
        found: list[tuple[ChainName, StoredEntry]] = []
        for name, last_write_ms in await self._source.list_chains(tenant_id):
            if len(found) >= limit and found[limit - 1][1].place[0] > last_write_ms:
                break  # this chain, and all that follow, are older
            chain = ChainName(tenant_id, name)
            entries = await self._source.read_back(chain, _until(before, name), limit)
            found += [(chain, entry) for entry in entries]
            found.sort(key=lambda item: _position(*item), reverse=True)
        return found[:limit]

    async def chains(self, tenant_id: str | None = None) -> list[ChainName]:
        """Return all chains, or those of one tenant."""
        return list(await self._last_writes(tenant_id))

    async def _last_writes(self, tenant_id: str | None) -> dict[ChainName, int]:
        """Return the listed chains with the time of their last write (ms)."""
        tenants = await self._source.list_tenants() if tenant_id is None else [tenant_id]
        return {
            ChainName(tenant, name): last_write_ms
            for tenant in sorted(tenants)
            for name, last_write_ms in await self._source.list_chains(tenant)
        }

    async def entries(self, chain: ChainName) -> AsyncIterator[StoredEntry]:
        """Iterate over a chain in the order in which its entries stand."""
        after = (0, 0)
        while True:
            page = await self._source.read(chain, after, _PAGE_ENTRIES)
            for entry in page:
                yield entry
            if len(page) < _PAGE_ENTRIES:
                return
            after = page[-1].place

    async def heads(self, source: str) -> list[KnownHead]:
        """Return the end of each chain, as heads that another store can be compared with."""
        found = []
        for chain in await self.chains():
            for entry in await self._source.read_back(chain, _END, 1):
                at_ms, sequence = entry.place
                found.append(KnownHead(chain, Head(sequence, at_ms, entry_hash(chain, entry)), source))
        return found

    async def verify(
        self,
        oldest_ms: int,
        heads: Iterable[KnownHead] = (),
        *,
        tenant_id: str | None = None,
        unlisted: Iterable[UnlistedChain] = (),
    ) -> Verification:
        """Verify every chain of this store, or those of one tenant, and compare them with heads that were kept
        elsewhere. `unlisted` are chains that the store has beside those that it lists."""
        unlisted = [found for found in unlisted if tenant_id in (None, found.tenant_id)]
        last_writes = await self._last_writes(tenant_id)
        named = [ChainName(found.tenant_id, found.name) for found in unlisted if found.tenant_id is not None]
        chains = list(dict.fromkeys([*last_writes, *named]))
        reports: list[ChainReport] = []
        for chain in chains:
            entries = [entry async for entry in self.entries(chain)]
            reports.append(verify_chain(chain, entries, self._keys, oldest_ms, chains))
        known = [head for head in heads if tenant_id in (None, head.chain.tenant_id)]
        known += [head for report in reports for head in report.known_heads]
        problems = [problem for report in reports for problem in report.problems]
        problems += map(_unlisted, unlisted)
        problems += compare_heads(reports, known, oldest_ms)
        gone = {problem.chain for problem in problems if problem.kind == "missing"}
        for report in reports:
            if not report.entries and report.chain not in gone and last_writes.get(report.chain, 0) >= oldest_ms:
                problems.append(Problem(report.chain, 1, 1, "missing", "the list of the tenant's chains names it"))
        return Verification(len(reports), sum(report.entries for report in reports), len(known), problems)


async def count_invalid_failures(store: AuditStore, keys: Sequence[bytes], limit: int) -> int:
    """Return how many of the newest failed authentications were changed or written without the key."""
    return sum(not is_failure_sealed(keys, failure) for failure in await store.read_failures(limit))


def to_response(chain: ChainName, entry: StoredEntry, keys: Sequence[bytes]) -> AuditEntry:
    """Return an entry as clients see it. What others have put in its place is shown as far as it can be read, and is
    marked: its MAC does not fit, or it stands in another place than it was written to."""
    header = read_header(entry)
    at_ms, sequence = entry.place if header is None else (header.at_ms, header.sequence)
    is_in_place = header is not None and entry.place == (at_ms, sequence)
    details = parse_event(entry.body)
    return {
        "chain": chain.name,
        "sequence": sequence,
        "at": at_ms / 1000,
        "kind": str(details.pop("kind", "unreadable"))[:100],
        "details": details,
        "hash": entry_hash(chain, entry).hex(),
        "intact": is_in_place and is_sealed(keys, chain, entry),
    }


def _unlisted(found: UnlistedChain) -> Problem:
    if found.tenant_id is not None:
        return Problem(ChainName(found.tenant_id, found.name), 1, found.last[1], "unlisted")
    detail = "its tenant is not known, so its entries were not verified; a log given as --heads may name the tenant"
    return Problem(ChainName("?", found.name), 1, found.last[1], "unlisted", detail)


def parse_event(body: bytes) -> dict[str, Any]:
    """Return the fields of an event; none where it is not one of the service's."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def _position(chain: ChainName, entry: StoredEntry) -> _Position:
    at_ms, sequence = entry.place
    return _Position(at_ms, sequence, chain.name)


def _until(before: _Position | None, chain: str) -> tuple[int, int | None]:
    """Return the place in one chain before which its entries precede a position."""
    if before is None:
        return _END
    if chain < before.chain:
        return (before.at_ms, before.sequence + 1)
    return (before.at_ms, before.sequence)


def _parse_cursor(cursor: str | None) -> _Position | None:
    if cursor is None:
        return None
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise FieldInvalid("cursor: send the nextCursor of the page before, unchanged")
    return _Position(int(found[1]), int(found[2]), found[3])


def _to_cursor(position: _Position) -> str:
    return f"{position.at_ms}-{position.sequence}-{position.chain}"
