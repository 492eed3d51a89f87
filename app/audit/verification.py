"""Verification of chains: which entry was changed, dropped, moved, repeated, copied, replaced or cut off.

Pure functions: the caller reads the entries, and the heads that the log or the database has kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from app.audit.chain import START, Head, Header, entry_hash, is_sealed, read_header
from app.ports.audit import ChainContinued, ChainName, StoredEntry

ProblemKind = Literal[
    "edited", "dropped", "reordered", "repeated", "copied", "replaced", "truncated", "missing", "unlisted"
]

_MEANING: dict[ProblemKind, str] = {
    "edited": "its content does not fit its MAC: it was changed, or written without the key",
    "dropped": "gone from the middle or the beginning, earlier than the retention time removes entries",
    "reordered": "it stands in another place than it was written to",
    "repeated": "the entry is there once more, in another place",
    "copied": "it was written for another chain",
    "replaced": "it is not the entry that was there before: the following entry, the log or the database has another",
    "truncated": "cut off at the end, or an older copy of the chain was put in its place",
    "missing": "the whole chain is gone",
    "unlisted": "the lists of tenants and chains do not name it: one of them was changed or removed",
}


class Problem(NamedTuple):
    """What is wrong with the entries `first` to `last` (sequences) of a chain."""

    chain: ChainName
    first: int
    last: int
    kind: ProblemKind
    detail: str = ""

    def __str__(self) -> str:
        entries = f"entry {self.first}" if self.first == self.last else f"entries {self.first} to {self.last}"
        detail = f" ({self.detail})" if self.detail else ""
        return f"{describe(self.chain)}, {entries}: {self.kind}: {_MEANING[self.kind]}{detail}"


class KnownHead(NamedTuple):
    """The end of a chain at some time, as `source` has kept it."""

    chain: ChainName
    head: Head
    source: str


@dataclass(slots=True)
class ChainReport:
    """The result for one chain: its problems, the hashes of its valid entries, and the heads that it names itself."""

    chain: ChainName
    problems: list[Problem] = field(default_factory=list)
    hashes: dict[int, bytes] = field(default_factory=dict)
    known_heads: list[KnownHead] = field(default_factory=list)
    last: int = 0
    entries: int = 0


def describe(chain: ChainName) -> str:
    return f"tenant {chain.tenant_id or '(the service)'}, chain {chain.name}"


def verify_chain(
    chain: ChainName,
    entries: Iterable[StoredEntry],
    keys: Sequence[bytes],
    oldest_ms: int,
    others: Collection[ChainName] = (),
) -> ChainReport:
    """Verify the entries of one chain, in the order in which they stand.

    Only what was written before `oldest_ms` may be gone from the beginning. `others` are the chains from which an entry
    may have been copied.
    """
    report = ChainReport(chain)
    placed: dict[int, Header] = {}
    misplaced: dict[int, Header] = {}
    unreadable: set[int] = set()
    for entry in entries:
        report.entries += 1
        header = read_header(entry)
        if header is None or not is_sealed(keys, chain, entry):
            unreadable.add(entry.place[1])
            report.problems.append(_invalid(chain, entry, keys, others))
            continue
        is_in_place = entry.place == (header.at_ms, header.sequence) and header.sequence not in placed
        if not is_in_place and (header.sequence in misplaced or header.sequence in placed):
            report.problems.append(Problem(chain, header.sequence, header.sequence, "repeated", _place(entry)))
            continue
        (placed if is_in_place else misplaced)[header.sequence] = header
        report.hashes[header.sequence] = entry_hash(chain, entry)
        _collect_head(report, entry)
    for sequence in misplaced:
        kind: ProblemKind = "repeated" if sequence in placed else "reordered"
        report.problems.append(Problem(chain, sequence, sequence, kind))
    headers = misplaced | placed
    report.last = max((*headers, *unreadable), default=0)
    report.problems += _dropped(chain, headers, {*headers, *unreadable}, oldest_ms)
    report.problems += _broken_links(chain, headers, report.hashes)
    report.problems.sort(key=lambda problem: problem.first)
    return report


def compare_heads(reports: Iterable[ChainReport], heads: Iterable[KnownHead], oldest_ms: int) -> list[Problem]:
    """Compare the chains with the heads that were kept elsewhere: each must still be there, with the same hash."""
    known = {report.chain: report for report in reports}
    cut_off: dict[ChainName, Problem] = {}
    replaced: dict[tuple[ChainName, int], Problem] = {}
    for chain, head, source in heads:
        if head.at_ms < oldest_ms or head.sequence <= START.sequence:
            continue  # the retention time may have removed it
        report = known.get(chain)
        last = report.last if report is not None else 0
        if head.sequence > last:
            kind: ProblemKind = "truncated" if last else "missing"
            worst = cut_off.get(chain)
            if worst is None or worst.last < head.sequence:
                cut_off[chain] = Problem(chain, last + 1, head.sequence, kind, f"known from {source}")
        elif report is not None and report.hashes.get(head.sequence, head.hash) != head.hash:
            replaced[chain, head.sequence] = Problem(chain, head.sequence, head.sequence, "replaced", f"by {source}")
    return [*cut_off.values(), *replaced.values()]


def _invalid(chain: ChainName, entry: StoredEntry, keys: Sequence[bytes], others: Collection[ChainName]) -> Problem:
    sequence = entry.place[1]
    for other in others:
        if other != chain and is_sealed(keys, other, entry):
            return Problem(chain, sequence, sequence, "copied", f"from {describe(other)}")
    return Problem(chain, sequence, sequence, "edited")


def _dropped(chain: ChainName, headers: dict[int, Header], present: set[int], oldest_ms: int) -> Iterable[Problem]:
    if not present:
        return
    first = min(present)
    is_expired = first in headers and headers[first].previous_at_ms < oldest_ms
    if first > 1 and not is_expired:
        yield Problem(chain, 1, first - 1, "dropped")
    for before, after in pairwise(sorted(present)):
        if after > before + 1:
            yield Problem(chain, before + 1, after - 1, "dropped")


def _broken_links(chain: ChainName, headers: dict[int, Header], hashes: dict[int, bytes]) -> Iterable[Problem]:
    for sequence, header in headers.items():
        before = START.hash if sequence == 1 else hashes.get(sequence - 1)
        if before is not None and before != header.previous_hash:
            yield Problem(chain, sequence - 1, sequence - 1, "replaced", f"entry {sequence} follows another one")


def _collect_head(report: ChainReport, entry: StoredEntry) -> None:
    """Note the head of the earlier chain that the first entry of a continued chain names."""
    event = ChainContinued.parse(entry.body)
    if event is None:
        return
    head = Head(event.sequence, entry.place[0], bytes.fromhex(event.hash))
    earlier = ChainName(report.chain.tenant_id, event.chain)
    report.known_heads.append(KnownHead(earlier, head, f"the chain {report.chain.name} that continues it"))


def _place(entry: StoredEntry) -> str:
    return f"at {entry.place[0]}-{entry.place[1]}"
