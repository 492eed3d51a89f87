"""What the scripted model answers to the prompt of each run: its calls, until each has a result, and its text."""

from __future__ import annotations

from typing import Any

from app.dev.chaos.plan import (
    MCP_TOOL,
    NOTICE_TOOL,
    ORDER_TOOL,
    PULL_NUMBER,
    REPOSITORY,
    TICKET_TOOL,
    RunKind,
    RunPlan,
    did_not_run,
)
from app.dev.demo.scenarios import ChatRequest, Scenario
from app.dev.demo.script import ScriptedCall, ScriptedTurn

_AGAIN_MS = 1500.0
"""How long the model "thinks" before it calls a tool again whose server was away (ms): the server starts meanwhile."""


class RunScenario(Scenario):
    """The script of one run: the calls of each turn, then the answer, which is its only turn.

    A call that did not run because its MCP server was away is made again, even if its tool is not offered just now. The
    limit on the turns of a run ends that where the server never comes back.
    """

    calls: list[list[ScriptedCall]]

    def turn(self, request: ChatRequest) -> ScriptedTurn:
        for calls in self.calls:
            results = {call.name: request.value(f"tool.{call.name}") for call in calls}
            missing = [call for call in calls if _must_be_made(call.name, results[call.name])]
            if missing:
                is_first = all(results[call.name] is None for call in missing)
                return ScriptedTurn(tool_calls=missing, first_delay_ms=200 if is_first else _AGAIN_MS, delay_ms=10)
        return self.turns[0]


def _must_be_made(tool: str, result: str | None) -> bool:
    return result is None or (tool == MCP_TOOL and did_not_run(result))


def scenario(plan: RunPlan) -> RunScenario:
    """Return the script of a run."""
    answer = ScriptedTurn(
        text=plan.text,
        reasoning=plan.reasoning,
        first_delay_ms=100,
        chunk_chars=plan.chunk_chars,
        delay_ms=plan.delay_ms,
    )
    return RunScenario(
        description=plan.prompt, match=[rf"\[chaos {plan.number}\]"], turns=[answer], calls=_turns_of_calls(plan)
    )


def _turns_of_calls(plan: RunPlan) -> list[list[ScriptedCall]]:
    match plan.kind:
        case RunKind.ANSWER:
            return []
        case RunKind.SAFE_TOOLS:
            return [[ScriptedCall(name="get_current_time"), _call(plan, "github_get_pr")]]
        case RunKind.OUTSIDE_TEXT:
            return [[_call(plan, TICKET_TOOL)], [_call(plan, NOTICE_TOOL)]]
        case _:
            return [[_call(plan, tool) for tool in plan.kind.tools]]


def _call(plan: RunPlan, tool: str) -> ScriptedCall:
    owner, repository = REPOSITORY
    where = {"owner": owner, "repo": repository}
    mark = plan.mark(tool)
    arguments: dict[str, dict[str, Any]] = {
        "send_email": {"to": ["team@example.com"], "subject": mark, "body": plan.prompt},
        "github_get_pr": {**where, "number": PULL_NUMBER},
        "github_create_pr": {**where, "title": plan.subject, "head": mark},
        ORDER_TOOL: {"reference": mark, "item": "볼트", "count": plan.number},
        TICKET_TOOL: {"reference": mark},
        NOTICE_TOOL: {"reference": mark, "text": plan.prompt},
        MCP_TOOL: {"reference": mark, "text": plan.prompt},
    }
    return ScriptedCall(name=tool, arguments=arguments[tool])
