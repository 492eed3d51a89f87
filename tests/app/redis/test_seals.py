"""The MACs of what this service stores: which changes they find, and that a secret can be replaced."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.clock import SystemClock
from app.crypto.purpose_keys import TAG_CHARACTERS, Purpose, PurposeKeys
from app.errors import RecordChanged
from app.redis.approval_requests import RedisApprovalRequests
from app.redis.seals import SHOWN_FIELDS, CheckpointSeal, RequestSeal
from app.redis.sender_diagnostics import SenderDiagnostics
from app.redis.wire.acknowledgements import Acknowledgements
from app.redis.wire.connection import Connection
from statemachine.checkpoint import Checkpoint
from statemachine.states import State
from tests.harness.stored import seals
from tests.statemachine.runs import SESSION, in_state

OLD, NEW = "the old secret, of thirty-two bytes", "the new secret, of thirty-two bytes"
WAITING = in_state(State.AWAITING_APPROVAL).checkpoint
REQUEST: dict[str, Any] = {
    "requestId": "req-1",
    "sessionId": SESSION,
    "userId": "user1",
    "tenantId": "7",
    "actionType": "send_email",
    "message": "보낼까요?",
    "context": {"to": "lee", "size": 1e2, "list": [1, 2.5, None, True], "text": 'ü\u2028"\\'},
    "argumentsDigest": "d" * 64,
    "position": 1,
    "total": 2,
    "status": "pending",
    "createdAt": 1_706_156_400_000,
    "expiresAt": 1_706_156_700,
    "expiresAtMillis": 1_706_156_700_000,
}


def seal(*secrets: str, accept_unsigned: bool = False) -> CheckpointSeal:
    return CheckpointSeal(PurposeKeys(secrets), accept_unsigned=accept_unsigned)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_each_purpose_and_each_secret_has_a_key_of_its_own() -> None:
    derived = [key for purpose in Purpose for key in PurposeKeys([OLD, NEW, OLD]).derive(purpose)]
    assert len(derived) == len(set(derived)) == 2 * len(Purpose)
    assert {len(key) for key in derived} == {32}
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"aura: checkpoint")
    assert PurposeKeys([OLD]).derive(Purpose.CHECKPOINT) == (hkdf.derive(OLD.encode()),)


def test_keys_need_a_secret() -> None:
    with pytest.raises(ValueError, match="at least one secret"):
        PurposeKeys([])


def test_the_first_secret_signs_and_every_secret_verifies() -> None:
    old, both, new = (PurposeKeys(given).authenticator(Purpose.AUDIT) for given in ([OLD], [NEW, OLD], [NEW]))
    assert both.verify(b"x", old.tag(b"x"))
    assert new.verify(b"x", both.tag(b"x"))
    assert not new.verify(b"x", old.tag(b"x"))
    assert not both.verify(b"y", old.tag(b"x"))
    assert len(old.tag(b"x")) == TAG_CHARACTERS


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_sealed_checkpoint_is_one_json_object_that_loads() -> None:
    stored = seal(OLD).seal(WAITING)
    assert list(json.loads(stored))[-1] == "mac"
    assert seal(OLD).open(SESSION, stored) == WAITING
    assert len(stored) == len(WAITING.to_json()) + len(',"mac":""') + TAG_CHARACTERS


def test_a_secret_is_replaced_while_runs_wait() -> None:
    before = seal(OLD).seal(WAITING)
    assert seal(OLD, NEW).open(SESSION, before) == WAITING
    during = seal(NEW, OLD).seal(seal(NEW, OLD).open(SESSION, before))
    assert seal(NEW).open(SESSION, during) == WAITING
    with pytest.raises(RecordChanged, match="JWT_SECRETS_ACCEPTED"):
        seal(NEW).open(SESSION, before)


def test_every_changed_byte_of_a_checkpoint_is_found() -> None:
    stored = seal(OLD).seal(WAITING)
    for position in range(0, len(stored), 7):
        changed = bytearray(stored)
        changed[position] ^= 1
        with pytest.raises(RecordChanged):
            seal(OLD).open(SESSION, bytes(changed))


@pytest.mark.parametrize("stored", [b"", b"{}", b"null", b'"}', b',"mac":"' + b"A" * 32 + b'"}', b"\xff" * 100])
def test_what_is_no_sealed_checkpoint_is_reported_as_changed(stored: bytes) -> None:
    with pytest.raises(RecordChanged):
        seal(OLD).open(SESSION, stored)


def test_an_unsigned_checkpoint_is_read_only_by_choice_and_never_for_another_run() -> None:
    unsigned = WAITING.to_json()
    with pytest.raises(RecordChanged, match="AURA_ACCEPT_UNSIGNED"):
        seal(OLD).open(SESSION, unsigned)
    assert seal(OLD, accept_unsigned=True).open(SESSION, unsigned) == WAITING
    for stored in (unsigned, seal(OLD).seal(WAITING)):
        with pytest.raises(RecordChanged, match="another run"):
            seal(OLD, accept_unsigned=True).open("session_user2_1_abcd", stored)


def test_the_mac_of_a_checkpoint_has_a_key_that_seals_nothing_else() -> None:
    keys = PurposeKeys([OLD])
    content = WAITING.to_json()[:-1]
    foreign = keys.authenticator(Purpose.SHOWN_REQUEST).tag(content)
    with pytest.raises(RecordChanged):
        seal(OLD).open(SESSION, content + b',"mac":"' + foreign + b'"}')
    assert isinstance(Checkpoint.from_json(content + b"}"), Checkpoint)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_the_mac_of_a_request_covers_values_and_not_their_spelling() -> None:
    made = seals().requests
    sealed = made.seal(REQUEST)
    respelled = json.dumps(dict(reversed(sealed.items())), ensure_ascii=True, indent=1).replace("100.0", "1e2")
    assert "1e2" in respelled
    decided = json.loads(respelled) | {"status": "approved", "approvedBy": "x", "taskId": "t", "auditId": 7}
    assert made.is_intact("req-1", decided)


@pytest.mark.parametrize("name", SHOWN_FIELDS)
def test_every_field_that_a_request_shows_is_covered(name: str) -> None:
    made = seals().requests
    sealed = made.seal(REQUEST)
    assert not made.is_intact("req-1", {**sealed, name: "changed"})
    assert not made.is_intact("req-1", {**sealed, name: [1]})
    assert made.is_intact("req-1", sealed)


@pytest.mark.parametrize("mac", [None, "", 5, [], "A" * 32, "ü", "\ud800"])
def test_a_request_with_another_mac_is_not_intact(mac: Any) -> None:
    assert not seals().requests.is_intact("req-1", {**REQUEST, "mac": mac})


def test_a_request_is_intact_only_under_its_own_id() -> None:
    made = seals().requests
    assert not made.is_intact("req-2", made.seal(REQUEST))
    assert not made.is_intact("req-1", REQUEST)
    lenient = RequestSeal(PurposeKeys([OLD]), accept_unsigned=True)
    assert lenient.is_intact("req-1", REQUEST)
    assert not lenient.is_intact("req-2", REQUEST)


@pytest.fixture
def requests() -> RedisApprovalRequests:
    connection = Connection("redis://127.0.0.1:1/0", timeout_seconds=1)  # nothing here connects
    clock = SystemClock()
    return RedisApprovalRequests(
        connection, seals().requests, SenderDiagnostics(connection, clock), clock, Acknowledgements(connection, 0)
    )


async def test_only_a_decision_that_this_service_recorded_has_edited_arguments(
    requests: RedisApprovalRequests,
) -> None:
    made = seals().requests
    edit = {"status": "approved", "approvedBy": "boss", "approvedAt": REQUEST["createdAt"] + 5, "params": {"to": "kim"}}
    decided = made.seal_decision({**made.seal(REQUEST), **edit, "decisionId": "1"})
    found = requests.parse("req-1", json.dumps(decided).encode())
    assert found is not None
    assert found.decision is not None
    assert (found.decision.via, found.decision.arguments, found.decision.decided_by) == ("http", {"to": "kim"}, "boss")
    for change in ({"params": {"to": "thief"}}, {"approvedBy": "ceo"}, {"status": "rejected"}, {"decisionId": "2"}):
        forged = requests.parse("req-1", json.dumps({**decided, **change}).encode())
        assert forged is not None
        assert forged.decision is not None
        assert (forged.decision.via, forged.decision.arguments, forged.decision.skip) == ("redis", None, False)


HOSTILE: dict[str, bytes] = {
    "no JSON": b"{",
    "no object": b"[1]",
    "another encoding": json.dumps(REQUEST).encode("utf-16"),
    "too large": json.dumps({**REQUEST, "more": "x" * 600_000}).encode(),
    "too deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "a number of 5000 digits": b'{"requestId":"req-1","expiresAtMillis":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("how", HOSTILE)
async def test_what_is_no_request_within_bounds_counts_as_none(requests: RedisApprovalRequests, how: str) -> None:
    assert requests.parse("req-1", HOSTILE[how]) is None


@pytest.mark.parametrize("value", [10**400, -1, True, "soon", [1], {"a": 1}, None, 1e15 + 1])
async def test_a_deadline_that_is_no_time_is_no_error(requests: RedisApprovalRequests, value: Any) -> None:
    raw = json.dumps({**REQUEST, "expiresAtMillis": value, "expiresAt": value, "createdAt": value}).encode()
    found = requests.parse("req-1", raw)
    assert found is not None
    assert found.expires_at == float("inf")
