"""Buffers one model turn while it streams: separates thoughts from the answer and joins text between two writes.

`add_delta` adds what the model sent, `take_facts` returns the facts that are ready, `finish` returns how the turn
ended. Times are Unix seconds.
"""

from __future__ import annotations

import math

from msgspec import Struct

from statemachine.checkpoint import Confidence, Usage
from statemachine.messages import AnswerArrived, ModelFailed, ThoughtArrived

MAX_HOLD_SECONDS = 0.25
MAX_HOLD_CHUNKS = 64
"""The first text of a turn is held back for so long, because a tool call that follows would make it a thought."""

_MAX_THOUGHT_CHARACTERS = 600
_MAX_TURN_CHARACTERS = 1_000_000
_MIN_OVERLAP_CHARACTERS = 12
_MAX_OVERLAP_CHARACTERS = 2000


class RawCall(Struct, frozen=True):
    """A tool call as the model wrote it: a piece of it in a delta, all of it at the end of the turn.

    Pieces of the same call have the same `index`; only its first piece has the id and the name.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""

    def joined_with(self, piece: RawCall) -> RawCall:
        """Return the call with its next piece."""
        return RawCall(self.index, self.id or piece.id, self.name or piece.name, self.arguments + piece.arguments)


class ModelDelta(Struct, frozen=True):
    """The next part of a model's streamed response, independent of the provider: new text, calls, or the end.

    A part may join several chunks of the stream; `chunk_count` is how many of them had text. Log-probabilities are
    natural logarithms: their sum over `logprob_count` tokens.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[RawCall, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    logprob_sum: float = 0.0
    logprob_count: int = 0
    chunk_count: int = 1


class AnswerCompleted(Struct, frozen=True):
    """The turn was an answer. `text` is the whole answer; `rest` is the part that `take_facts` has not returned."""

    text: str
    rest: str
    usage: Usage | None


class ToolCallsCompleted(Struct, frozen=True):
    """The turn ended with tool calls. `text` is all other text of the turn."""

    calls: tuple[RawCall, ...]
    text: str
    usage: Usage | None
    confidence: Confidence


class TurnBuffer:
    """The buffer between the model's stream and the steps of the run.

    `streamed` is the text of this turn's answer that clients have from an earlier attempt. With `may_call=False` no
    text is held back, because no tool call can follow.
    """

    def __init__(self, *, streamed: str = "", may_call: bool = True) -> None:
        self._streamed = streamed  # the part of the answer that clients have
        self._is_overlap_unchecked = bool(streamed)
        self._is_answering = bool(streamed) or not may_call
        self._text = ""  # received, not taken yet
        self._taken_text = streamed  # all text of the turn that was taken, as a thought or as the answer
        self._chunk_count = 0
        self._characters = 0
        self._held_since: float | None = None
        self._reasoning = ""
        self._calls: dict[int, RawCall] = {}
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._logprob_sum, self._logprob_count = 0.0, 0

    @property
    def streamed(self) -> str:
        """The part of this turn's answer that clients have."""
        return self._streamed

    @property
    def release_at(self) -> float | None:
        """The time (Unix s) at which the held text must be released, or None if no text is held."""
        # Many models send a line break before a tool call, so blank text alone does not begin an answer.
        is_held = self._text.strip() and not self._is_answering and not self._calls
        return self._held_since + MAX_HOLD_SECONDS if is_held and self._held_since is not None else None

    @property
    def is_urgent(self) -> bool:
        """Whether a tool call has begun or the turn has ended, so that the caller should not wait for more text."""
        return bool(self._calls) or self._finish_reason is not None

    def add_delta(self, delta: ModelDelta, now: float) -> None:
        """Add what the model's stream sent at `now`."""
        self._characters += len(delta.text) + len(delta.reasoning)
        if delta.reasoning:
            self._reasoning += delta.reasoning
        if delta.text:
            self._text += delta.text
            self._chunk_count += delta.chunk_count
            if self._held_since is None:
                self._held_since = now
        for piece in delta.calls:
            call = self._calls.get(piece.index)
            self._calls[piece.index] = piece if call is None else call.joined_with(piece)
            self._characters += len(piece.arguments)
        if delta.finish_reason:
            self._finish_reason = delta.finish_reason
        if delta.usage is not None:
            self._usage = delta.usage
        if delta.logprob_count:
            self._logprob_sum += delta.logprob_sum
            self._logprob_count += delta.logprob_count

    @property
    def is_too_long(self) -> bool:
        """Whether the turn exceeds its size limit. A turn that never ends must not fill the memory."""
        return self._characters > _MAX_TURN_CHARACTERS

    def take_facts(self, now: float) -> list[ThoughtArrived | AnswerArrived]:
        """Return the facts that are ready and remove their text. Adjacent text becomes one fact."""
        facts: list[ThoughtArrived | AnswerArrived] = []
        reasoning = self._take_reasoning()
        if reasoning:
            facts.append(ThoughtArrived(reasoning))
        if self._text:
            if self._calls and not self._is_answering:
                facts.extend(self._take_as_thought(is_last=False))
            elif self._is_answering or self._is_hold_over(now):
                self._is_answering = True
                answer = self._take_answer(is_last=False)
                if answer:
                    self._streamed += answer
                    facts.append(AnswerArrived(answer))
        return facts

    def finish(self) -> tuple[list[ThoughtArrived | AnswerArrived], AnswerCompleted | ToolCallsCompleted | ModelFailed]:
        """Return the facts not taken yet, and how the turn ended. A turn without its proper end is a `ModelFailed`."""
        failure = self._failure()
        if failure:
            return [], failure
        facts: list[ThoughtArrived | AnswerArrived] = []
        if self._reasoning.strip():
            facts.append(ThoughtArrived(_repair(self._reasoning)))
        if not self._calls:
            rest = self._take_answer(is_last=True)
            return facts, AnswerCompleted(self._streamed + rest, rest, self._usage)
        if self._text and self._is_answering:
            answer = self._take_answer(is_last=True)
            self._streamed += answer
            facts.extend([AnswerArrived(answer)] if answer else [])
        elif self._text:
            facts.extend(self._take_as_thought(is_last=True))
        calls = tuple(_repair_call(self._calls[index]) for index in sorted(self._calls))
        return facts, ToolCallsCompleted(calls, self._taken_text, self._usage, self._confidence())

    def _failure(self) -> ModelFailed | None:
        match self._finish_reason:
            case None:
                return ModelFailed("interrupted", "the stream ended without a finish_reason", self._streamed)
            case "length" | "content_filter":
                cause = "its token limit" if self._finish_reason == "length" else "its content filter"
                return ModelFailed("truncated", f"the model stopped at {cause}", self._streamed)
            case "error" | "abort" | "cancelled":  # vLLM, SGLang and some routers report their failures this way
                return ModelFailed("interrupted", f"the model stopped with {self._finish_reason!r}", self._streamed)
            case _:
                is_empty = not (self._calls or self._text.strip() or self._taken_text.strip() or self._streamed)
                return ModelFailed("interrupted", "the model answered nothing", self._streamed) if is_empty else None

    def _is_hold_over(self, now: float) -> bool:
        release_at = self.release_at
        return release_at is not None and (self._chunk_count >= MAX_HOLD_CHUNKS or now >= release_at)

    def _take_reasoning(self) -> str:
        """Take complete paragraphs of the reasoning, or all of it if it is long or if text or a call has begun."""
        end = len(self._reasoning)
        if not (self._text or self._calls or end >= _MAX_THOUGHT_CHARACTERS):
            end = self._reasoning.rfind("\n\n") + 2 if "\n\n" in self._reasoning else 0
        taken, kept = _split_half_character(self._reasoning[:end])
        self._reasoning = kept + self._reasoning[end:]
        return _repair(taken) if taken.strip() else ""

    def _take_as_thought(self, *, is_last: bool) -> list[ThoughtArrived | AnswerArrived]:
        taken, self._text = (self._text, "") if is_last else _split_half_character(self._text)
        taken = _repair(taken)
        self._taken_text += taken
        return [ThoughtArrived(taken, "planning")] if taken.strip() else []

    def _take_answer(self, *, is_last: bool) -> str:
        text = self._text
        if self._is_overlap_unchecked:
            if not is_last and _may_overlap(self._streamed, text):
                return ""
            text = _without_overlap(self._streamed, text)
            self._is_overlap_unchecked = False
        text, self._text = (text, "") if is_last else _split_half_character(text)
        text = _repair(text)
        self._taken_text += text
        return text

    def _confidence(self) -> Confidence:
        if not self._logprob_count or math.isnan(self._logprob_sum):
            return Confidence.UNKNOWN
        mean = math.exp(min(0.0, self._logprob_sum / self._logprob_count))
        return Confidence(value=round(mean, 4), source="logprobs")


def _split_half_character(text: str) -> tuple[str, str]:
    """Split off a leading surrogate at the end of the text: the other half of its character comes in the next piece."""
    return (text[:-1], text[-1]) if text and "\ud800" <= text[-1] <= "\udbff" else (text, "")


def _repair_call(call: RawCall) -> RawCall:
    return RawCall(call.index, _repair(call.id), _repair(call.name), _repair(call.arguments))


def _repair(text: str) -> str:
    """Join surrogate pairs that a server sent in two pieces. A surrogate without its pair becomes U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _may_overlap(streamed: str, text: str) -> bool:
    """Return whether `text` is still too short to decide if it repeats `streamed` or its end."""
    return streamed.startswith(text) or text in streamed[-_MAX_OVERLAP_CHARACTERS:]


def _without_overlap(streamed: str, text: str) -> str:
    """Return `text` without its beginning that repeats all of `streamed`, or the end of it.

    Text that occurs in the middle of `streamed` is kept: rows of a table are often alike.
    """
    if text.startswith(streamed):
        return text[len(streamed) :]
    tail = streamed[-_MAX_OVERLAP_CHARACTERS:]
    for length in range(min(len(tail), len(text)), _MIN_OVERLAP_CHARACTERS - 1, -1):
        if tail.endswith(text[:length]):
            return text[length:]
    return text
