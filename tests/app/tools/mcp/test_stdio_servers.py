"""Servers that are programs: what they get of the environment, and how they fail, die, hang and flood."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from app.errors import OutcomeUnknown, ToolError
from app.ports.mcp_servers import McpServer
from app.tools.mcp import connection, link
from tests.harness.logged import Written, entries
from tests.harness.mcp import connected, raw
from tests.harness.waiting import eventually

both = pytest.mark.parametrize("protocol", ["2025", "2026"])


def lines_of(record: Path) -> list[str]:
    return record.read_text().splitlines()


def exists(pid: int) -> bool:
    """Whether a process runs: neither has it ended, nor is it only kept until its parent asks for its end."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@both
async def test_a_tool_is_offered_and_runs(protocol: str) -> None:
    async with connected(raw(protocol=protocol)) as aura:
        result = await aura.call("raw__echo", text="hello")
        assert result["text"] == "hello"
        assert "not instructions" in result["notice"]
        assert aura.servers.status() == {"raw": ""}


async def test_a_program_gets_nothing_of_the_environment_but_what_the_settings_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JWT_SECRET", "a secret that no program may get")
    async with connected(raw(environment={"API_KEY": "k1"})) as aura:
        given = json.loads((await aura.call("raw__environment"))["text"])
    assert given.keys() - {"LC_CTYPE"} == {"PATH", "API_KEY"}  # LC_CTYPE is set by Python itself


@both
async def test_a_server_that_dies_in_a_writing_call_leaves_an_unknown_outcome(protocol: str, record: Path) -> None:
    async with connected(raw(protocol=protocol)) as aura:
        with pytest.raises(OutcomeUnknown, match="may have taken effect"):
            await aura.call("raw__die", path=str(record))
        assert lines_of(record) == ["written"]
        assert "raw__echo" in aura.names, "its tools stay offered while it is briefly away"
        assert (await aura.again("raw__echo", text="back"))["text"] == "back"


async def test_a_repeatable_call_that_is_lost_is_an_ordinary_failure(record: Path) -> None:
    server = raw(trusted=True, timeout_seconds=0.2)
    async with connected(server) as aura:
        aura.tool("raw__hang").idempotent = True
        with pytest.raises(ToolError, match="can be repeated") as caught:
            await aura.call("raw__hang", path=str(record))
    assert not isinstance(caught.value, OutcomeUnknown)


async def test_a_call_to_a_server_that_is_away_says_that_nothing_was_sent(record: Path) -> None:
    async with connected(raw()) as aura:
        with pytest.raises(OutcomeUnknown):
            await aura.call("raw__die", path=str(record))
        with pytest.raises(ToolError, match="not connected; nothing was sent") as caught:
            await aura.call("raw__write", path=str(record))
    assert not isinstance(caught.value, OutcomeUnknown)
    assert lines_of(record) == ["written"]


@both
async def test_a_call_without_an_answer_ends_in_time_and_a_hanging_server_is_started_again(
    protocol: str, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CHECK_SECONDS", 0.1)
    async with connected(raw(protocol=protocol, timeout_seconds=0.2)) as aura:
        with pytest.raises(OutcomeUnknown, match=r"did not answer within 0.2 s"):
            await aura.call("raw__hang", path=str(record))
        await eventually(lambda: aura.servers.status()["raw"] != "")
        assert (await aura.again("raw__echo", text="back"))["text"] == "back"


async def test_a_message_that_is_too_long_ends_the_connection_and_not_the_service(record: Path) -> None:
    async with connected(raw(), raw("other")) as aura:
        with pytest.raises(OutcomeUnknown) as caught:
            await aura.call("raw__long", path=str(record))
        assert "more than 1024 KiB" in caught.value.detail
        assert (await aura.call("other__echo", text="alive"))["text"] == "alive"


@pytest.mark.slow
async def test_a_flood_of_messages_ends_the_connection_while_others_go_on(written: Written) -> None:
    async with connected(raw(), raw("other")) as aura:
        flooded = asyncio.create_task(aura.call("raw__flood"))
        for _ in range(20):
            assert (await aura.call("other__echo", text="alive"))["text"] == "alive"
        with pytest.raises(OutcomeUnknown):
            await flooded
    (lost,) = entries(written, "mcp.lost")
    assert lost["cause"].startswith("it sent more than 5000 messages")


async def test_lines_that_are_no_messages_are_left_out() -> None:
    async with connected(raw()) as aura:
        assert (await aura.call("raw__garbage"))["text"] == "ok"


async def test_the_error_of_a_tool_is_an_error_with_its_text() -> None:
    async with connected(raw()) as aura:
        with pytest.raises(ToolError, match="'raw' failed, and its server writes: it does not work"):
            await aura.call("raw__fail")


@both
async def test_tools_that_are_added_meanwhile_are_offered(protocol: str) -> None:
    async with connected(raw(protocol=protocol)) as aura:
        assert "raw__grown" not in aura.names
        await aura.call("raw__grow")
        await eventually(lambda: "raw__grown" in aura.names)


async def test_a_server_that_dies_while_its_changed_list_waits_is_connected_again(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LIST_PAUSE_SECONDS", 3600.0)
    async with connected(raw()) as aura:
        await aura.call("raw__grow")
        with pytest.raises(OutcomeUnknown):
            await aura.call("raw__die", path=str(record))
        assert (await aura.again("raw__echo", text="back"))["text"] == "back"


async def test_a_list_without_an_end_is_given_up(written: Written) -> None:
    async with connected(raw("raw", "2026", "endless")) as aura:
        assert aura.names == []
        assert aura.servers.status()["raw"] == "its list of tools has more than 20 pages"
    (warning, *_) = entries(written, "mcp.unavailable")
    assert "AURA_MCP_SERVERS" in warning["remedy"]


@pytest.mark.slow
async def test_of_ten_thousand_tools_as_many_are_offered_as_a_model_accepts(written: Written) -> None:
    async with connected(raw("raw", "2026", "many"), raw("other", allow=("echo",))) as aura:
        offered = [name for name in aura.names if name.startswith("raw__")]
        assert 100 <= len(offered) <= 112
        assert len(aura.names) <= 112
    assert entries(written, "mcp.tools_left_out")


async def test_the_start_does_not_wait_for_a_silent_server(written: Written) -> None:
    async with connected(raw("silent", "2026", "silent"), raw("other"), start_seconds=0.1) as aura:
        await eventually(lambda: "other__echo" in aura.names)
        assert aura.servers.status() == {"silent": "it is being connected", "other": ""}


async def test_a_program_that_does_not_exist_is_a_warning_with_its_remedy(written: Written) -> None:
    async with connected(McpServer(name="gone", command="no-such-program-here")) as aura:
        assert aura.names == []
    (warning, *_) = entries(written, "mcp.unavailable")
    assert warning["cause"] == "the command does not exist; install it, or name it with its whole path"


async def test_a_program_that_ends_at_once_is_a_warning_with_its_exit_code(written: Written) -> None:
    ends = McpServer(name="ends", command=sys.executable, args=("-c", "import sys; sys.exit(7)"))
    async with connected(ends) as aura:
        assert aura.names == []
    (warning, *_) = entries(written, "mcp.unavailable")
    assert warning["cause"] == "its process has ended with the exit code 7"


async def test_a_program_is_ended_with_everything_that_it_started() -> None:
    async with connected(raw()) as aura:
        child = int((await aura.call("raw__spawn"))["text"])
        assert exists(child)
    await eventually(lambda: not exists(child))


async def test_standard_error_is_logged_at_debug_and_masked(written: Written) -> None:
    async with connected(raw(), secrets=["standard error"]) as aura:
        await aura.call("raw__echo", text="x")
        await eventually(lambda: entries(written, "MCP server raw: a line on ***"))


async def test_input_that_a_server_of_2025_requests_is_declined() -> None:
    async with connected(raw(protocol="2025")) as aura:
        assert json.loads((await aura.call("raw__ask"))["text"]) == {"action": "decline"}


async def test_input_that_a_server_of_2026_requests_is_declined_once_with_its_state() -> None:
    async with connected(raw()) as aura:
        responses, state = json.loads((await aura.call("raw__ask", text="once"))["text"])
        assert responses == {"sure": {"action": "decline"}}
        assert state == "opaque-state"


async def test_a_server_that_requests_input_again_and_again_is_given_up() -> None:
    async with connected(raw()) as aura:
        with pytest.raises(ToolError, match="requests input from a person, which this service refuses for now"):
            await aura.call("raw__ask")


async def test_a_cancelled_call_does_not_wait_for_its_server(record: Path) -> None:
    async with connected(raw()) as aura:
        call = asyncio.create_task(aura.call("raw__hang", path=str(record)))
        await eventually(record.exists)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_only_allowed_tools_are_offered() -> None:
    async with connected(raw(allow=("e*", "put"), deny=("environment",))) as aura:
        assert aura.names == ["raw__echo", "raw__put"]
