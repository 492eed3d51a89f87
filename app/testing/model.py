"""The script of the model in a test: the turns that it answers with, and the requests that it was sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Self

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.testing.outcomes import JsonObject, UnexpectedOutcome, call_text

_SHOWN_CHARACTERS = 200


def calling(*calls: tuple[str, Any], **turn: Any) -> ScriptedTurn:
    """Return a turn in which the model requests tools: `(name, arguments)` each, with the ids call_1, call_2 …"""
    return ScriptedTurn(
        tool_calls=[
            ScriptedCall(name=name, arguments=arguments, id=f"call_{number}")
            for number, (name, arguments) in enumerate(calls, start=1)
        ],
        **turn,
    )


class ScriptedModel:
    """The model of a test, which answers each request of the service with the next turn. Each method adds one turn,
    or a part of one, and returns the model, so that calls are chained in the order of the turns.

    It is a real HTTP server, and strict: requests without a turn, requests that real servers refuse, and turns that are
    left over at the end fail the test.
    """

    def __init__(self, server: ScriptedModelServer) -> None:
        self._server = server
        self._written: list[ScriptedTurn] = []  # not yet sent to the server, so that methods can add to the last turn
        self._sent: list[ScriptedTurn] = []
        self._before: JsonObject = {}

    @property
    def requests(self) -> Sequence[JsonObject]:
        """The body of each chat-completions request so far, in order: `messages`, `tools` and the options."""
        return self._server.requests

    def calls(self, name: str, arguments: JsonObject | str | None = None, /, **named: Any) -> Self:
        """Add a turn that calls a tool. A text as `arguments` is sent unchanged, so that it need not be JSON."""
        return self._add(ScriptedTurn(tool_calls=[_call(name, arguments, named)], **self._take_before()))

    def and_calls(self, name: str, arguments: JsonObject | str | None = None, /, **named: Any) -> Self:
        """Add a call to the turn of the `calls` before. Raises `ValueError` where there is none."""
        if not self._written or not self._written[-1].tool_calls:
            raise ValueError("and_calls() adds to a turn that calls a tool: write calls() directly before it")
        last = self._written.pop()
        return self._add(last.model_copy(update={"tool_calls": [*last.tool_calls, _call(name, arguments, named)]}))

    def answers(self, text: str) -> Self:
        """Add a turn that answers with a text, which ends the run."""
        return self._add(ScriptedTurn(text=text, **self._take_before()))

    def thinks(self, text: str) -> Self:
        """Let the next turn begin with reasoning, which people see as a thought."""
        self._before["reasoning"] = text
        return self

    def writes(self, text: str) -> Self:
        """Let the next turn have a text before its calls."""
        self._before["text_before_tools"] = text
        return self

    def fails(self, message: str = "scripted error", *, status: int = 500, times: int = 1) -> Self:
        """Answer the next request with an HTTP error, or the next `times` requests: the service may try again."""
        for _ in range(times):
            self._add(ScriptedTurn(status=status, error_message=message))
        return self

    def play(self, *turns: ScriptedTurn) -> Self:
        """Add turns that the other methods cannot write: broken connections, silence, log-probabilities."""
        for turn in turns:
            self._add(turn)
        return self

    def send_script(self) -> None:
        """Send what was written to the server. The service does it before each step of a run."""
        self._server.play(*self._written)
        self._sent += self._written
        self._written = []

    def problems(self) -> list[str]:
        """Return what in the requests of the service does not fit the script, one text each."""
        found = [f"strict model servers refuse a request that was sent: {line}" for line in self._server.violations]
        if unexpected := self._server.unexpected_calls:
            last = _shortened(unexpected[0]["messages"][-1])
            found.append(
                f"the service sent {len(unexpected)} request(s) to the model for which the test has no turn; add "
                f"aura.model.answers(…) or .calls(…). The last message of the first one: {last}"
            )
        return found

    def check(self) -> None:
        """Raises `UnexpectedOutcome` where requests were wrong or unexpected, or turns are left over."""
        found, used = self.problems(), len(self._sent) - self._server.turns_left
        if left := [*self._sent[used:], *self._written]:
            turns = "; ".join(map(_turn_text, left))
            requests = f"the service sent {len(self.requests)} request(s)"
            found.append(f"{len(left)} turn(s) of the scripted model were not used ({requests}): {turns}")
        if self._before:
            found.append("thinks() and writes() begin a turn: write answers() or calls() after them")
        if found:
            raise UnexpectedOutcome("\n".join(found))

    def _add(self, turn: ScriptedTurn) -> Self:
        self._written.append(turn)
        return self

    def _take_before(self) -> JsonObject:
        before, self._before = self._before, {}
        return before


def _call(name: str, arguments: JsonObject | str | None, named: JsonObject) -> ScriptedCall:
    if isinstance(arguments, str) and named:
        raise ValueError(f"{name} has its arguments as a text and by name: give one of them")
    sent = arguments if isinstance(arguments, str) else {**(arguments or {}), **named}
    return ScriptedCall(name=name, arguments=sent)


def _turn_text(turn: ScriptedTurn) -> str:
    """Return a turn as the methods of the script name it."""
    if turn.status != 200:
        return f"fails with HTTP {turn.status}"
    if turn.tool_calls:
        return "calls " + " and ".join(call_text(call.name, call.arguments) for call in turn.tool_calls)
    return f"answers {_shortened(turn.whole_text)}"


def _shortened(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
