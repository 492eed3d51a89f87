"""Fields that only a provider understands: they go back to where they came from, and to no other server."""

from __future__ import annotations

from typing import Any

import pytest

from statemachine.messages import ModelSource
from statemachine.provider_fields import (
    PROVIDER_FIELDS,
    conversation_for,
    merge_fields,
    portable_id,
    with_provider_fields,
)
from statemachine.stored import JsonObject

SOURCE = ModelSource("deepseek-chat", "here")
CALL = {"id": "call_0f3a", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
MESSAGE: JsonObject = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_0f3a", "content": "12:00"}
SIGNATURE = {"extra_content": {"google": {"thought_signature": "abc"}}, "function": {"strict": True}}


@pytest.mark.parametrize(
    ("known", "piece", "merged"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"reasoning_content": "하"}, {"reasoning_content": "하"}, {"reasoning_content": "하하"}),
        ({"provider": "x"}, {"provider": "x"}, {"provider": "x"}),
        ({"blob": "ab"}, {"blob": "cd"}, {"blob": "abcd"}),
        ({"type": "a"}, {"type": "b"}, {"type": "b"}),
        ({"a": {"signature": "x"}}, {"a": {"signature": "y", "n": 1}}, {"a": {"signature": "xy", "n": 1}}),
        ({"a": 1}, {"a": None, "b": None}, {"a": 1, "b": None}),
        ({"a": 1}, {"a": [1]}, {"a": [1]}),
        ({"a": [1, "x"]}, {"a": [2]}, {"a": [1, "x", 2]}),
    ],
)
def test_fields_continue_with_each_piece(known: Any, piece: Any, merged: Any) -> None:
    assert merge_fields(known, piece) == merged


def test_items_of_a_list_continue_those_with_their_index_and_type() -> None:
    def item(index: int, type: str, **more: str) -> JsonObject:
        return {"index": index, "type": type, **more}

    first = [item(0, "reasoning.text", text="가", format="f"), item(1, "reasoning.encrypted", data="x")]
    second = [item(0, "reasoning.text", text="가", format="f", signature="s"), item(1, "reasoning.text", text="z")]
    assert merge_fields({"reasoning_details": first}, {"reasoning_details": second})["reasoning_details"] == [
        item(0, "reasoning.text", text="가가", format="f", signature="s"),
        item(1, "reasoning.encrypted", data="x"),
        item(1, "reasoning.text", text="z"),
    ]


def test_text_parts_of_a_content_continue_each_other() -> None:
    thinking = {"type": "thinking", "thinking": "흠"}
    first = merge_fields({}, {"content": [thinking]})
    second = merge_fields(first, {"content": [{"type": "text", "text": "안"}]})
    assert merge_fields(second, {"content": [{"type": "text", "text": "녕"}]})["content"] == [
        thinking,
        {"type": "text", "text": "안녕"},
    ]


def test_fields_go_back_verbatim_to_their_origin() -> None:
    message = with_provider_fields(MESSAGE, SOURCE, {"reasoning_content": "생각"}, [SIGNATURE])
    (sent, result) = conversation_for("here", [message, RESULT])
    assert sent == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "생각",
        "tool_calls": [
            {
                **CALL,
                "extra_content": {"google": {"thought_signature": "abc"}},
                "function": {"name": "get_time", "arguments": "{}", "strict": True},
            }
        ],
    }
    assert result == RESULT
    assert PROVIDER_FIELDS in message


def test_another_origin_gets_neither_fields_nor_ids() -> None:
    message = with_provider_fields(MESSAGE, SOURCE, {"reasoning_content": "생각"}, [SIGNATURE])
    user = {"role": "user", "content": "또"}
    sent = conversation_for("elsewhere", [message, RESULT, user])
    id = portable_id("call_0f3a")
    assert sent == [{**MESSAGE, "tool_calls": [{**CALL, "id": id}]}, {**RESULT, "tool_call_id": id}, user]


def test_origin_is_kept_for_the_ids_of_calls_alone() -> None:
    message = with_provider_fields(MESSAGE, SOURCE, {}, [{}])
    assert message[PROVIDER_FIELDS] == {"origin": "here"}
    assert conversation_for("here", [message]) == [MESSAGE]


def test_answer_of_another_origin_loses_its_fields() -> None:
    answer = {"role": "assistant", "content": "답"}
    message = with_provider_fields(answer, SOURCE, {"reasoning": "r"})
    assert conversation_for("here", [message]) == [{**answer, "reasoning": "r"}]
    assert conversation_for("elsewhere", [message]) == [answer]


@pytest.mark.parametrize(("source", "extras"), [(None, {"a": 1}), (SOURCE, {})])
def test_nothing_is_kept_where_there_is_nothing_to_send_back(source: ModelSource | None, extras: JsonObject) -> None:
    answer = {"role": "assistant", "content": "답"}
    assert with_provider_fields(answer, source, extras) is answer


@pytest.mark.parametrize(
    ("parts", "is_kept"),
    [
        ([{"type": "thinking", "thinking": "흠"}, {"type": "text", "text": "답"}], True),
        ([{"type": "thinking", "thinking": "흠"}, {"type": "text", "text": "다른"}], False),
        ([{"type": "text", "text": "답"}], False),
    ],
)
def test_content_in_parts_goes_back_where_it_has_more_than_the_text(parts: list[JsonObject], is_kept: bool) -> None:
    message = with_provider_fields({"role": "assistant", "content": "답"}, SOURCE, {"content": parts, "x": 1})
    assert ("content" in message[PROVIDER_FIELDS]["message"]) is is_kept


def test_portable_id_is_what_the_strictest_server_accepts() -> None:
    assert portable_id("abcDEF123") == "abcDEF123"
    assert portable_id("call_1") == portable_id("call_1")
    assert portable_id("call_1") != portable_id("call_2")
    assert len(portable_id("call_1")) == 9
    assert portable_id("call_1").isalnum()
