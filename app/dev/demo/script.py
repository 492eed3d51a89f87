"""The turns of a scripted model as data, and their conversion to stream deltas. Knows nothing about HTTP."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_CHARACTERS_PER_TOKEN = 4


class ScriptedCall(BaseModel):
    """A tool call. `arguments` that are a string are sent unchanged, so that malformed JSON can be scripted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    id: str | None = None

    @property
    def arguments_text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments, ensure_ascii=False)


class ScriptedTurn(BaseModel):
    """One response of the model. It is sent as reasoning, `text_before_tools`, the tool calls, `text`, and the end.

    Texts are split into deltas of `chunk_chars` characters; the items of a list are one delta each. `logprobs` has one
    number for each text delta; where it is shorter, the rest have none. Faults occur after a number of deltas
    (reasoning, text and parts of calls; the role is not counted): 0 is before the first delta, -1 before the first
    byte of the response.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str | list[str] = ""
    reasoning: str | list[str] = ""
    text_before_tools: str | list[str] = ""
    tool_calls: list[ScriptedCall] = Field(default_factory=list)
    finish_reason: str | None = Field(default="auto", description="auto: by content; null: the stream has none")
    usage: dict[str, int] | None = Field(default=None, description="null: estimated from the lengths")
    logprobs: list[float] | None = None
    chunk_chars: int = Field(default=4, ge=1)
    delay_ms: float = Field(default=0, ge=0, description="between deltas")
    first_delay_ms: float = Field(default=0, ge=0, description="before the first byte of the response")

    status: int = Field(default=200, description="any other than 200: an HTTP error instead of a response")
    headers: dict[str, str] = Field(default_factory=dict, description="of an HTTP error, e.g. Retry-After")
    error_message: str = "scripted error"
    cut_after: int | None = Field(default=None, ge=-1, description="the connection breaks")
    hang_after: int | None = Field(
        default=None, ge=-1, description="silence until `release()` or until the client disconnects"
    )
    error_chunk_after: int | None = Field(default=None, ge=0, description="an `error` object instead of the rest")
    malformed_chunk_after: int | None = Field(default=None, ge=0, description="a chunk that is not JSON, then the rest")

    @property
    def whole_text(self) -> str:
        return "".join([*_joined(self.text_before_tools), *_joined(self.text)])

    @property
    def effective_finish_reason(self) -> str | None:
        if self.finish_reason != "auto":
            return self.finish_reason
        return "tool_calls" if self.tool_calls else "stop"

    def continued_from(self, partial: str) -> ScriptedTurn | None:
        """The rest of this turn for a client that already has the text `partial`; None where the text differs."""
        if not self.whole_text.startswith(partial):
            return None
        before, after = "".join(_joined(self.text_before_tools)), "".join(_joined(self.text))
        rest = {"text_before_tools": before[len(partial) :], "text": after[max(0, len(partial) - len(before)) :]}
        return self.model_copy(update={"reasoning": "", **rest})

    def with_usage(self, request_characters: int) -> ScriptedTurn:
        """This turn with its `usage`: the scripted one, or else an estimate from the lengths."""
        if self.usage is not None:
            return self
        sent_characters = sum(len(call.arguments_text) for call in self.tool_calls) + len(self.whole_text)
        lengths = (request_characters, sent_characters)
        prompt, completion = (characters // _CHARACTERS_PER_TOKEN + 1 for characters in lengths)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return self.model_copy(update={"usage": usage})

    def with_call_ids(self) -> ScriptedTurn:
        """This turn with an id for each call: the scripted one, or else a new one in OpenAI's form."""
        if all(call.id is not None for call in self.tool_calls):
            return self
        calls = [
            call if call.id is not None else call.model_copy(update={"id": f"call_{secrets.token_hex(12)}"})
            for call in self.tool_calls
        ]
        return self.model_copy(update={"tool_calls": calls})


@dataclass(frozen=True, slots=True)
class Delta:
    """The `delta` object of one chunk in OpenAI's format, and the log-probability of its token, if there is one."""

    kind: Literal["reasoning", "text", "call"]
    fields: dict[str, Any]
    token: str = ""
    logprob: float | None = None


def deltas(turn: ScriptedTurn) -> Iterator[Delta]:
    """All deltas of the turn in order, without the chunk of the role and the end. Its calls have ids."""
    logprobs = iter(turn.logprobs or ())
    for piece in _pieces(turn.reasoning, turn.chunk_chars):
        yield Delta("reasoning", {"reasoning_content": piece})
    for piece in _pieces(turn.text_before_tools, turn.chunk_chars):
        yield Delta("text", {"content": piece}, piece, next(logprobs, None))
    for index, call in enumerate(turn.tool_calls):
        yield from _call_deltas(index, call, turn.chunk_chars)
    for piece in _pieces(turn.text, turn.chunk_chars):
        yield Delta("text", {"content": piece}, piece, next(logprobs, None))


def _call_deltas(index: int, call: ScriptedCall, chunk_chars: int) -> Iterator[Delta]:
    """The deltas of one tool call. Only the first has the id and the name, as OpenAI sends them."""
    opening = {
        "index": index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": ""},
    }
    yield Delta("call", {"tool_calls": [opening]})
    for piece in _pieces(call.arguments_text, chunk_chars * 4):
        yield Delta("call", {"tool_calls": [{"index": index, "function": {"arguments": piece}}]})


def _pieces(text: str | list[str], size: int) -> Sequence[str]:
    if isinstance(text, list):
        return text
    return [text[start : start + size] for start in range(0, len(text), size)]


def _joined(text: str | list[str]) -> list[str]:
    return text if isinstance(text, list) else [text]
