"""Scripted conversations: which turn answers a request, and what of the request is quoted in it.

The format of the files is in `fixtures/README.md`. Knows nothing of HTTP.
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
"""A scenario goes on without it where it is not offered; it only tells what is about to happen."""

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
    """A chat-completions request, read the way a scenario needs it."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        messages = [message for message in body.get("messages", []) if isinstance(message, dict)]
        messages, self.partial = _split_continuation(messages)
        last_user = max((at for at, message in enumerate(messages) if message.get("role") == "user"), default=-1)
        self.prompt = _text(messages[last_user]) if last_user >= 0 else ""
        since = messages[last_user + 1 :]
        self.turn_index = sum(message.get("role") == "assistant" for message in since)
        """How many turns the model has had since the prompt."""
        self.offered = [tool["function"]["name"] for tool in body.get("tools") or [] if "function" in tool]
        self._system = "\n".join(
            _text(message) for message in messages if message.get("role") in ("system", "developer")
        )
        names = {call["id"]: call["function"]["name"] for message in since for call in message.get("tool_calls") or []}
        results = (message for message in since if message.get("role") == "tool")
        self._results = [(names.get(message.get("tool_call_id"), ""), _result(_text(message))) for message in results]

    @property
    def last_tool_failed(self) -> bool:
        """Whether the last result is no JSON but words (an error, a refusal), or JSON with an `error`."""
        last = next((text for name, text in reversed(self._results) if name != PLAN_TOOL), "{}")
        try:
            parsed = json.loads(last)
        except ValueError:
            return not last.startswith(("{", "["))  # else it was cut to a limit
        return isinstance(parsed, dict) and bool(parsed.get("error"))

    def value(self, path: str) -> str | None:
        """What a placeholder stands for; None where the request does not hold it."""
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
                return _json_value_at(
                    next((text for said, text in reversed(self._results) if said == name), None), keys
                )
            case ["screen", name]:
                return self._on_screen(name)
            case _:
                raise ValueError(f"no such placeholder: {path}")

    def render(self, text: str) -> str:
        """The text with its placeholders filled in; a line with one that cannot be filled is left out.

        `{{a|b|"words"}}` takes the first that the request holds.
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
        """A value of the screen's context; `selected_count` and `selected_list` are made from the ids."""
        selected = [item.strip() for item in (self._screen_line("selected_ids") or "").split(",") if item.strip()]
        if name == "selected_count":
            return str(len(selected)) if selected else None
        if name == "selected_list":
            return "\n".join(f"- 항목 `{item}`" for item in selected) or None
        return self._screen_line(name)

    def _screen_line(self, name: str) -> str | None:
        if name not in _SCREEN_LINES:
            raise ValueError(f"no such placeholder: screen.{name}")
        found = re.search(rf"^[ \t>*-]*{_SCREEN_LINES[name]}: *(.+)$", self._system, re.MULTILINE)
        return found[1].strip() if found else None


class Scenario(BaseModel):
    """One scripted conversation, as its file holds it.

    It answers prompts in which one of `match` (regular expressions) is found, or any where the list is empty, if the
    request holds every placeholder in `requires`. `if_failed` is the turn that follows a tool that failed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    match: list[str] = Field(default_factory=list)
    requires: list[str] = Field(default_factory=list)
    turns: list[ScriptedTurn] = Field(min_length=1)
    if_failed: ScriptedTurn | None = None

    def answers(self, request: ChatRequest) -> bool:
        prompt = request.prompt[:_QUOTED_CHARACTERS]  # a prompt may be long, and patterns slow
        said = not self.match or any(re.search(one, prompt, re.IGNORECASE) for one in self.match)
        return said and all(request.value(path) is not None for path in self.requires)

    def turn(self, request: ChatRequest) -> ScriptedTurn:
        """The next turn of this conversation, filled in."""
        wanted = {call.name for turn in self.turns for call in turn.tool_calls} - {PLAN_TOOL}
        if missing := sorted(wanted.difference(request.offered)):
            return ScriptedTurn(text=_MISSING_TOOL.format(tools=", ".join(f"`{name}`" for name in missing)))
        if self.if_failed is not None and request.last_tool_failed:
            return _rendered(self.if_failed, request)
        turns = self.turns if PLAN_TOOL in request.offered else list(_without_plan(self.turns))
        return _rendered(turns[min(request.turn_index, len(turns) - 1)], request)


def load_scenarios(folder: Path) -> list[Scenario]:
    """Every scenario of a folder, in the order of the file names: the first that answers wins.

    Raises `ValueError` with the file's name where one does not parse.
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
    """What the scripted model says next; None where no scenario answers the prompt."""
    scenario = next((one for one in scenarios if one.answers(request)), None)
    if scenario is None:
        return None
    turn = scenario.turn(request)
    if not request.partial:
        return turn
    rest = turn.continued_from(request.partial)
    # The client has text that this script never said (another model's, say): the answer follows as a paragraph.
    return rest or turn.model_copy(update={"text": f"\n\n{turn.whole_text}", "text_before_tools": "", "reasoning": ""})


def _split_continuation(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The conversation without the request to go on with an interrupted answer, and that answer's text so far."""
    asked = len(messages) > 1 and messages[-1].get("role") in ("user", "system", "developer")
    before = messages[:-1] if asked and _CONTINUE.search(_text(messages[-1])) else messages
    last = before[-1] if before else {}
    if last.get("role") == "assistant" and not last.get("tool_calls") and _text(last):
        return before[:-1], _text(last)
    return messages, ""


def _result(text: str) -> str:
    """A tool's result without the line before it that says that a person edited the arguments."""
    note, _, rest = text.partition("\n")
    return rest if note.startswith(_EDITED) else text


def _without_plan(turns: Iterable[ScriptedTurn]) -> Iterable[ScriptedTurn]:
    """The turns without plan calls; one that did nothing else is left out."""
    for turn in turns:
        calls = [call for call in turn.tool_calls if call.name != PLAN_TOOL]
        if calls or not turn.tool_calls:
            yield turn.model_copy(update={"tool_calls": calls})


def _rendered(turn: ScriptedTurn, request: ChatRequest) -> ScriptedTurn:
    spoken = ("text", "reasoning", "text_before_tools")
    texts = {name: request.render("".join(getattr(turn, name))) for name in spoken}
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
    """A value in a tool's JSON result, as text."""
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
    """A message's text; OpenAI allows a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return str(content)
