"""Tool calls joined from the pieces in which servers send them."""

from __future__ import annotations

import json

import pytest

from statemachine.call_pieces import NO_PLACE, CallPiece, RawCall, join_calls

TOOLS = frozenset({"get_time", "get_weather", "send_mail"})
SEOUL, UTC = '{"timezone":"Asia/Seoul"}', '{"timezone":"UTC"}'


def joined(*pieces: CallPiece) -> tuple[RawCall, ...]:
    return join_calls(pieces, TOOLS)


def alone(id: str = "", name: str = "", arguments: str = "") -> CallPiece:
    """A piece without a number that was the only one in its list."""
    return CallPiece(NO_PLACE, id, name, arguments, is_numbered=False)


TWO = (RawCall("a", "get_time", SEOUL), RawCall("b", "get_time", UTC))
TWO_WITHOUT_IDS = tuple(RawCall("", call.name, call.arguments) for call in TWO)


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        pytest.param(
            [
                CallPiece(0, "a", "get_time"),
                CallPiece(1, "b", "get_time", UTC[:5]),
                CallPiece(0, "", "", SEOUL),
                CallPiece(1, "", "", UTC[5:]),
            ],
            TWO,
            id="as OpenAI numbers them",
        ),
        pytest.param(
            [
                CallPiece(0, "a", "get_time", SEOUL),
                CallPiece(0, "a", "get_time", json.dumps(SEOUL)),
                CallPiece(0, "b", "get_time", UTC),
            ],
            TWO,
            id="repeated in another encoding",
        ),
        pytest.param([CallPiece(1, "a", "get_time", SEOUL), CallPiece(2, "b", "get_time", UTC)], TWO, id="from 1"),
        pytest.param([CallPiece(0, "a", "get_time", SEOUL), CallPiece(0, "b", "get_time", UTC)], TWO, id="all 0"),
        pytest.param(
            [
                CallPiece(0, "a", "get_time"),
                CallPiece(0, "", "", SEOUL),
                CallPiece(0, "b", "get_time"),
                CallPiece(0, "", "", UTC),
            ],
            TWO,
            id="all 0 in pieces",
        ),
        pytest.param(
            [CallPiece(0, "", "get_time", SEOUL), CallPiece(0, "", "get_time", UTC)],
            TWO_WITHOUT_IDS,
            id="all 0 without ids",
        ),
        pytest.param(
            [
                CallPiece(0, "", "get_time"),
                CallPiece(0, "", "", SEOUL),
                CallPiece(0, "", "get_time"),
                CallPiece(0, "", "", UTC),
            ],
            TWO_WITHOUT_IDS,
            id="all 0 without ids in pieces",
        ),
        pytest.param(
            [CallPiece(0, "x", "get_time", SEOUL), CallPiece(0, "x", "get_time", UTC)],
            (RawCall("x", "get_time", SEOUL), RawCall("x", "get_time", UTC)),
            id="all 0 with one id",
        ),
        pytest.param(
            [CallPiece(0, "", "get_time", SEOUL), CallPiece(0, "", "send_mail", "{}")],
            (TWO_WITHOUT_IDS[0], RawCall("", "send_mail")),
            id="another name after complete arguments",
        ),
        pytest.param(
            [CallPiece(0, "", "get_time"), CallPiece(0, "", "send_mail")],
            (RawCall("", "get_time"), RawCall("", "send_mail")),
            id="two without arguments",
        ),
        pytest.param([alone("a", "get_time", SEOUL), alone("b", "get_time", UTC)], TWO, id="no number"),
        pytest.param(
            [alone("a", "get_time"), alone("", "", SEOUL), alone("b", "get_time"), alone("", "", UTC)],
            TWO,
            id="no number, in pieces",
        ),
        pytest.param(
            [alone("a", "get_time"), alone("b", "get_time"), alone("a", "", SEOUL), alone("b", "", UTC)],
            TWO,
            id="no number, told by ids",
        ),
        pytest.param(
            [
                CallPiece(0, "a", "get_time", is_numbered=False),
                CallPiece(1, "b", "get_time", is_numbered=False),
                CallPiece(0, "", "", SEOUL, is_numbered=False),
                CallPiece(1, "", "", UTC, is_numbered=False),
            ],
            TWO,
            id="no number, told by their places",
        ),
    ],
)
def test_two_calls_are_told_apart(pieces: list[CallPiece], calls: tuple[RawCall, ...]) -> None:
    assert joined(*pieces) == calls


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([CallPiece(0, "a", "get_time", SEOUL)] * 2, id="the whole call again"),
        pytest.param([CallPiece(0, "a", "get_time", SEOUL), CallPiece(0, "a", "get_time")], id="id and name again"),
        pytest.param([CallPiece(0, "a", "get_time", SEOUL), CallPiece(0, "", "get_time")], id="the name again"),
        pytest.param([CallPiece(0, "a", "get_time", SEOUL), CallPiece(0, "", "", SEOUL)], id="the arguments again"),
        pytest.param([CallPiece(0, "a", "get_time", SEOUL), CallPiece(0, "z", "", "")], id="another id, nothing else"),
        pytest.param(
            [CallPiece(0, "a", "get_time", SEOUL[:9]), CallPiece(0, "z", "", SEOUL[9:])], id="an id for every piece"
        ),
        pytest.param(
            [CallPiece(0, "a", "get_time", SEOUL[:9]), CallPiece(0, "a", "get_time", SEOUL)], id="the text so far"
        ),
        pytest.param(
            [CallPiece(0, "a", "get_time", "{}"), CallPiece(0, "", "", SEOUL[:9]), CallPiece(0, "", "", SEOUL[9:])],
            id="a placeholder first",
        ),
        pytest.param([CallPiece(0, "a", "get_"), CallPiece(0, "", "time", SEOUL)], id="the name in pieces"),
        pytest.param([CallPiece(0, "", "", SEOUL), CallPiece(0, "a", "get_time")], id="id and name last"),
        pytest.param(
            [CallPiece(0, "a", "get_time", SEOUL[:9]), CallPiece(0, "", "other", SEOUL[9:])], id="a late name"
        ),
        pytest.param([CallPiece(0, "a", " get_time ", SEOUL)], id="blanks around the name"),
    ],
)
def test_one_call_stays_one(pieces: list[CallPiece]) -> None:
    assert joined(*pieces) == (RawCall("a", "get_time", SEOUL),)


def test_piece_with_another_id_and_arguments_after_a_complete_call_is_a_nameless_call() -> None:
    assert joined(CallPiece(0, "a", "get_time", SEOUL), CallPiece(0, "b", "", UTC)) == (
        RawCall("a", "get_time", SEOUL),
        RawCall("b", "", UTC),
    )


def test_nameless_piece_before_every_call_is_a_call_that_can_be_refused() -> None:
    assert joined(alone("", "", SEOUL)) == (RawCall("", "", SEOUL),)
    assert joined() == ()


@pytest.mark.parametrize("text", ["", " \n", "null", '""', '"null"', '"{}"', json.dumps(json.dumps({}))])
def test_call_without_arguments_has_an_empty_object(text: str) -> None:
    assert joined(CallPiece(0, "a", "get_time", text)) == (RawCall("a", "get_time", "{}"),)


def test_arguments_that_are_encoded_twice_are_decoded() -> None:
    assert joined(CallPiece(0, "a", "get_time", json.dumps(SEOUL)))[0].arguments == SEOUL
    assert joined(CallPiece(0, "a", "get_time", json.dumps(json.dumps(SEOUL))))[0].arguments == SEOUL


@pytest.mark.parametrize("text", ["{", "[1]", "서울", json.dumps(json.dumps(json.dumps(SEOUL))), "[" * 100_000])
def test_arguments_that_cannot_be_understood_are_left_as_they_are(text: str) -> None:
    assert joined(CallPiece(0, "a", "get_time", text))[0].arguments == text


def test_fields_of_the_provider_are_kept_with_the_call() -> None:
    first = CallPiece(0, "a", "get_time", extras={"extra_content": {"google": {"thought_signature": "x\ud83d"}}})
    second = CallPiece(0, "", "", SEOUL, extras={"extra_content": {"google": {"thought_signature": "\ude00"}}})
    (call,) = joined(first, second)
    assert call.extras == {"extra_content": {"google": {"thought_signature": "x😀"}}}
