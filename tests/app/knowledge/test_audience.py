"""Who finds an event (§7): the people that it names, or the whole tenant where it names nobody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.knowledge.audience import NAMING_FIELDS
from app.knowledge.events import parse
from app.ports.knowledge import EVERYBODY, Searcher, WorkspaceEvent, person_name


def event(**fields: Any) -> WorkspaceEvent:
    envelope = {"eventId": "e", "timestamp": "2024-01-16T12:00:00Z", "tenantId": "t1", "eventType": "mail.received"}
    return parse(json.dumps({**envelope, **fields}).encode())


def audience(**fields: Any) -> set[str]:
    return {*event(**fields).audience}


def finds(user: str, email: str | None = None, **fields: Any) -> bool:
    """Whether this person finds an event with these fields, as the indexes decide it."""
    return bool(Searcher("t1", user, email).names & audience(**fields))


# --- people that an event names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", sorted(NAMING_FIELDS))
@pytest.mark.parametrize(
    "value",
    [
        "kim",
        "lee, kim",
        "lee; KIM ;",
        ["lee", "Kim"],
        ["lee,kim"],
        {"id": "kim"},
        {"userId": "kim", "name": "김철수"},
        [{"id": "lee"}, {"id": "kim"}],
        [["kim"]],
    ],
    ids=str,
)
def test_a_named_person_finds_the_event_and_others_do_not(field: str, value: Any) -> None:
    for fields in ({field: value}, {"data": {field: value}}, {field.upper(): value}):
        assert finds("kim", userId="ceo", **fields)
        assert finds("ceo", userId="ceo", **fields)
        assert not finds("mallory", "mallory@dwp.test", userId="ceo", **fields)
        assert not finds("김철수", userId="ceo", **fields)


@pytest.mark.parametrize(
    "value",
    [
        "kim@dwp.test",
        "KIM@DWP.test",
        "김철수 <kim@dwp.test>",
        '"김, 철수" <kim@dwp.test>, lee@dwp.test',
        [{"email": "kim@dwp.test"}],
        {"email": "lee@dwp.test, Kim <kim@dwp.test>"},
    ],
    ids=str,
)
def test_a_person_is_found_by_the_address_in_the_token(value: Any) -> None:
    assert finds("7", "Kim@dwp.test", to=value, userId="ceo")
    assert not finds("7", None, to=value, userId="ceo")
    assert not finds("7", "", to=value, userId="ceo")
    assert not finds("7", "kim@dwp.test.evil", to=value, userId="ceo")


@pytest.mark.parametrize(
    "value", ['"kim@dwp.test" <x@evil.test>', '"kim@dwp.test"@evil.test', "kim@dwp.test <x@evil.test>"]
)
def test_the_name_before_an_address_names_nobody(value: str) -> None:
    assert not finds("7", "kim@dwp.test", to=value, userId="ceo")


def test_numbers_name_people_as_the_platform_has_them() -> None:
    assert finds("42", userId=42)
    assert finds("42", userId=1, approvers=[42, {"id": 43}])
    assert not finds("True", userId=1, approvers=[True, None, 4.5])


def test_an_id_with_a_comma_is_one_name() -> None:
    assert audience(userId="ceo", to={"id": "kim,lee"}) == {"ceo", "kim,lee"}


@pytest.mark.parametrize(("one", "other"), [("straße", "strasse"), ("ſam", "sam"), ("kim", "k im"), ("kim", "kim%")])
def test_only_the_case_of_names_is_ignored(one: str, other: str) -> None:
    assert finds(one.upper() if one.upper().lower() == one else one, to=one, userId="ceo")
    assert not finds(other, to=one, userId="ceo")


@pytest.mark.parametrize("name", ["", " ", "\0", "\ud800", "kim\x1b", "\x85"])
def test_a_text_that_is_no_name_matches_nobody(name: str) -> None:
    assert person_name(name) == ""
    assert Searcher("t1", name, name).names == {EVERYBODY}
    assert EVERYBODY not in audience(userId="ceo", to=[name])


def test_a_wildcard_or_a_role_is_a_name_like_any_other() -> None:
    for name in ("*", "%", "all", "everybody", "tenant", "admin"):
        assert not finds("mallory", userId="ceo", to=name, audience=[name])


# --- the whole tenant -------------------------------------------------------------------------------------------------


def test_all_find_an_event_that_names_nobody() -> None:
    assert finds("anybody", subject="공지")
    assert finds("anybody", to=[], cc="", approvers=None, recipients=[""], participants={}, data={})


@pytest.mark.parametrize("visibility", ["tenant", "TENANT", " Tenant "])
def test_all_find_an_event_that_says_so(visibility: str) -> None:
    assert finds("anybody", visibility=visibility, userId="ceo", to="kim")
    assert finds("anybody", data={"visibility": visibility}, userId="ceo", to="kim")


@pytest.mark.parametrize("visibility", ["private", "", "tenants", "public", True, ["tenant"], {"tenant": True}])
def test_any_other_visibility_makes_nothing_visible(visibility: Any) -> None:
    assert not finds("anybody", visibility=visibility, userId="ceo", to="kim")
    assert not finds("anybody", visibility=visibility, subject="names nobody")


def test_contradicting_visibilities_make_nothing_visible() -> None:
    assert not finds("anybody", visibility="tenant", data={"visibility": "private"}, to="kim")


@pytest.mark.parametrize(
    "fields",
    [
        {"userId": "ceo"},
        {"to": [], "data": {"to": ["ceo"]}},
        {"to": {"group": "board"}},
        {"to": [{"name": "대표이사"}]},
        {"to": "\0"},
        {"bcc": "ceo"},
        {"data": {"mail": {"to": ["ceo"]}}},
        {"data": {"steps": [{"approvers": ["ceo"]}]}},
        {"data": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": {"to": "ceo"}}}}}}}}}}},
        {"to": "x" * 400},
    ],
    ids=str,
)
def test_an_event_that_names_somebody_in_its_own_way_is_not_found_by_all(fields: dict[str, Any]) -> None:
    assert not finds("anybody", "any@dwp.test", **fields)


@pytest.mark.parametrize(
    "data", [{"to": ["kim@dwp.test"], "subject": "급여"}, {"userId": "kim", "subject": "급여"}], ids=str
)
@pytest.mark.parametrize("levels", [1, 2])
def test_data_as_the_text_of_a_json_object_is_read_like_the_object(data: dict[str, Any], levels: int) -> None:
    text: Any = data
    for _ in range(levels):
        text = json.dumps(text)
    assert event(data=text) == event(data=data)
    assert not finds("anybody", data=text)
    assert finds("kim", "kim@dwp.test", data=text)


@pytest.mark.parametrize(
    "text",
    [
        '{"to": ["ceo"]}',
        ' [{"mail": {"cc": "ceo"}}]',
        '"{\\"to\\": \\"ceo\\"}"',
        '{"to": ["ceo"], "to": []}',
        '[{"to": ["ceo"], "to": []}]',
        '{"to": ["ceo"',
        '{"a": NaN, "to": "ceo"}',
        '{"payload": "{\\"to\\": \\"ceo\\"}"}',
    ],
)
@pytest.mark.parametrize("place", ["data", "payload", "body"])
def test_a_json_text_that_may_name_somebody_is_not_found_by_all(place: str, text: str) -> None:
    assert not finds("anybody", **{place: text})
    assert not finds("anybody", data={"a": [{place: text}]})


@pytest.mark.parametrize("text", ["[공지] 회의", '"안녕하세요" 라고', '"text"', "[1, 2]", '{"a": 1}', "a {b}"])
def test_other_texts_with_brackets_and_quotes_are_found_by_all(text: str) -> None:
    assert finds("anybody", subject=text, data={"content": text})


def test_a_blind_copy_in_a_json_text_is_shown_to_nobody() -> None:
    found = event(userId="ceo", payload=json.dumps(json.dumps({"bcc": "secret@dwp.test", "body": "본문"})))
    assert found.text == "본문"


@pytest.mark.parametrize("name", ["userid", "user_id", "UserId", "USER-ID", "USERID"])
def test_the_user_of_an_event_is_known_in_every_spelling(name: str) -> None:
    for fields in ({name: "ceo"}, {"data": {name: "ceo"}}, {"userId": None, name: "ceo"}):
        assert event(**fields, subject="s").user_id == "ceo"
        assert audience(**fields, subject="s") == {"ceo"}
    assert event(**{name: "ceo"}).text == ""
    assert not finds("anybody", data={"mail": {name: "ceo"}})


@pytest.mark.parametrize(
    "field",
    [
        *("recipient", "attendee", "attendees", "assignee", "approver", "owner", "reviewers", "assigned_to"),
        *("recipientId", "approver_ids", "ownerUserId", "toEmails", "to_addresses", "ToRecipients", "RECIPIENTS"),
    ],
)
def test_people_are_named_by_fields_in_the_singular_and_by_their_ids(field: str) -> None:
    assert audience(**{field: "kim"}, subject="s") == {"kim"}
    assert audience(data={field: [{"user_id": "kim"}]}, subject="s") == {"kim"}


def test_routing_in_the_metadata_names_nobody() -> None:
    assert finds("anybody", metadata={"to": "queue-7"}, source="mail-service", subject="공지")


def test_a_blind_copy_names_its_people_to_nobody() -> None:
    found = event(userId="ceo", to="kim", bcc=["secret@dwp.test"], data={"mail": {"bcc": "hidden@dwp.test"}})
    assert "secret" not in found.text
    assert "hidden" not in found.text


def test_source_metadata_and_visibility_are_no_text() -> None:
    found = event(source="mail-service", metadata={"trace": "abc"}, visibility="tenant", subject="공지", body="본문")
    assert (found.title, found.text) == ("공지", "본문")
    nested = event(data={"source": "mail-service", "metadata": {"trace": "abc"}, "subject": "공지", "body": "본문"})
    assert nested.text == "본문"


# --- any event --------------------------------------------------------------------------------------------------------

NAMES = ("kim", "lee", "Kim@dwp.test", "ceo", "7")
PERSON = st.sampled_from(NAMES) | st.fixed_dictionaries({"id": st.sampled_from(NAMES)})
NAMED = st.lists(PERSON, max_size=3) | st.lists(st.sampled_from(NAMES), max_size=3).map(", ".join) | PERSON | st.none()
FIELDS = st.dictionaries(st.sampled_from([*NAMING_FIELDS, "bcc", "subject"]), NAMED, max_size=4)


def names_in(value: Any) -> Sequence[str]:
    """All names in the value of a field, by other means than the code's."""
    if isinstance(value, dict):
        return [value["id"]]
    items = value.split(", ") if isinstance(value, str) else value or []
    return [item["id"] if isinstance(item, dict) else item for item in items if item]


@settings(max_examples=300, deadline=None)
@given(FIELDS, FIELDS, st.sampled_from([None, *NAMES]), st.sampled_from([None, "tenant", "private"]))
def test_nobody_finds_an_event_that_does_not_name_them(
    top: dict[str, Any], data: dict[str, Any], user_id: str | None, visibility: str | None
) -> None:
    fields = {**top, "data": data, "userId": user_id, **({"visibility": visibility} if visibility else {})}
    named = {name.lower() for part in (top, data) for key in NAMING_FIELDS for name in names_in(part.get(key))}
    blind = any(names_in(part.get("bcc")) for part in (top, data))
    is_public = visibility == "tenant" or (visibility is None and not named and not blind and user_id is None)
    for user, email in (("kim", None), ("x", "kim@DWP.test"), ("lee", "ceo"), ("mallory", "mallory@dwp.test")):
        own = {user.lower(), (email or user).lower()}
        expected = is_public or bool(own & (named | {(user_id or "-").lower()}))
        assert finds(user, email, **fields) == expected
