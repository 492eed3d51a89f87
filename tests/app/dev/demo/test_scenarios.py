"""The scenarios of the demo, played through as a client with tools does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.dev.demo.scenarios import ChatRequest, Scenario, choose_turn, load_scenarios
from app.dev.demo.script import ScriptedTurn
from statemachine.prompt import History, conversation, with_continuation

FOLDER = Path(__file__).parents[4] / "fixtures" / "model_turns"
TOOLS = ("update_plan", "get_current_time", "send_email", "github_get_pr", "github_create_pr", "search_workspace")
RESULTS: dict[str, dict[str, Any]] = {
    "search_workspace": {"items": [{"id": "evt-1", "type": "mail", "timestamp": "2024", "title": "3분기 견적서"}]},
    "update_plan": {"ok": True},
    "get_current_time": {"time": "2024-01-16T12:00:00+09:00", "timezone": "Asia/Seoul"},
    "send_email": {"message_id": "<aura.1@example.com>", "accepted": ["team@example.com"]},
    "github_get_pr": {"number": 42, "title": "샘플 PR", "state": "open", "files": []},
    "github_create_pr": {"number": 43, "title": "새 PR", "url": "https://github.com/o/r/pull/43"},
}


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    return load_scenarios(FOLDER)


def choose(scenarios: list[Scenario], messages: list[dict[str, Any]], tools: tuple[str, ...] = TOOLS) -> ScriptedTurn:
    offered = [{"type": "function", "function": {"name": name}} for name in tools]
    turn = choose_turn(scenarios, ChatRequest({"messages": messages, "tools": offered}))
    assert turn is not None
    return turn


def play_through(
    scenarios: list[Scenario],
    prompt: str,
    context: dict[str, Any] | None = None,
    tools: tuple[str, ...] = TOOLS,
    refused_tool: str | None = None,
) -> tuple[list[str], str]:
    """Play a whole conversation; returns the names of the called tools, and the answer."""
    messages = conversation(prompt, context or {})
    called: list[str] = []
    for _ in range(8):
        turn = choose(scenarios, messages, tools)
        if not turn.tool_calls:
            return called, turn.whole_text
        calls = []
        for call in turn.tool_calls:
            called.append(call.name)
            function = {"name": call.name, "arguments": call.arguments_text}
            calls.append({"id": f"call-{len(called)}", "type": "function", "function": function})
        messages.append({"role": "assistant", "content": turn.whole_text or None, "tool_calls": calls})
        for sent in calls:
            name = str(sent["function"]["name"])  # type: ignore[index]
            result = "A person refused this call: 수신자 오류" if name == refused_tool else json.dumps(RESULTS[name])
            messages.append({"role": "tool", "tool_call_id": sent["id"], "content": result})
    raise AssertionError(f"no answer after {called}")


@pytest.mark.parametrize(
    ("prompt", "tools", "expected"),
    [
        ("안녕하세요", [], "Aura"),
        ("GitHub PR을 분석해주세요", ["update_plan", "github_get_pr", "update_plan"], "샘플 PR"),
        ("GitHub PR을 생성해주세요", ["update_plan", "github_create_pr", "update_plan"], "pull/43"),
        ("메일을 보내주세요", ["send_email"], "team@example.com"),
        ("지금 몇 시예요?", ["get_current_time"], "2024-01-16T12:00:00+09:00"),
        ("서버 견적서 메일 찾아줘", ["search_workspace"], "3분기 견적서"),
        ("find the mail about budgets", ["search_workspace"], "`evt-1`"),
        ("What time is it?", ["get_current_time"], "2024-01-16T12:00:00+09:00"),
        ("오늘 점심 뭐 먹을까요?", [], "오늘 점심 뭐 먹을까요?"),
    ],
)
def test_prompt_selects_tools_and_answer(
    scenarios: list[Scenario], prompt: str, tools: list[str], expected: str
) -> None:
    called, answer = play_through(scenarios, prompt)
    assert called == tools
    assert expected in answer
    assert "{{" not in answer


def test_selection_is_taken_from_the_screen(scenarios: list[Scenario]) -> None:
    context = {"activeApp": "mail", "selectedItemIds": [11, "msg-7"], "path": "/mail"}
    _, answer = play_through(scenarios, "현재 화면에서 선택한 항목들을 분석해주세요", context)
    assert "2개" in answer
    assert "11, msg-7" in answer
    assert "화면: mail" in answer
    assert "URL" not in answer


def test_missing_selection_is_answered(scenarios: list[Scenario]) -> None:
    _, answer = play_through(scenarios, "현재 화면에서 선택한 항목들을 분석해주세요", {"activeApp": "mail"})
    assert "선택된 항목이 없습니다" in answer


def test_missing_tool_is_named(scenarios: list[Scenario]) -> None:
    called, answer = play_through(scenarios, "메일을 보내주세요", tools=("update_plan",))
    assert called == []
    assert "`send_email`" in answer


def test_plan_tool_is_optional(scenarios: list[Scenario]) -> None:
    called, answer = play_through(scenarios, "GitHub PR을 분석해주세요", tools=("github_get_pr",))
    assert called == ["github_get_pr"]
    assert "샘플 PR" in answer


@pytest.mark.parametrize(
    ("prompt", "tool"), [("메일을 보내주세요", "send_email"), ("GitHub PR을 생성해주세요", "github_create_pr")]
)
def test_refused_call_is_never_reported_as_done(scenarios: list[Scenario], prompt: str, tool: str) -> None:
    _, answer = play_through(scenarios, prompt, refused_tool=tool)
    assert "못했습니다" in answer
    assert "수신자 오류" in answer


def test_edited_call_is_reported_as_done(scenarios: list[Scenario]) -> None:
    """The result of an edited call follows a line that describes the edit."""
    note = "A person changed the arguments before approving. What ran: send_email({})\n"
    function = {"name": "send_email", "arguments": "{}"}
    messages: list[dict[str, Any]] = [
        *conversation("메일을 보내주세요", {}),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": note + json.dumps(RESULTS["send_email"])},
    ]
    assert "<aura.1@example.com>" in choose(scenarios, messages).whole_text
    messages[-1]["content"] = note + "The tool failed: no route"
    assert "못했습니다" in choose(scenarios, messages).whole_text


def test_interrupted_answer_is_continued_exactly(scenarios: list[Scenario]) -> None:
    messages = conversation("안녕하세요", {})
    whole = choose(scenarios, messages).whole_text
    for at in range(1, len(whole)):
        rest = choose(scenarios, with_continuation(messages, whole[:at]))
        assert whole[:at] + rest.whole_text == whole
        assert not rest.reasoning


def test_interrupted_answer_after_a_tool_is_continued_exactly(scenarios: list[Scenario]) -> None:
    function = {"name": "get_current_time", "arguments": "{}"}
    messages = [
        *conversation("지금 몇 시예요?", {}),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": json.dumps(RESULTS["get_current_time"])},
    ]
    whole = choose(scenarios, messages).whole_text
    assert whole[:7] + choose(scenarios, with_continuation(messages, whole[:7])).whole_text == whole


def test_earlier_turns_of_a_thread_are_ignored(scenarios: list[Scenario]) -> None:
    earlier = ({"role": "user", "content": "안녕하세요"}, {"role": "assistant", "content": "반갑습니다"})
    turn = choose(scenarios, conversation("지금 몇 시예요?", {}, History(earlier)))
    assert [call.name for call in turn.tool_calls] == ["get_current_time"]


def test_unknown_key_raises_with_the_file_name(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"description": "", "turns": [{"txt": "typo"}]}')
    with pytest.raises(ValueError, match=r"bad\.json"):
        load_scenarios(tmp_path)
