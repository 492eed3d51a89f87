"""Each rule of requests with one example that passes and one that the named server refuses, in its words if known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dev.demo.request_rules import history_problems, problems

Message = dict[str, Any]

SYSTEM = {"role": "system", "content": "답하세요."}
USER = {"role": "user", "content": "몇 시예요?"}
ANSWER = {"role": "assistant", "content": "세 시입니다."}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
DELETE = object()


def call(id: Any = "abc123XYZ", name: Any = "get_current_time", arguments: Any = "{}", **more: Any) -> Message:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def calling(*calls: Any, content: Any = None, **more: Any) -> Message:
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


def result(id: Any = "abc123XYZ", content: Any = '{"time":"15:00"}', **more: Any) -> Message:
    return {"role": "tool", "tool_call_id": id, "content": content, **more}


def body(*messages: Any, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"model": "m", "messages": list(messages or (SYSTEM, USER)), "stream": True, **changes}
    return {key: value for key, value in made.items() if value is not DELETE}


def around(*calls: Any) -> dict[str, Any]:
    """A request whose history has these calls and a result for each."""
    ids = [one["id"] for one in calls if isinstance(one, dict)]
    return body(USER, calling(*calls), *(result(id) for id in ids))


RULES: dict[str, tuple[dict[str, Any], Any, str]] = {
    # the body
    "OpenAI: you must provide a model parameter": (body(), body(model=DELETE), "model is not a name"),
    "OpenAI: [] is too short - 'messages'": (body(USER), body(messages=[]), "at least one message"),
    "OpenAI: expected an array, got an object": (body(USER), body(messages={}), "at least one message"),
    "Mistral: extra_forbidden, a null": (body(temperature=0), body(temperature=None), '"temperature" is null'),
    "OpenAI: stream_options only with stream": (
        body(stream_options={"include_usage": True}),
        body(stream_options={"include_usage": True}, stream=False),
        "stream_options without stream",
    ),
    "OpenAI: parallel_tool_calls only with tools": (
        body(tools=[TOOL], parallel_tool_calls=True),
        body(parallel_tool_calls=True),
        "parallel_tool_calls without tools",
    ),
    "OpenAI: tool_choice only with tools": (
        body(tools=[TOOL], tool_choice="auto"),
        body(tool_choice="auto"),
        "tool_choice without tools",
    ),
    "DeepSeek: lone leading surrogate, in an option": (body(user="김"), body(user="\ud800"), '"user" has half of'),
    # roles and their order
    "DeepSeek: unknown variant `developer`": (
        body(SYSTEM, USER),
        body({**SYSTEM, "role": "developer"}, USER),
        'messages[0].role is "developer"',
    ),
    "DeepSeek: invalid type, expected struct Message": (body(USER), body("hello"), 'messages[0].role is "hello"'),
    "vLLM: System message must be at the beginning": (
        body(SYSTEM, USER, ANSWER, USER),
        body(USER, ANSWER, SYSTEM, USER),
        "messages[2].role is system after assistant",
    ),
    "vLLM: a second system message": (body(SYSTEM, USER), body(SYSTEM, SYSTEM, USER), "is system after system"),
    "vLLM: No user query found in messages": (body(SYSTEM, USER), body(SYSTEM), "messages[0].role is system, and"),
    "Gemini: function call turn comes immediately after a user turn": (
        body(SYSTEM, USER, calling(call()), result()),
        body(SYSTEM, calling(call()), result()),
        "messages[1].role is assistant after system",
    ),
    "llama.cpp: Conversation roles must alternate, two users": (
        body(USER, ANSWER, USER),
        body(USER, USER),
        "messages[1].role is user after user",
    ),
    "llama.cpp: Conversation roles must alternate, two assistants": (
        body(USER, ANSWER, USER),
        body(USER, ANSWER, ANSWER, USER),
        "messages[2].role is assistant after assistant",
    ),
    "Mistral: Unexpected role 'user' after role 'tool'": (
        body(USER, calling(call()), result(), ANSWER, USER),
        body(USER, calling(call()), result(), USER),
        "messages[3].role is user after tool",
    ),
    "Mistral: Expected last role User or Tool": (
        body(USER, calling(call()), result()),
        body(USER, ANSWER),
        "messages[1].role is assistant, and it is the last",
    ),
    # content
    "Gemini: contents.parts must not be empty, of a user": (
        body(USER),
        body({**USER, "content": ""}),
        "messages[0].content is empty",
    ),
    "Gemini: contents.parts must not be empty, of a tool": (
        body(USER, calling(call()), result()),
        body(USER, calling(call()), result(content="")),
        "messages[2].content is empty",
    ),
    "Gemini: contents.parts must not be empty, beside calls": (
        body(USER, calling(call(), content="보겠습니다."), result()),
        body(USER, calling(call(), content=""), result()),
        "messages[1].content is empty",
    ),
    "Mistral: Assistant message must have either content or tool_calls, but not none": (
        body(USER, calling(call(), content=None), result()),
        body(USER, {"role": "assistant", "content": None}, USER),
        "messages[1].content is null without calls",
    ),
    "DeepSeek: missing field `content`": (
        body(USER, calling(call()), result()),
        body(USER, {"role": "assistant", "tool_calls": [call()]}, result()),
        "messages[1].content is missing",
    ),
    "DeepSeek: invalid type: sequence, expected a string": (
        body(USER),
        body({**USER, "content": [{"type": "text", "text": "몇 시예요?"}]}),
        "messages[0].content is [",
    ),
    "OpenAI: Invalid value for 'content': expected a string, got null": (
        body(USER, calling(call()), result()),
        body(USER, calling(call()), result(content=None)),
        "messages[2].content is null",
    ),
    "DeepSeek: lone leading surrogate in hex escape": (
        body({**USER, "content": "😀"}),
        body({**USER, "content": "\ud83d"}),
        "messages[0].content has half of",
    ),
    # keys
    "Mistral: Extra inputs are not permitted, user.name": (
        body(USER),
        body({**USER, "name": "kim"}),
        'messages[0]."name" is not a key',
    ),
    "Mistral: Extra inputs are not permitted, assistant.reasoning_content": (
        body(USER, ANSWER, USER),
        body(USER, {**ANSWER, "reasoning_content": "음"}, USER),
        'messages[1]."reasoning_content" is not a key',
    ),
    "Mistral: Extra inputs are not permitted, in a call": (
        around(call()),
        around(call(index=0)),
        'tool_calls[0]."index" is not a key',
    ),
    "Mistral: Extra inputs are not permitted, in a function": (
        around(call()),
        around({**call(), "function": {"name": "f", "arguments": "{}", "description": None}}),
        'tool_calls[0].function."description" is not a key',
    ),
    "all: the private key of the service": (
        body(USER, ANSWER, USER),
        body(USER, {**ANSWER, "provider_fields": {}}, USER),
        "messages[1].provider_fields is the service's own",
    ),
    # calls
    "OpenAI: [] is too short - 'tool_calls'": (
        body(USER, ANSWER, USER),
        body(USER, {**ANSWER, "tool_calls": []}, USER),
        "messages[1].tool_calls is not a list of calls",
    ),
    "OpenAI: Invalid type for 'tool_calls', got null": (
        body(USER, ANSWER, USER),
        body(USER, {**ANSWER, "tool_calls": None}, USER),
        "messages[1].tool_calls is not a list of calls",
    ),
    "OpenAI: 'tool_calls': array too long": (
        around(*(call(f"{n:09}") for n in range(128))),
        around(*(call(f"{n:09}") for n in range(129))),
        "has 129 calls",
    ),
    "DeepSeek: missing field `function`": (
        around(call()),
        body(USER, calling({"id": "abc123XYZ", "name": "f", "arguments": "{}"}), result()),
        "messages[1].tool_calls[0] has no function",
    ),
    "DeepSeek: missing field `type`": (
        around(call()),
        around({key: value for key, value in call().items() if key != "type"}),
        "tool_calls[0].type is null",
    ),
    "Mistral: Tool call id has to be defined": (around(call("a")), around(call("")), 'tool_calls[0].id is ""'),
    "Mistral: Tool call id has to be defined, in a result": (
        around(call("a")),
        body(USER, calling(call("a")), result(None)),
        "messages[2].tool_call_id is null",
    ),
    "OpenAI: 'messages[1].tool_calls[0].id': string too long": (
        around(call("i" * 40)),
        around(call("i" * 41)),
        "tool_calls[0].id has 41 characters",
    ),
    "Mistral: Function name was … but must be a-z, A-Z, 0-9": (
        around(call(name="get-current_time2")),
        around(call(name="get.current time")),
        "function.name is",
    ),
    "Gemini: function_call.name: Name cannot be empty": (
        around(call(name="f")),
        around(call(name="")),
        'function.name is ""',
    ),
    "Mistral: Function name, with a maximum length of 64": (
        around(call(name="f" * 64)),
        around(call(name="f" * 65)),
        "function.name is",
    ),
    "OpenAI: 'arguments': expected a string, but got an object instead": (
        around(call(arguments='{"zone":"UTC"}')),
        around(call(arguments={"zone": "UTC"})),
        "arguments is {",
    ),
    "llama.cpp: Failed to parse tool call arguments as JSON": (
        around(call(arguments='{"zone":"UTC"}')),
        around(call(arguments='{"zone":"UT')),
        "arguments is no JSON:",
    ),
    "vLLM: JSON decode error when tool call argument is empty": (
        around(call(arguments="{}")),
        around(call(arguments="")),
        "arguments is no JSON:",
    ),
    "llama.cpp: Failed to parse tool call arguments as JSON, NaN": (
        around(call(arguments='{"zone":null}')),
        around(call(arguments='{"zone":NaN}')),
        "arguments is no JSON:",
    ),
    "Gemini: function_call.args is a Struct": (
        around(call(arguments='{"zones":[]}')),
        around(call(arguments="[]")),
        "arguments is no JSON object",
    ),
    "llama.cpp: half of a surrogate pair in arguments": (
        around(call(arguments='{"zone":"\\ud83d\\ude00"}')),
        around(call(arguments='{"zone":"\\ud83d"}')),
        "arguments has half of",
    ),
    "OpenAI: must be followed by tool messages responding to each 'tool_call_id'": (
        body(USER, calling(call("a"), call("b")), result("b"), result("a")),
        body(USER, calling(call("a"), call("b")), result("a")),
        'before messages[3], no tool message answers "b"',
    ),
    "Gemini: function response parts equal to function call parts": (
        body(USER, calling(call("a")), result("a"), calling(call("b")), result("b")),
        body(USER, calling(call("a")), calling(call("b")), result("b"), result("a")),
        'before messages[2], no tool message answers "a"',
    ),
    "Mistral: Unexpected tool call id in tool results": (
        body(USER, calling(call("a")), result("a")),
        body(USER, calling(call("a")), result("a"), result("a")),
        'messages[3] answers no open call "a"',
    ),
    "OpenAI: 'tool' must be a response to a message with 'tool_calls'": (
        body(USER, calling(call("a")), result("a")),
        body(USER, ANSWER, result("a")),
        'messages[2] answers no open call "a"',
    ),
    "Mistral: Duplicate tool call id in assistant message": (
        around(call("a"), call("b")),
        around(call("a"), call("a")),
        'messages[1] has the id "a" a second time',
    ),
    "Mistral: Duplicate tool call id of an earlier message": (
        body(USER, calling(call("a")), result("a"), calling(call("b")), result("b")),
        body(USER, calling(call("a")), result("a"), calling(call("a")), result("a")),
        'messages[3] has the id "a" a second time',
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_names_what_its_server_refuses(rule: str) -> None:
    good, bad, expected = RULES[rule]
    assert problems(good) == []
    found = problems(bad)
    assert any(expected in line for line in found), found
    "\n".join(found).encode()  # a server sends them in its answer


def test_a_body_that_is_no_object_is_a_problem() -> None:
    assert problems([]) == ["the body is not a JSON object"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("reasoning_content", {**ANSWER, "reasoning_content": "음"}),
        ("refusal", {**ANSWER, "refusal": None}),
        ("extra_content", calling(call(extra_content={"google": {"thought_signature": "c2ln"}}))),
        ("content", {**ANSWER, "content": [{"type": "thinking", "thinking": "음"}]}),
    ],
)
def test_a_server_accepts_the_keys_that_it_adds_itself_and_no_other(key: str, message: Message) -> None:
    sent = body(USER, message, *([result(), ANSWER] if "tool_calls" in message else []), USER)
    assert problems(sent, allowed_extras=frozenset({key})) == []
    assert len(problems(sent, allowed_extras=frozenset({"other"}))) == 1


@pytest.mark.parametrize(
    "message",
    [
        {**ANSWER, "reasoning_content": "\ud800"},
        {**ANSWER, "content": [{"type": "text", "text": "\ud800"}]},
    ],
)
def test_what_a_server_adds_can_be_encoded(message: Message) -> None:
    found = problems(body(USER, message, USER), allowed_extras=frozenset({"reasoning_content", "content"}))
    assert len(found) == 1
    assert "half of a surrogate pair" in found[0]


@pytest.mark.parametrize("role", [SYSTEM, USER, result()])
def test_the_keys_of_a_server_are_accepted_in_its_own_messages_only(role: Message) -> None:
    messages = {"system": [role, USER], "user": [role], "tool": [USER, calling(call()), role]}[role["role"]]
    changed = [{**message, "extra": 1} if message is role else message for message in messages]
    assert [line for line in problems(body(*changed), allowed_extras=frozenset({"extra"})) if '"extra"' in line]


def test_the_private_key_of_the_service_is_never_accepted() -> None:
    sent = body(USER, {**ANSWER, "provider_fields": {}}, USER)
    assert len(problems(sent, allowed_extras=frozenset({"provider_fields"}))) == 1


@pytest.mark.parametrize(
    ("id", "is_portable"),
    [
        ("call_1", True),
        ("s" * 200, True),
        ("abc123XYZ", True),
        ("call_2", False),
        ("abc123XY", False),
        ("é" * 9, False),
    ],
)
def test_an_id_that_the_server_did_not_send_has_the_form_of_mistral(id: str, is_portable: bool) -> None:
    """LiteLLM's ids contain Gemini's thought signatures: a server accepts what it sent."""
    found = problems(around(call(id)), known_ids={"call_1", "s" * 200})
    assert len(found) == (0 if is_portable else 2)  # the call and its result


@pytest.mark.parametrize(
    ("messages", "is_correct"),
    [
        ([USER, calling(call("a"), call("b")), result("a")], True),
        ([USER, ANSWER], True),
        ([USER, ANSWER, result("a")], False),
        ([USER, USER], False),
    ],
)
def test_an_open_history_may_end_anywhere(messages: Sequence[Message], is_correct: bool) -> None:
    assert (history_problems(messages, is_open=True) == []) == is_correct
    assert history_problems(messages)


TEXTS = st.sampled_from(["", "a", "assistant", "tool", "user", "function", "{}", "[]", "\ud800", "abc123XYZ"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
KEYS = st.sampled_from(
    [
        "role",
        "content",
        "tool_calls",
        "tool_call_id",
        "id",
        "type",
        "function",
        "name",
        "arguments",
        "parameters",
        "\ud800",
    ]
)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@pytest.mark.slow
@given(messages=ANYTHING | st.lists(st.dictionaries(KEYS, ANYTHING, max_size=5), max_size=4), tools=ANYTHING)
def test_any_json_is_judged_in_lines(messages: Any, tools: Any) -> None:
    found = problems({"model": "m", "messages": messages, "tools": tools}, allowed_extras=frozenset({"content", "id"}))
    assert all(line and line.isprintable() for line in found)
