"""The chain itself: what was done to its entries is found, and named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from app.audit.bounds import MinuteBudget, RecentFailures
from app.audit.chain import START, Head, entry_hash, seal
from app.audit.heads import parse_heads
from app.audit.policy import load_policy
from app.audit.service import audit_keys
from app.audit.verification import KnownHead, Problem, compare_heads, verify_chain
from app.ports.audit import AuthenticationFailed, ChainContinued, ChainName, StoredEntry, ToolEnded

(KEY,) = audit_keys(["a secret of at least thirty-two bytes"])
CHAIN = ChainName("tenant1", "node-1")
OTHER = ChainName("tenant2", "node-1")
DAY = 86_400_000


def build(count: int, chain: ChainName = CHAIN, *, key: bytes = KEY, every_ms: int = 1000) -> list[StoredEntry]:
    head, entries = START, []
    for number in range(1, count + 1):
        entry, head = seal(key, chain, head, number * every_ms, f'{{"kind":"test","number":{number}}}'.encode())
        entries.append(entry)
    return entries


def found(entries: Sequence[StoredEntry], oldest_ms: int = 0) -> list[tuple[str, int, int]]:
    report = verify_chain(CHAIN, entries, [KEY], oldest_ms, {CHAIN, OTHER})
    return [(problem.kind, problem.first, problem.last) for problem in report.problems]


def head_of(entries: Sequence[StoredEntry], source: str = "the log") -> KnownHead:
    at_ms, sequence = entries[-1].place
    return KnownHead(CHAIN, Head(sequence, at_ms, entry_hash(CHAIN, entries[-1])), source)


def against(entries: Sequence[StoredEntry], *heads: KnownHead, oldest_ms: int = 0) -> list[tuple[str, int, int]]:
    reports = [verify_chain(CHAIN, entries, [KEY], oldest_ms)] if entries else []
    problems: list[Problem] = compare_heads(reports, heads, oldest_ms)
    return [(problem.kind, problem.first, problem.last) for problem in problems]


def test_an_untouched_chain_has_no_problem() -> None:
    entries = build(9)
    assert found(entries) == []
    assert against(entries, head_of(entries[:4]), head_of(entries)) == []


CHANGES: dict[str, tuple[Callable[[list[StoredEntry]], list[StoredEntry]], list[tuple[str, int, int]]]] = {
    "edited": (lambda e: [*e[:3], e[3]._replace(body=b'{"kind":"innocent"}'), *e[4:]], [("edited", 4, 4)]),
    "edited header": (lambda e: [*e[:3], e[3]._replace(header=e[2].header), *e[4:]], [("edited", 4, 4)]),
    "edited to nothing": (lambda e: [*e[:3], StoredEntry(e[3].place, b"", b"", b""), *e[4:]], [("edited", 4, 4)]),
    "dropped one": (lambda e: [*e[:3], *e[4:]], [("dropped", 4, 4)]),
    "dropped several": (lambda e: [*e[:2], *e[6:]], [("dropped", 3, 6)]),
    "dropped the first ones": (lambda e: e[2:], [("dropped", 1, 2)]),
    "reordered": (
        lambda e: [*e[:3], e[4]._replace(place=e[3].place), e[3]._replace(place=e[4].place), *e[5:]],
        [("reordered", 4, 4), ("reordered", 5, 5)],
    ),
    "repeated at the end": (lambda e: [*e, e[3]._replace(place=(99_000, 10))], [("repeated", 4, 4)]),
    "repeated before itself": (lambda e: [e[3]._replace(place=(1, 1)), *e], [("repeated", 4, 4)]),
    "copied from another chain": (
        lambda e: [*e[:3], build(9, OTHER)[3], *e[4:]],
        [("copied", 4, 4)],
    ),
    "replaced by an entry of another key": (
        lambda e: [*e[:3], build(9, key=b"another key")[3], *e[4:]],
        [("edited", 4, 4)],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_chain_is_found_and_the_entry_and_the_change_are_named(name: str) -> None:
    change, expected = CHANGES[name]
    assert found(change(build(9))) == expected


def test_an_entry_that_who_has_the_key_wrote_in_place_of_another_is_found_by_the_next_one() -> None:
    entries = build(9)
    forged, _ = seal(KEY, CHAIN, Head(3, 3000, entry_hash(CHAIN, entries[2])), 4000, b'{"kind":"innocent"}')
    assert found([*entries[:3], forged, *entries[4:]]) == [("replaced", 4, 4)]


def test_a_chain_that_is_cut_off_is_found_by_a_head_of_the_log() -> None:
    entries = build(9)
    head = head_of(entries)
    assert found(entries[:5]) == []
    assert against(entries[:5], head_of(entries[:3]), head) == [("truncated", 6, 9)]
    assert against([], head) == [("missing", 1, 9)]


def test_an_old_copy_that_was_put_back_and_continued_is_found() -> None:
    old, head = build(5), START
    for entry in old:
        head = Head(entry.place[1], entry.place[0], entry_hash(CHAIN, entry))
    other, _ = seal(KEY, CHAIN, head, 6000, b'{"kind":"another"}')
    assert against([*old, other], head_of(build(6))) == [("replaced", 6, 6)]
    # and where the node went on with its own chain, what lies between is missing
    assert found([*old, *build(9)[7:]]) == [("dropped", 6, 7)]


def test_what_the_retention_time_removes_is_no_problem() -> None:
    entries = build(9, every_ms=DAY)
    assert found(entries[4:], oldest_ms=5 * DAY + 1) == []
    assert found(entries[6:], oldest_ms=5 * DAY + 1) == [("dropped", 1, 6)]
    assert against([], head_of(entries), oldest_ms=10 * DAY) == []


def test_a_continued_chain_names_the_end_of_the_one_before() -> None:
    entries = build(3)
    end = ChainContinued(chain=CHAIN.name, sequence=3, hash=entry_hash(CHAIN, entries[2]).hex())
    following, _ = seal(KEY, ChainName("tenant1", "node-1.2"), START, 5000, end.to_json())
    report = verify_chain(ChainName("tenant1", "node-1.2"), [following], [KEY], 0)
    assert against(entries[:2], *report.known_heads) == [("truncated", 3, 3)]
    quoting = ToolEnded(session='"chain.continued"', call="c", tool="t", outcome="failed").to_json()
    entry, _ = seal(KEY, CHAIN, START, 1, quoting)
    assert verify_chain(CHAIN, [entry], [KEY], 0).known_heads == []


def test_time_never_goes_back_within_a_chain() -> None:
    first, head = seal(KEY, CHAIN, START, 5000, b"{}")
    second, _ = seal(KEY, CHAIN, head, 4000, b"{}")
    assert second.place == (5000, 2)
    assert found([first, second]) == []


def test_heads_are_read_from_lines_of_a_log_with_anything_around_them() -> None:
    line = (
        '{"tenantId": "t", "chain": "n", "sequence": 7, "atMillis": 5, "hash": "ab", "event": "audit.head",'
        ' "level": "info"}'
    )
    lines = [
        line,
        f"2024-01-16T12:00:00Z stdout F {line}",
        line.replace("audit.head", "audit.headless"),
        '{"event": "audit.head"}',
        '{"event": "audit.head"',
        "audit.head",
        line.replace('"sequence": 7', '"sequence": "many"'),
    ]
    expected = KnownHead(ChainName("t", "n"), Head(7, 5, b"\xab"), "service.log")
    assert list(parse_heads(lines, "service.log")) == [expected, expected]


def test_a_text_that_is_no_unicode_is_recorded_all_the_same() -> None:
    event = ToolEnded(session="s\ud800", call="c", tool="t", outcome="failed")
    assert event.to_json() == b'{"kind":"tool.ended","session":"s?","call":"c","tool":"t","outcome":"failed"}'


def test_one_user_cannot_fill_the_record_with_refusals() -> None:
    budget = MinuteBudget(per_user=2, per_tenant=3)
    admitted = [budget.admits(0, "t", user) for user in ("a", "a", "a", "b", "c")]
    assert admitted == [True, True, False, False, False]
    assert budget.admits(0, "t2", "a")
    assert budget.take_suppressed(0) == [("t", 3)]
    assert budget.admits(60, "t", "a")
    assert budget.take_suppressed(60) == []


def test_failures_beyond_the_limit_are_counted() -> None:
    failures = RecentFailures(limit=2)
    for number in range(5):
        failures.add(AuthenticationFailed(at=number, code="E2003", cause="", method="GET", route=""))
    assert [type(event).__name__ for event in failures.take(9)] == ["AuthenticationFailed"] * 2 + ["FailuresSuppressed"]
    assert failures.take(9) == []


def test_the_policy_names_settings_and_holds_no_value() -> None:
    settings = {"jwt_secret": "a secret value", "aura_approver_roles": frozenset({"admin"}), "openai_model": "m"}
    policy = load_policy(settings, KEY, version="1", approval_required=["send_email"])
    assert policy.names == ("AURA_APPROVER_ROLES", "JWT_SECRET")
    assert b"a secret value" not in policy.to_json()
    other = load_policy({**settings, "jwt_secret": "another"}, KEY, version="1", approval_required=["send_email"])
    assert other.digest != policy.digest
    again = load_policy({**settings, "openai_model": "n"}, KEY, version="1", approval_required=["send_email"])
    assert again.digest == policy.digest
