"""Scenarios: scripted conversations that choose the turn for a request and fill in its placeholders.

`fixtures/README.md` describes the format of the files. This module knows nothing about HTTP.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.dev.demo.script import ScriptedTurn

PLAN_TOOL = "update_plan"
"""The tool that declares a plan. It has no effect of its own, so a scenario skips it where it is not offered."""

_SCREEN_LINES = {
    "name": "현재 사용자가 보고 있는 화면",
    "selected_ids": "선택된 항목 ID",
    "url": "현재 URL",
    "path": "경로",
    "title": "페이지 제목",
    "item_id": "항목 ID",
    "extra": "추가 정보",
}
_CONTINUE = re.compile(r"continue|cut off|interrupted|이어서|계속|중단|끊", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{\{(.+?)\}\}")
_QUOTED_CHARACTERS = 1500
_EDITED = "A person changed the arguments"
_MISSING_TOOL = (
    "요청하신 작업에 필요한 도구({tools})가 지금 제공되지 않아 진행할 수 없습니다.\n\n"
    "해당 서비스의 연결 설정을 확인한 뒤 다시 요청해주세요. 실제로 실행된 작업은 없습니다."
)


class ChatRequest:
    """The parts of a chat-completions request that scenarios use."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        messages = [message for message in body.get("messages", []) if isinstance(message, dict)]
        messages, self.partial = _split_continuation(messages)
        last_user = max((at for at, message in enumerate(messages) if message.get("role") == "user"), default=-1)
        self.prompt = _text(messages[last_user]) if last_user >= 0 else ""
        since = messages[last_user + 1 :]
        self.turn_index = sum(message.get("role") == "assistant" for message in since)
        """The number of assistant messages after the prompt."""
        self.offered = [tool["function"]["name"] for tool in body.get("tools") or [] if "function" in tool]
        self._system = "\n".join(
            _text(message) for message in messages if message.get("role") in ("system", "developer")
        )
        names = {call["id"]: call["function"]["name"] for message in since for call in message.get("tool_calls") or []}
        results = (message for message in since if message.get("role") == "tool")
        self._results = [(names.get(message.get("tool_call_id"), ""), _result(_text(message))) for message in results]

    @property
    def last_tool_failed(self) -> bool:
        """Whether the last tool result is an error: text instead of JSON, or JSON with an `error`."""
        last = next((text for name, text in reversed(self._results) if name != PLAN_TOOL), "{}")
        try:
            parsed = json.loads(last)
        except ValueError:
            return not last.startswith(("{", "["))  # else it is JSON that was truncated
        return isinstance(parsed, dict) and bool(parsed.get("error"))

    def value(self, path: str) -> str | None:
        """The value of a placeholder; None where the request has none. Raises `ValueError` if it is unknown."""
        match path.split("."):
            case ["prompt"]:
                return self.prompt[:_QUOTED_CHARACTERS] or None
            case ["offered_tools"]:
                return ", ".join(name for name in self.offered if name != PLAN_TOOL) or None
            case ["unique"]:
                return secrets.token_hex(3)
            case ["tool_result"]:
                return self._results[-1][1][:_QUOTED_CHARACTERS] if self._results else None
            case ["tool", name, *keys]:
                result = next((text for tool, text in reversed(self._results) if tool == name), None)
                return _json_value_at(result, keys)
            case ["screen", name]:
                return self._on_screen(name)
            case _:
                raise ValueError(f"unknown placeholder: {path}")

    def render(self, text: str) -> str:
        """The text with its placeholders filled in, without the lines that have a placeholder without a value.

        `{{a|b|"text"}}` is replaced by the first alternative that has a value.
        """
        lines = []
        for line in text.split("\n"):
            try:
                lines.append(_PLACEHOLDER.sub(lambda found: self._fill(found[1]), line))
            except LookupError:
                continue
        return "\n".join(lines)

    def _fill(self, alternatives: str) -> str:
        for alternative in map(str.strip, alternatives.split("|")):
            value = alternative[1:-1] if alternative.startswith('"') else self.value(alternative)
            if value is not None:
                return value
        raise LookupError(alternatives)

    def _on_screen(self, name: str) -> str | None:
        """A value of the screen's context; `selected_count` and `selected_list` are derived from the ids."""
        selected = [item.strip() for item in (self._screen_line("selected_ids") or "").split(",") if item.strip()]
        if name == "selected_count":
            return str(len(selected)) if selected else None
        if name == "selected_list":
            return "\n".join(f"- 항목 `{item}`" for item in selected) or None
        return self._screen_line(name)

    def _screen_line(self, name: str) -> str | None:
        if name not in _SCREEN_LINES:
            raise ValueError(f"unknown placeholder: screen.{name}")
        found = re.search(rf"^[ \t>*-]*{_SCREEN_LINES[name]}: *(.+)$", self._system, re.MULTILINE)
        return found[1].strip() if found else None


class Scenario(BaseModel):
    """One scripted conversation, in the format of its file.

    It matches a request whose prompt contains one of the regular expressions `match`, or any prompt where that list is
    empty, if every placeholder in `requires` has a value. `if_failed` is the turn after a failed tool.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    match: list[str] = Field(default_factory=list)
    requires: list[str] = Field(default_factory=list)
    turns: list[ScriptedTurn] = Field(min_length=1)
    if_failed: ScriptedTurn | None = None

    def matches(self, request: ChatRequest) -> bool:
        prompt = request.prompt[:_QUOTED_CHARACTERS]  # patterns may be slow on a long prompt
        is_match = not self.match or any(re.search(pattern, prompt, re.IGNORECASE) for pattern in self.match)
        return is_match and all(request.value(path) is not None for path in self.requires)

    def turn(self, request: ChatRequest) -> ScriptedTurn:
        """The next turn of the conversation, with its placeholders filled in."""
        needed = {call.name for turn in self.turns for call in turn.tool_calls} - {PLAN_TOOL}
        if missing := sorted(needed.difference(request.offered)):
            return ScriptedTurn(text=_MISSING_TOOL.format(tools=", ".join(f"`{name}`" for name in missing)))
        if self.if_failed is not None and request.last_tool_failed:
            return _rendered(self.if_failed, request)
        turns = self.turns if PLAN_TOOL in request.offered else list(_without_plan(self.turns))
        return _rendered(turns[min(request.turn_index, len(turns) - 1)], request)


def load_scenarios(folder: Path) -> list[Scenario]:
    """The scenarios of a folder in the order of their file names; the first one that matches a request answers it.

    Raises `ValueError` with the name of the file where one cannot be parsed.
    """
    scenarios = []
    for path in sorted(folder.glob("*.json")):
        try:
            scenarios.append(Scenario.model_validate_json(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error
    if not scenarios:
        raise ValueError(f"no scenario in {folder}")
    return scenarios


def choose_turn(scenarios: Iterable[Scenario], request: ChatRequest) -> ScriptedTurn | None:
    """The next turn of the first scenario that matches; None where none does."""
    scenario = next((scenario for scenario in scenarios if scenario.matches(request)), None)
    if scenario is None:
        return None
    turn = scenario.turn(request)
    if not request.partial:
        return turn
    rest = turn.continued_from(request.partial)
    # The client has text that is not of this script, for example of another model: the answer becomes a new paragraph.
    return rest or turn.model_copy(update={"text": f"\n\n{turn.whole_text}", "text_before_tools": "", "reasoning": ""})


def _split_continuation(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The messages without the request to continue an interrupted answer, and the text of that answer so far."""
    may_be_continuation = len(messages) > 1 and messages[-1].get("role") in ("user", "system", "developer")
    before = messages[:-1] if may_be_continuation and _CONTINUE.search(_text(messages[-1])) else messages
    last = before[-1] if before else {}
    if last.get("role") == "assistant" and not last.get("tool_calls") and _text(last):
        return before[:-1], _text(last)
    return messages, ""


def _result(text: str) -> str:
    """A tool's result without its first line, the note that a person edited the arguments."""
    note, _, rest = text.partition("\n")
    return rest if note.startswith(_EDITED) else text


def _without_plan(turns: Iterable[ScriptedTurn]) -> Iterable[ScriptedTurn]:
    """The turns without calls of the plan tool; a turn that has no other call is left out."""
    for turn in turns:
        calls = [call for call in turn.tool_calls if call.name != PLAN_TOOL]
        if calls or not turn.tool_calls:
            yield turn.model_copy(update={"tool_calls": calls})


def _rendered(turn: ScriptedTurn, request: ChatRequest) -> ScriptedTurn:
    fields = ("text", "reasoning", "text_before_tools")
    texts = {name: request.render("".join(getattr(turn, name))) for name in fields}
    calls = [call.model_copy(update={"arguments": _filled(call.arguments, request)}) for call in turn.tool_calls]
    return turn.model_copy(update={**texts, "tool_calls": calls})


def _filled(value: Any, request: ChatRequest) -> Any:
    match value:
        case str():
            return request.render(value)
        case dict():
            return {key: _filled(item, request) for key, item in value.items()}
        case list():
            return [_filled(item, request) for item in value]
        case _:
            return value


def _json_value_at(text: str | None, keys: list[str]) -> str | None:
    """The value at a path in a tool's JSON result, as text; None where there is none."""
    if text is None or not keys:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return None
    for key in keys:
        if isinstance(value, list) and key.isdecimal():
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False)


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content may be a list of parts (OpenAI)."""
    content = message.get("content") or ""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return str(content)
