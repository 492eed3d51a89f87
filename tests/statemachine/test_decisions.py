"""Parsing of decisions in every form that senders use (§5), and of signals without a valid decision."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.decisions import (
    Decision,
    SignalForOtherRequest,
    SignalIgnored,
    has_request_id,
    is_only_request,
    parse_signal,
    parse_stored_decision,
)
from tests.statemachine.runs import NOW, Run, risky

REQUEST = "req-0123456789ab"


def parse(signal: Any, *, is_live: bool = True, may_lack_id: bool = True) -> Decision:
    raw = signal if isinstance(signal, str | bytes) else json.dumps(signal)
    return parse_signal(raw, request_id=REQUEST, received_at=NOW, is_live=is_live, may_lack_id=may_lack_id)


def stored(**fields: Any) -> Decision | None:
    return parse_stored_decision(fields, request_id=REQUEST, asked_at=NOW - 60, now=NOW)


@pytest.mark.parametrize(
    ("signal", "verdict"),
    [
        ({"type": "approval", "requestId": REQUEST, "status": "approved", "timestamp": 1}, "approved"),
        ({"type": "rejection", "requestId": REQUEST, "status": "rejected", "reason": "no"}, "rejected"),
        ({"type": "approval", "requestId": REQUEST}, "approved"),
        ({"type": "rejection", "requestId": REQUEST}, "rejected"),
        ({"type": "approval"}, "approved"),
        ({"requestId": None, "type": "approval"}, "approved"),
        ({"action": "approve"}, "approved"),
        ({"action": "reject"}, "rejected"),
        ({"type": "approval", "approved": True}, "approved"),
        ({"type": "approval", "approved": False}, "rejected"),
        ({"type": "approval", "status": "rejected"}, "rejected"),
        ({"approved": True}, "approved"),
        ({"status": "APPROVED"}, "approved"),
        ({"type": "hitl", "status": "approved", "extra": {"a": 1}}, "approved"),
        ({"type": 7, "status": "approved"}, "approved"),
    ],
)
def test_every_form_of_a_signal_is_parsed(signal: dict[str, Any], verdict: str) -> None:
    assert parse(signal).verdict == verdict
    assert parse(json.dumps(signal).encode()).verdict == verdict
    assert parse(json.dumps(json.dumps(signal))).verdict == verdict, "some senders serialise twice"


@pytest.mark.parametrize(
    ("signal", "why"),
    [
        ({"requestId": "req-other", "status": "approved"}, "it is for request 'req-other', req-0123456789ab is open"),
        ({"requestId": 5, "status": "approved"}, "it is for request 5"),
        ({"requestId": "x" * 9000, "status": "approved"}, "it is for request"),
        ({}, "contains no decision"),
        ({"type": "hello"}, "contains no decision"),
        ({"type": ["approval"]}, "contains no decision"),
        ({"status": "pending"}, "status 'pending' is not a decision"),
        ({"status": "expired", "type": "approval"}, "status 'expired' is not a decision"),
        ({"status": True}, "status True is not a decision"),
        ({"action": "maybe"}, "action 'maybe' is not a decision"),
        ({"action": "x" * 9000}, "is not a decision"),
        ({"approved": "true"}, "approved 'true' is neither true nor false"),
        ({"approved": 1}, "approved 1 is neither true nor false"),
        ({"type": "rejection", "status": "approved"}, "contradict each other"),
        ({"type": "rejection", "approved": True}, "contradict each other"),
        ({"status": "approved", "action": "reject"}, "contradict each other"),
        ('{"status": "approved", "status": "rejected"}', "occurs more than once"),
        ('{"status": "approved", "timestamp": NaN}', "NaN is not a JSON number"),
        ('{"status": "approved", "timestamp": 1e999}', "too large a number"),
        ('{"status": "approved", "timestamp": ' + "9" * 5000 + "}", "too many digits"),
        ('{"a": ' + "[" * 60 + "]" * 60 + "}", "nested more than"),
        (json.dumps({"status": "approved", "reason": "x" * 600_000}), "more than 524288 bytes"),
        ([{"status": "approved"}], "it is not a JSON object"),
        ("null", "it is not a JSON object"),
        ("1", "it is not a JSON object"),
        ('"approved"', "it is not JSON"),
        ("", "it is not JSON"),
        ("approved", "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        ('{"status": "approved"', "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        (b"\xac\xed\x00\x05t\x00\x02{}", "Java serialisation"),
        ("\xac\xed\x00\x05t", "Java serialisation"),
    ],
)
def test_signal_without_a_valid_decision_is_ignored_with_a_short_cause(signal: Any, why: str) -> None:
    with pytest.raises(SignalIgnored) as ignored:
        parse(signal)
    assert why in str(ignored.value)
    assert len(str(ignored.value)) < 300


def test_signal_carries_a_verdict_and_a_reason_and_nothing_else() -> None:
    signal = {
        "status": "approved",
        "timestamp": 5,
        "reason": "ok",
        "params": {"to": "thief@example.com"},
        "skip": True,
        "userId": "boss",
        "approvedBy": "ceo",
        "rejectedBy": "ceo",
        "decidedBy": "ceo",
    }
    assert parse(signal) == Decision("approved", REQUEST, NOW, reason="ok", via="redis")
    assert parse(signal, is_live=False) == Decision("approved", REQUEST, 5, reason="ok", via="redis")


def test_signal_without_a_request_id_counts_only_where_it_cannot_be_for_another_request() -> None:
    assert parse({"action": "approve"}, may_lack_id=True).verdict == "approved"
    for nameless in ({"action": "approve"}, {"action": "approve", "requestId": None}):
        with pytest.raises(SignalForOtherRequest, match="names no request"):
            parse(nameless, may_lack_id=False)
    assert parse({"action": "approve", "requestId": REQUEST}, may_lack_id=False).verdict == "approved"


def test_only_request_of_a_run_is_the_first_that_was_sent() -> None:
    run = Run()
    run.request_tools(risky("a"))
    assert is_only_request(run.checkpoint)
    run.approve()
    run.finish_call("a")
    run.request_tools(risky("b"))
    assert not is_only_request(run.checkpoint)
    queued = Run()
    queued.request_tools(risky("a"), risky("b"))
    assert is_only_request(queued.checkpoint)
    queued.reject(skip=True)
    assert not is_only_request(queued.checkpoint)


@pytest.mark.parametrize(
    ("times", "decided_at"),
    [
        ({"timestamp": int(NOW) - 10}, NOW - 10),
        ({"timestamp": int(NOW * 1000) - 10_500}, NOW - 10.5),
        ({"approvedAt": int(NOW * 1000) - 1000, "timestamp": 5}, NOW - 1),
        ({"rejectedAt": NOW - 2}, NOW),
        ({"timestamp": NOW + 1}, NOW),
        ({"timestamp": 0}, NOW),
        ({"timestamp": -5}, NOW),
        ({"timestamp": True}, NOW),
        ({"timestamp": "yesterday"}, NOW),
        ({"timestamp": 10**400}, NOW),
        ({"timestamp": 1e300}, NOW),
        ({"approvedAt": "?", "timestamp": int(NOW) - 3}, NOW - 3),
        ({}, NOW),
    ],
)
def test_stored_decision_has_the_senders_time_if_that_is_valid(times: dict[str, Any], decided_at: float) -> None:
    assert parse({"status": "approved", **times}, is_live=False).decided_at == decided_at


def test_stored_decision_is_by_whom_the_request_says() -> None:
    assert stored(userId="owner", status="approved") == Decision("approved", REQUEST, NOW, via="redis")
    approved = stored(userId="owner", status="APPROVED", approvedBy="boss", rejectedBy="x", reason="ok", params={})
    assert approved == Decision("approved", REQUEST, NOW, "boss", "ok", via="redis")
    assert stored(status="rejected", rejectedBy="boss", approvedBy="x", skip=True) == Decision(
        "rejected", REQUEST, NOW, "boss", via="redis"
    )


def test_time_of_a_stored_decision_is_in_the_field_of_its_verdict() -> None:
    early, late = int((NOW - 50) * 1000), int((NOW - 10) * 1000)
    rejected = stored(status="rejected", rejectedAt=late, approvedAt=early, timestamp=early)
    assert rejected is not None
    assert rejected.decided_at == NOW - 10
    approved = stored(status="approved", approvedAt=late, rejectedAt=early, timestamp=early)
    assert approved is not None
    assert approved.decided_at == NOW - 10
    elsewhere = stored(status="rejected", approvedAt=early, timestamp=early)
    assert elsewhere is not None
    assert elsewhere.decided_at == NOW


@pytest.mark.parametrize("status", ["pending", "expired", "cancelled", "", None, 5, ["approved"]])
def test_request_with_another_status_is_not_decided(status: Any) -> None:
    assert stored(status=status, approvedBy="boss") is None


@pytest.mark.parametrize(
    ("at", "decided_at"),
    [
        (int((NOW - 30) * 1000), NOW - 30),
        (int((NOW - 61) * 1000), NOW),  # before the request was made
        (int((NOW + 1) * 1000), NOW),
        (10**400, NOW),
        (-1, NOW),
        (True, NOW),
        ("soon", NOW),
    ],
)
def test_stored_decision_is_neither_older_than_its_request_nor_in_the_future(at: Any, decided_at: float) -> None:
    decision = stored(status="approved", approvedAt=at)
    assert decision is not None
    assert decision.decided_at == decided_at


def test_texts_of_senders_are_cut_and_single_surrogates_replaced() -> None:
    assert parse({"status": "rejected", "reason": "x" * 9000}).reason == "x" * 2000
    assert parse({"status": "rejected", "reason": "a\ud83d"}).reason == "a\ufffd"
    assert parse('{"status": "rejected", "reason": "a\ud83d"}').reason == "a\ufffd"
    assert parse(json.dumps({"status": "rejected", "reason": "a\ud83d"}).encode()).reason == "a\ufffd"
    assert parse({"status": "rejected", "reason": 5}) == Decision("rejected", REQUEST, NOW, via="redis")


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (json.dumps({"requestId": REQUEST}), True),
        (json.dumps({"requestId": None}), False),
        (json.dumps({"requestId": 5}), False),
        ("{}", False),
        ("nonsense", False),
        (b"\xac\xed", False),
    ],
)
def test_has_request_id(raw: str | bytes, names: bool) -> None:
    assert has_request_id(raw) is names


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["approved", "reject"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["type", "status", "action", "approved", "requestId", "timestamp", "params", "reason", "skip"])


@settings(max_examples=100, deadline=None)
@given(st.binary() | st.text() | st.dictionaries(NAMES, JSON).map(json.dumps), st.booleans())
def test_any_input_is_parsed_or_ignored(raw: str | bytes, is_live: bool) -> None:
    try:
        decision = parse(raw, is_live=is_live)
    except SignalIgnored:
        return
    assert decision.request_id == REQUEST
    assert decision.decided_at <= NOW
