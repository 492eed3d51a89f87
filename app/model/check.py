"""Checks what a model's server can do: it requests one streamed answer and one tool call, as a run does.

The tool is offered but never run. A turn counts as whole by the rules of a run (`statemachine.turn`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from app.errors import ModelError
from app.model.chat import OpenAIModel
from statemachine.messages import ModelFailed, ThoughtArrived
from statemachine.stored import JsonObject
from statemachine.turn import AnswerCompleted, ModelDelta, ToolCallsCompleted, TurnBuffer

_SYSTEM = {"role": "system", "content": "You are a helpful assistant. Follow the instructions exactly."}
_ANSWER_PROMPT = "Count from 1 to 40. Write only the numbers, separated by commas."
_CALL_PROMPT = "What time is it in Seoul now? Call the tool to find out."
_TOOL_NAME = "get_current_time"
_TOOL: JsonObject = {
    "type": "function",
    "function": {
        "name": _TOOL_NAME,
        "description": "Return the current date and time in a time zone.",
        "parameters": {
            "type": "object",
            "properties": {"timezone": {"type": "string", "description": "IANA name, for example Asia/Seoul"}},
            "required": ["timezone"],
            "additionalProperties": False,
        },
    },
}


class TokenCounts(msgspec.Struct, frozen=True, rename="camel"):
    """The tokens of a turn as the server reported them. `cached_tokens` are those of the prompt from its cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class TurnReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """How one turn went. `problem` is None if it was as requested; `failure` and `detail` are set for errors.

    `pieces` counts the chunks that had text. Times are seconds since the request.
    """

    problem: str | None
    failure: str | None = None
    detail: str | None = None
    first_word_seconds: float | None = None
    seconds: float = 0.0
    pieces: int = 0
    finish_reason: str | None = None
    shows_reasoning: bool = False
    usage: TokenCounts | None = None
    call_name: str | None = None
    call_arguments: str | None = None

    @property
    def is_error(self) -> bool:
        """Whether the server did not respond with a turn at all."""
        return self.failure is not None


class ServerReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What one model server can do. `tool_call` is None where it was not requested, because no answer came."""

    model: str
    address: str
    is_usable: bool
    streams: bool
    answer: TurnReport
    tool_call: TurnReport | None
    refused_features: list[str]

    def to_json(self) -> bytes:
        """Return the report as one line of JSON with names in camelCase."""
        return msgspec.json.encode(self)


async def check_server(model: OpenAIModel, address: str) -> ServerReport:
    """Request an answer and a tool call. No error of the server is raised; the report has it."""
    answer = await _check_answer(model)
    tool_call = None if answer.is_error else await _check_tool_call(model)
    return ServerReport(
        model=model.name,
        address=address,
        is_usable=answer.problem is None and tool_call is not None and tool_call.problem is None,
        streams=answer.pieces > 1,
        answer=answer,
        tool_call=tool_call,
        refused_features=sorted(model.unsupported),
    )


async def _check_answer(model: OpenAIModel) -> TurnReport:
    turn = _Turn()
    try:
        end = await turn.run(model, [_SYSTEM, {"role": "user", "content": _ANSWER_PROMPT}], [])
    except ModelError as error:
        return turn.report_error(error)
    match end:
        case AnswerCompleted():
            return turn.report(None)
        case ToolCallsCompleted():
            return turn.report("it called a tool, though none was offered")
        case ModelFailed(message=message):
            return turn.report(message)


async def _check_tool_call(model: OpenAIModel) -> TurnReport:
    turn = _Turn()
    try:
        end = await turn.run(model, [_SYSTEM, {"role": "user", "content": _CALL_PROMPT}], [_TOOL])
    except ModelError as error:
        return turn.report_error(error)
    match end:
        case ToolCallsCompleted(calls=calls):
            call = calls[0]
            problem = _call_problem(call.name, call.arguments)
            return turn.report(problem, call_name=call.name, call_arguments=call.arguments)
        case AnswerCompleted():
            is_refused = "tools" in model.unsupported
            return turn.report("the server refuses tools" if is_refused else "it answered in text and called no tool")
        case ModelFailed(message=message):
            return turn.report(message)


class _Turn:
    """One turn while it streams, and its measurements."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first_word_seconds: float | None = None
        self._pieces = 0
        self._finish_reason: str | None = None
        self._usage: TokenCounts | None = None
        self._shows_reasoning = False

    async def run(
        self, model: OpenAIModel, messages: Sequence[JsonObject], tools: Sequence[JsonObject]
    ) -> AnswerCompleted | ToolCallsCompleted | ModelFailed:
        """Return how the turn ended. Raises `ModelError`."""
        names = frozenset(tool["function"]["name"] for tool in tools)
        buffer = TurnBuffer(tool_names=names)
        async with model.stream(messages, tools) as arrivals:
            async for delta in arrivals:
                self._measure(delta)
                buffer.add_delta(delta, time.monotonic())
                if buffer.is_too_long:
                    raise ModelError("truncated", "the model's turn is longer than a turn may be")
        facts, end = buffer.finish()
        self._shows_reasoning = any(isinstance(it, ThoughtArrived) and it.thought_type == "reasoning" for it in facts)
        return end

    def _measure(self, delta: ModelDelta) -> None:
        if self._first_word_seconds is None and (delta.text or delta.reasoning or delta.calls):
            self._first_word_seconds = self._elapsed()
        if delta.text:
            self._pieces += delta.chunk_count
        self._finish_reason = self._finish_reason or delta.finish_reason
        if (usage := delta.usage) is not None:
            self._usage = TokenCounts(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)

    def report(self, problem: str | None, **more: Any) -> TurnReport:
        return TurnReport(
            problem=problem,
            first_word_seconds=self._first_word_seconds,
            seconds=self._elapsed(),
            pieces=self._pieces,
            finish_reason=self._finish_reason,
            shows_reasoning=self._shows_reasoning,
            usage=self._usage,
            **more,
        )

    def report_error(self, error: ModelError) -> TurnReport:
        return self.report(error.cause, failure=error.kind, detail=error.detail or None)

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._began, 3)


def _call_problem(name: str, arguments: str) -> str | None:
    """Return what is wrong with a call of the offered tool, or None."""
    if name != _TOOL_NAME:
        return f"it called {name or 'a tool without a name'}, which was not offered"
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return "the arguments of its call are not JSON"
    zone = parsed.get("timezone") if isinstance(parsed, dict) else None
    return None if isinstance(zone, str) and zone.strip() else "the arguments of its call lack the required timezone"
