"""Each rule of a request's tools with one example that passes and one that the named server refuses."""

from __future__ import annotations

from typing import Any

import pytest

from app.dev.demo.tool_rules import tools_problems

SCHEMA = {"type": "object", "properties": {"zones": {"type": "array", "items": {"type": "string"}}}}


def tool(name: Any = "get_current_time", parameters: Any = SCHEMA, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "시각", "parameters": parameters, **more}}


RULES: dict[str, tuple[Any, Any, str]] = {
    "OpenAI: [] is too short - 'tools'": ([tool()], [], "tools is not a list of tools"),
    "OpenAI: Invalid type for 'tools', got null": ([tool()], None, "tools is not a list of tools"),
    "OpenAI: 'tools': array too long": (
        [tool(f"t{n}") for n in range(128)],
        [tool(f"t{n}") for n in range(129)],
        "tools has 129 tools",
    ),
    "DeepSeek: missing field `type`": (
        [tool()],
        [{"function": tool()["function"]}],
        'tools[0] is not of the type "function"',
    ),
    "DeepSeek: missing field `function`": (
        [tool()],
        [{"type": "function", "name": "f"}],
        'tools[0] is not of the type "function"',
    ),
    "Mistral: Extra inputs are not permitted": (
        [tool(strict=True)],
        [tool(returns="time")],
        "tools[0] has the unknown key 'returns'",
    ),
    "Gemini: Must start with a letter or an underscore": (
        [tool("_time2")],
        [tool("2time")],
        "tools[0].function.name is '2time'",
    ),
    "Mistral: Function name, with a maximum length of 64": (
        [tool("f" * 64)],
        [tool("f" * 65)],
        "tools[0].function.name is 'ff",
    ),
    "Gemini: Duplicate function declaration found": (
        [tool("a"), tool("b")],
        [tool("a"), tool("a")],
        "tools[1].function.name is 'a' again",
    ),
    "OpenAI: 'tools[0].function.description': string too long": (
        [tool(description="d" * 1024)],
        [tool(description="d" * 1025)],
        "description is not a text, or too long",
    ),
    "OpenAI: schema must be of 'type: \"object\"'": (
        [tool(parameters={"type": "object", "properties": {}})],
        [tool(parameters={"properties": {}})],
        "parameters is not of the type object",
    ),
    "OpenAI: object schema missing properties": (
        [tool(parameters={"type": "object", "properties": {}})],
        [tool(parameters={"type": "object"})],
        "has no properties",
    ),
    "OpenAI: array schema missing items": (
        [tool(parameters={"type": "object", "properties": {"a": {"anyOf": [{"type": "array", "items": {}}]}}})],
        [tool(parameters={"type": "object", "properties": {"a": {"anyOf": [{"type": "array"}]}}})],
        "has an array without items",
    ),
    "DeepSeek: lone leading surrogate in hex escape": (
        [tool(description="😀")],
        [tool(description="\ud83d")],
        "tools has half of a surrogate pair",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_names_what_its_server_refuses(rule: str) -> None:
    good, bad, expected = RULES[rule]
    assert tools_problems({"tools": good}) == []
    found = tools_problems({"tools": bad})
    assert any(expected in line for line in found), found
    "\n".join(found).encode()  # a server sends them in its answer


def test_a_request_may_have_no_tools() -> None:
    assert tools_problems({}) == []


def test_tools_that_change_are_checked_again() -> None:
    good, bad = {"tools": [tool()]}, {"tools": [tool(), tool()]}
    assert [bool(tools_problems(body)) for body in (good, good, bad, good, bad)] == [False, False, True, False, True]
