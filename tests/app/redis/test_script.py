"""Scripts: Lua and Python share the names of keys and arguments, and every call is checked against them."""

from __future__ import annotations

import pytest
import redis

from app.redis.wire.script import Script

SCRIPT = Script(
    "return {a_key, b_key or 'none', one, two, ARGV[rest_start] or 'none'}",
    keys=("a_key",),
    optional_keys=("b_key",),
    args=("one", "two"),
    rest="rest_start",
)


def test_a_command_has_the_values_in_the_order_of_the_names() -> None:
    command = SCRIPT.command([b"r", b"s"], two=2, one=1, b_key="b", a_key="a")
    assert command == ("EVALSHA", SCRIPT.sha, 2, "a", "b", 1, 2, b"r", b"s")
    assert SCRIPT.command(a_key="a", b_key=None, one=1, two=2) == ("EVALSHA", SCRIPT.sha, 1, "a", 1, 2)


def test_lua_gets_the_values_under_their_names(redis_client: redis.Redis) -> None:
    redis_client.script_load(SCRIPT.text)
    _, *full = SCRIPT.command(["rest"], a_key="a", b_key="b", one=1, two=2)
    assert redis_client.evalsha(*full) == ["a", "b", "1", "2", "rest"]
    _, *short = SCRIPT.command(a_key="a", b_key=None, one=1, two=2)
    assert redis_client.evalsha(*short) == ["a", "none", "1", "2", "none"]


def test_a_missing_or_unknown_name_is_a_type_error() -> None:
    given: dict[str, object] = {"a_key": "a", "b_key": "b", "one": 1}
    for named in (given, {**given, "three": 3}, {**given, "two": 2, "three": 3}):
        with pytest.raises(TypeError):
            SCRIPT.command(**named)
    with pytest.raises(TypeError):
        Script("return 1", keys=("a_key",)).command(["rest"], a_key="a")


def test_a_name_cannot_occur_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        Script("return 1", keys=("name",), args=("name",))
