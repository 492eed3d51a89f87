"""Parsing messages into events, and the reasons why a message is malformed (§7)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.knowledge.events import MESSAGE_LIMIT_BYTES, MalformedMessage, parse

FIXTURES = Path(__file__).parents[3] / "fixtures" / "knowledge"


def message(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "eventId": "evt-1",
        "timestamp": "2024-01-16T12:00:00Z",
        "userId": "u1",
        "tenantId": "t1",
        "eventType": "mail.received",
        "subject": "견적서 송부",
        "body": "요청하신  견적서입니다.\n합계는 1,200만원입니다.",
    }
    return json.dumps({**fields, **changes}).encode()


def test_an_event_has_the_envelope_fields_a_title_and_the_text() -> None:
    event = parse(message(amount=1200, **{"from": {"name": "김철수", "tags": ["vip", None, True]}}))
    assert (event.id, event.tenant_id, event.user_id, event.type) == ("evt-1", "t1", "u1", "mail.received")
    assert event.at == 1_705_406_400
    assert event.title == "견적서 송부"
    assert event.text == "요청하신 견적서입니다.\n합계는 1,200만원입니다.\n1200\n김철수\nvip"


def test_fields_may_be_under_data_and_envelope_fields_take_precedence() -> None:
    nested = message(subject=None, body=None, data={"subject": "휴가 신청", "content": "연차", "eventId": "other"})
    event = parse(nested)
    assert (event.id, event.title, event.text) == ("evt-1", "휴가 신청", "연차")
    whole = {"data": json.loads(message())}
    assert parse(json.dumps(whole).encode()) == parse(message())


def test_identifiers_may_be_numbers() -> None:
    event = parse(message(eventId=12, tenantId=7, userId=3))
    assert (event.id, event.tenant_id, event.user_id) == ("12", "7", "3")
    assert parse(message(userId=None)).user_id == ""


@pytest.mark.parametrize(
    ("timestamp", "at"),
    [
        ("2024-01-16T21:00:00+09:00", 1_705_406_400),
        ("2024-01-16T12:00:00", 1_705_406_400),
        ("2024-01-16T12:00:00.250Z", 1_705_406_400.25),
    ],
)
def test_times_are_iso_8601_and_utc_by_default(timestamp: str, at: float) -> None:
    assert parse(message(timestamp=timestamp)).at == at


@pytest.mark.parametrize("event_type", ["mail.received", "MAIL_RECEIVED", "MailReceived", "mail:received"])
def test_a_type_is_matched_by_its_words(event_type: str) -> None:
    assert {"mail", "received", event_type.lower()} == {*parse(message(eventType=event_type)).topics}


def test_json_text_inside_a_json_string_is_read() -> None:
    assert parse(json.dumps(message().decode()).encode()) == parse(message())


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "not_json"),
        (b"\xff\xfe{}", "not_json"),
        (b'"text"', "not_json"),
        (message()[:-1] + b', "to": ["ceo"], "to": []}', "not_json"),
        (message()[:-1] + b', "data": {"to": ["ceo"]}, "data": {}}', "not_json"),
        (message()[:-1] + b', "data": {"to": ["ceo"], "t\\u006f": []}}', "not_json"),
        (message()[:-1] + b', "amount": NaN}', "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"[]", "not_an_object"),
        (b"7", "not_an_object"),
        (b"\xac\xed\x00\x05t\x00\x02{}", "java_serialized"),
        (b" " * (MESSAGE_LIMIT_BYTES + 1), "too_large"),
        (message(eventId=None), "no_eventId"),
        (message(eventId=" "), "no_eventId"),
        (message(eventId="x" * 129), "long_eventId"),
        (message(tenantId=True), "no_tenantId"),
        (message(tenantId=["t1", "t2"]), "no_tenantId"),
        (message(eventType={}), "no_eventType"),
        (message(timestamp=None), "no_timestamp"),
        (message(timestamp="yesterday"), "no_timestamp"),
        (message(timestamp=1705406400), "no_timestamp"),
        (message(timestamp="0001-01-01T00:00:00+23:59"), "no_timestamp"),
        (message(userId={"id": 1}), "no_userId"),
        (message(userId=None, user_id={"id": 1}), "no_userId"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_malformed_message_has_one_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage) as raised:
        parse(raw)
    assert raised.value.reason == reason


def test_long_deep_and_broken_texts_are_truncated_not_rejected() -> None:
    deep: Any = "bottom"
    for _ in range(50):
        deep = {"in": deep}
    event = parse(message(subject="제목" * 500, body="가" * 20_000, more=deep))
    assert (len(event.title), len(event.text)) == (200, 8000)
    assert parse(message(more=deep)).text == parse(message()).text
    assert parse(message(body="half \ud83d")).text == "half ?"


def test_all_labelled_events_can_be_parsed() -> None:
    lines = (FIXTURES / "events.jsonl").read_text("utf-8").splitlines()
    events = [parse(line.encode()) for line in lines]
    assert len({event.id for event in events}) == len(events)
    relevant = [json.loads(line)["relevant"] for line in (FIXTURES / "queries.jsonl").read_text("utf-8").splitlines()]
    assert {id for ids in relevant for id in ids} <= {event.id for event in events}
