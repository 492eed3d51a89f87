"""The stand-ins that the tools of an experiment call, and the script of the model. The MCP server is a real process."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.dev.chaos import delays, mcp_journal, plan, plugged_in
from app.dev.chaos.mcp_journal import Entry, line_of
from app.dev.chaos.mcp_process import McpServerProcess
from app.dev.chaos.plan import MCP_TOOL, ORDER_TOOL, RunKind, RunPlan
from app.dev.chaos.plugged_in import Warehouse
from app.dev.chaos.scripted_runs import scenario
from app.dev.chaos.warehouse import NOTICES, ORDERS, SlowWarehouse
from app.dev.demo.scenarios import ChatRequest
from app.errors import OutcomeUnknown, ToolError
from app.ports.mcp_servers import McpServer
from tests.harness.mcp import connected

# --- the warehouse ----------------------------------------------------------------------------------------------------


async def test_warehouse_counts_every_order_even_with_a_key_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delays, "_SLOWEST_SECONDS", 0.0)
    async with SlowWarehouse() as stand_in, httpx2.AsyncClient(base_url=stand_in.url, trust_env=False) as http:
        warehouse = Warehouse(http)
        for _ in range(2):
            await warehouse.post(ORDERS, {"reference": "chaos 1"}, "key-1")
        assert stand_in.executions(ORDERS) == {"chaos 1": 2}
        assert stand_in.keys(ORDERS) == {"chaos 1": 1}
        assert not stand_in.executions(NOTICES)
        assert (await warehouse.get("/tickets/1"))["text"]


async def test_order_whose_answer_is_lost_has_an_unknown_outcome_and_one_that_was_not_sent_has_none() -> None:
    async def drop(request: httpx2.Request) -> httpx2.Response:
        raise failure(request.method)

    async with httpx2.AsyncClient(base_url="http://warehouse", transport=httpx2.MockTransport(drop)) as http:
        failure: type[httpx2.TransportError] = httpx2.ReadError
        with pytest.raises(OutcomeUnknown):
            await Warehouse(http).post(ORDERS, {}, "key-1")
        failure = httpx2.ConnectError
        with pytest.raises(ToolError, match="nothing was sent") as raised:
            await Warehouse(http).post(ORDERS, {}, "key-1")
        assert not isinstance(raised.value, OutcomeUnknown)


def test_tools_have_the_marks_that_the_plan_relies_on() -> None:
    order, ticket, notice = plugged_in.order_stock, plugged_in.read_ticket, plugged_in.post_notice
    assert (order.name, ticket.name, notice.name) == (ORDER_TOOL, plan.TICKET_TOOL, plan.NOTICE_TOOL)
    assert order.marks.needs_approval
    assert not order.marks.idempotent
    assert ticket.marks.untrusted
    assert notice.marks.outward
    assert not notice.marks.needs_approval, "only the text from outside makes it need one"


# --- the MCP server ---------------------------------------------------------------------------------------------------


def test_journal_tells_what_was_written_and_what_was_under_way() -> None:
    begun, written, ended = (line_of(entry, "chaos 1") for entry in Entry)
    assert mcp_journal.under_way(b"") == 0
    assert mcp_journal.under_way(begun) == mcp_journal.under_way(begun + written) == 1
    assert mcp_journal.under_way(begun + written + ended) == 0
    assert mcp_journal.notes(begun + begun + written) == {"chaos 1": 1}
    assert mcp_journal.notes(begun + written[:-1]) == {}, "a line that is being written is left out"


@pytest.mark.slow
async def test_killed_mcp_server_leaves_the_outcome_unknown_and_comes_back(tmp_path: Path) -> None:
    async with McpServerProcess(tmp_path) as process:
        (url,) = (entry["url"] for entry in json.loads(process.node_variables()["AURA_MCP_SERVERS"]).values())
        async with connected(McpServer(name=plan.MCP_SERVER, url=url)) as aura:
            assert aura.tool(MCP_TOOL).needs_approval
            assert not aura.tool(MCP_TOOL).idempotent
            await aura.call(MCP_TOOL, reference="chaos 1", text="first")
            call = asyncio.create_task(aura.call(MCP_TOOL, reference="chaos 2", text="second"))
            await process.wait_for_write()
            assert process.kill() == 1
            with pytest.raises(OutcomeUnknown):
                await call
            with pytest.raises(ToolError, match="nothing was sent"):
                await aura.call(MCP_TOOL, reference="chaos 3", text="third")
            await process.start()
            await aura.again(MCP_TOOL, reference="chaos 4", text="fourth")
    written = process.notes()
    assert (written["chaos 1"], written["chaos 3"], written["chaos 4"]) == (1, 0, 1)
    assert process.problems == []


# --- the script of the model ------------------------------------------------------------------------------------------


def planned(kind: RunKind) -> RunPlan:
    return replace(plan.runs(1, 1)[0], kind=kind)


def next_calls(kind: RunKind, *results: tuple[str, str]) -> list[str]:
    """The names of the tools that the model calls next, after calls with these results. It is offered no tool."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": planned(kind).prompt}]
    for number, (name, result) in enumerate(results):
        call = {"id": f"call-{number}", "function": {"name": name, "arguments": "{}"}}
        messages.append({"role": "assistant", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    turn = scenario(planned(kind)).turn(ChatRequest({"messages": messages}))
    assert bool(turn.tool_calls) != bool(turn.text)
    return [call.name for call in turn.tool_calls]


def test_model_calls_the_tools_of_a_run_one_after_the_other_and_answers() -> None:
    ticket = (plan.TICKET_TOOL, "{}")
    assert next_calls(RunKind.OUTSIDE_TEXT) == [plan.TICKET_TOOL]
    assert next_calls(RunKind.OUTSIDE_TEXT, ticket) == [plan.NOTICE_TOOL]
    assert next_calls(RunKind.OUTSIDE_TEXT, ticket, (plan.NOTICE_TOOL, "{}")) == []
    assert next_calls(RunKind.ORDER_AND_MCP_NOTE) == [ORDER_TOOL, MCP_TOOL]
    assert next_calls(RunKind.ANSWER) == []


@pytest.mark.parametrize(
    "error",
    [
        "The tool failed: the MCP server 'notes' is not connected; nothing was sent",
        f"The tool failed: the tool '{MCP_TOOL}' is not available any more",
        f"The tool '{MCP_TOOL}' does not exist. Available tools: send_email.",
    ],
)
def test_model_calls_a_tool_again_only_where_its_mcp_server_was_away(error: str) -> None:
    order = (ORDER_TOOL, "{}")
    assert next_calls(RunKind.ORDER_AND_MCP_NOTE, order, (MCP_TOOL, error)) == [MCP_TOOL]
    unknown = "A person refused this call: no It may have run before; do not try it again unchanged."
    assert next_calls(RunKind.ORDER_AND_MCP_NOTE, order, (MCP_TOOL, unknown)) == []
    assert next_calls(RunKind.ORDER, (ORDER_TOOL, error)) == []
