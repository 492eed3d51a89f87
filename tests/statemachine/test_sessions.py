"""Session ids (§5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.sessions import is_session_id, key_safe_user_id, new_session_id, user_id_of


def test_session_id_has_the_form_of_the_contract() -> None:
    assert new_session_id("user1", 1_706_156_400, "a1b2") == "session_user1_1706156400_a1b2"


@given(st.text())
def test_session_id_of_any_user_is_safe_in_a_key(user: str) -> None:
    session_id = new_session_id(user, 1_706_156_400, "00ff")
    assert is_session_id(session_id)
    assert user_id_of(session_id) == key_safe_user_id(user)
    assert session_id.isascii()
    assert not set(session_id) & set(":{}* \n")


@pytest.mark.parametrize(
    ("user", "safe"),
    [("kim@x.co", "kim@x.co"), ("a:b{c}*", "a-b-c--"), ("김", "-"), ("", "-"), ("u" * 100, "u" * 64), ("a_b", "a_b")],
)
def test_key_safe_user_id(user: str, safe: str) -> None:
    assert key_safe_user_id(user) == safe


@pytest.mark.parametrize(
    "text",
    [
        "",
        "session_user1_1706156400",
        "session_user1_1706156400_A1B2",
        "session_user1_1706156400_a1b2\n",
        "session__1706156400_a1b2",
        "session_us:er_1706156400_a1b2",
        "session_user1_１７０６１５６４００_a1b2",
        "xsession_user1_1706156400_a1b2",
    ],
)
def test_other_texts_are_not_session_ids(text: str) -> None:
    assert not is_session_id(text)
    with pytest.raises(ValueError, match="is not a session id"):
        user_id_of(text)
