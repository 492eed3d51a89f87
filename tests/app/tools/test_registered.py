"""The set of registered tools: sources that are replaced while the service runs, selections, and needed approvals."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import ConfigurationError, OutcomeUnknown
from app.ports.tools import ToolContext
from app.tools.registry import ToolRegistry
from statemachine.call import CallStatus, ToolCall
from statemachine.messages import RequestedCall
from tests.harness.tools import NoteArguments, NoteTool, risky

CONTEXT = ToolContext(session_id="s1", tenant_id="t1", user_id="u1", idempotency_key="s1:c1")
ARGUMENTS = '{"to": "kim"}'


def started(requested: RequestedCall) -> ToolCall:
    shared = {name: getattr(requested, name) for name in ("name", "arguments", "idempotent", "definition")}
    return ToolCall(id="c1", status=CallStatus.STARTED, **shared)


def offered(registry: ToolRegistry, allowed: tuple[str, ...] | None = None) -> list[str]:
    return [schema["function"]["name"] for schema in registry.schemas(allowed)]


def test_tools_of_a_source_are_replaced_all_at_once() -> None:
    registry = ToolRegistry([NoteTool("built_in_note")])
    registry.replace("crm", [NoteTool("crm__find"), NoteTool("crm__write")])
    assert offered(registry) == ["built_in_note", "crm__find", "crm__write", "update_plan"]
    registry.replace("crm", [NoteTool("crm__list")])
    assert offered(registry) == ["built_in_note", "crm__list", "update_plan"]
    assert [tool.source for tool in registry.select()] == ["built in", "crm"]
    registry.replace("crm", [])
    assert offered(registry) == ["built_in_note", "update_plan"]


def test_a_source_cannot_take_the_name_of_another_ones_tool() -> None:
    registry = ToolRegistry([NoteTool("write_note")])
    registry.replace("crm", [NoteTool("crm__find")])
    with pytest.raises(ConfigurationError, match="two tools have the name 'write_note'"):
        registry.replace("crm", [NoteTool("crm__new"), NoteTool("write_note")])
    assert offered(registry) == ["write_note", "crm__find", "update_plan"]


async def test_a_call_is_not_run_where_its_tool_has_another_definition_now() -> None:
    registry = ToolRegistry([])
    registry.replace("crm", [NoteTool("crm__write", idempotent=True)])
    call = started(registry.resolve("c1", "crm__write", ARGUMENTS))
    registry.replace("crm", [NoteTool("crm__write", idempotent=True)])  # the same again, as after a reconnection
    assert (await registry.execute(call, CONTEXT)).error is None
    changed: Any = NoteTool("crm__write", idempotent=True)
    changed.outward = True
    registry.replace("crm", [changed])
    finished = await registry.execute(call, CONTEXT)
    assert "the tool has changed since it was called" in (finished.error or "")
    assert changed.ran == []


async def test_a_call_whose_tool_needs_an_approval_only_since_then_is_not_run_and_fails() -> None:
    registry = ToolRegistry([])
    registry.replace("crm", [NoteTool("crm__write", idempotent=True)])
    call = started(registry.resolve("c1", "crm__write", ARGUMENTS))
    changed = risky("crm__write")
    registry.replace("crm", [changed])
    finished = await registry.execute(call, CONTEXT)
    assert "the tool has changed since it was called" in (finished.error or "")
    assert changed.ran == []


async def test_built_in_tools_run_calls_of_other_releases() -> None:
    registry = ToolRegistry([NoteTool()])
    assert registry.resolve("c1", "write_note", ARGUMENTS).definition == ""


def test_a_run_that_may_use_some_tools_is_offered_those_alone() -> None:
    registry = ToolRegistry([NoteTool("write_note"), NoteTool("crm__find"), NoteTool("crm__write")])
    assert offered(registry, ("crm__*",)) == ["crm__find", "crm__write", "update_plan"]
    assert offered(registry, ()) == ["update_plan"]
    assert registry.schemas(("crm__*",)) is registry.schemas(("crm__*",))
    refused = registry.resolve("c1", "write_note", ARGUMENTS, ("crm__find",))
    assert refused.refusal == "The tool 'write_note' does not exist. Available tools: crm__find, update_plan."
    assert registry.resolve("c1", "crm__find", ARGUMENTS, ("crm__*",)).refusal is None


def test_settings_require_approvals_by_pattern_also_of_tools_that_come_later() -> None:
    registry = ToolRegistry([NoteTool()], frozenset({"crm__*"}), known_names={"crm__*"})
    registry.replace("crm", [NoteTool("crm__find")])
    (tool,) = [tool for tool in registry.select() if tool.name == "crm__find"]
    assert tool.needs_approval
    assert tool.approval_reason == "AURA_APPROVAL_REQUIRED names it"
    with pytest.raises(ConfigurationError, match=r"'crn__\*', which is not a tool"):
        ToolRegistry([NoteTool()], frozenset({"crn__*"}), known_names={"crm__*"})


def test_marks_reach_the_core() -> None:
    tool: Any = NoteTool()
    tool.outward, tool.untrusted = True, True
    requested = ToolRegistry([tool]).resolve("c1", "write_note", ARGUMENTS)
    assert (requested.outward, requested.untrusted, requested.needs_approval) == (True, True, False)
    assert requested.question == "kim에게 메모를 보내시겠습니까?"  # the core can require an approval


def test_the_reason_of_an_approval_is_the_tools_own_or_a_general_one() -> None:
    own: Any = risky("own")
    own.approval_reason = "its server is not trusted"
    reasons = {tool.name: tool.approval_reason for tool in ToolRegistry([own, risky("other"), NoteTool()]).select()}
    assert reasons == {"own": "its server is not trusted", "other": "the tool declares it", "write_note": ""}


async def test_a_call_that_may_have_taken_effect_is_reported_as_such() -> None:
    async def break_off(_: NoteArguments) -> None:
        raise OutcomeUnknown("the connection broke after the request was sent")

    registry = ToolRegistry([NoteTool(work=break_off)])
    finished = await registry.execute(started(registry.resolve("c1", "write_note", ARGUMENTS)), CONTEXT)
    assert finished.outcome_unknown
    assert "the connection broke" in (finished.error or "")
