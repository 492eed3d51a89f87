"""Buffers one model turn while it streams: separates thoughts from the answer and joins text between two writes.

`add_delta` adds what the model sent, `take_facts` returns the facts that are ready, `finish` returns how the turn
ended. Times are Unix seconds.
"""

from __future__ import annotations

import math
from typing import assert_never

from msgspec import Struct

from statemachine.call import Confidence
from statemachine.call_pieces import CallPiece, RawCall, join_calls
from statemachine.checkpoint import Usage
from statemachine.finish_reasons import TurnEnd, turn_end
from statemachine.messages import AnswerArrived, ModelFailed, ModelFailure, ModelSource, ThoughtArrived
from statemachine.provider_fields import merge_fields
from statemachine.stored import JsonObject
from statemachine.surrogates import repair, repair_json, split_half_character
from statemachine.think_tags import ThinkTags

MAX_HOLD_SECONDS = 0.25
MAX_HOLD_CHUNKS = 64
"""The first text of a turn is held back for so long, because a tool call that follows would make it a thought."""

_MAX_THOUGHT_CHARACTERS = 600
_MAX_REASON_CHARACTERS = 60
_MAX_TURN_CHARACTERS = 1_000_000
_EMPTY_PIECE_CHARACTERS = 16
"""What a piece of a call without arguments counts: a server that sends them for ever must not fill the memory."""
_MIN_OVERLAP_CHARACTERS = 12
_MAX_OVERLAP_CHARACTERS = 2000


class ModelDelta(Struct, frozen=True):
    """The next part of a model's streamed response, independent of the provider: new text, calls, or the end.

    A part may join several chunks of the stream; `chunk_count` is how many of them had text. Log-probabilities are
    natural logarithms: their sum over `logprob_count` tokens. `extras` are fields of the message that only the provider
    understands. `source` is set in the first part of a turn.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    logprob_sum: float = 0.0
    logprob_count: int = 0
    chunk_count: int = 1
    extras: JsonObject = {}
    source: ModelSource | None = None


class AnswerCompleted(Struct, frozen=True):
    """The turn was an answer. `text` is the whole answer; `rest` is the part that `take_facts` has not returned."""

    text: str
    rest: str
    usage: Usage | None
    extras: JsonObject = {}


class ToolCallsCompleted(Struct, frozen=True):
    """The turn ended with tool calls. `text` is all other text of the turn."""

    calls: tuple[RawCall, ...]
    text: str
    usage: Usage | None
    confidence: Confidence
    extras: JsonObject = {}


class TurnBuffer:
    """The buffer between the model's stream and the steps of the run.

    `streamed` is the text of this turn's answer that clients have from an earlier attempt. `tool_names` are the tools
    that the model was offered; without any, no text is held back, because no tool call can follow.
    """

    def __init__(self, *, streamed: str = "", tool_names: frozenset[str] = frozenset()) -> None:
        self.source: ModelSource | None = None
        self.usage: Usage | None = None
        self._tool_names = tool_names
        self._streamed = streamed  # the part of the answer that clients have
        self._is_overlap_unchecked = bool(streamed)
        self._is_answering = bool(streamed) or not tool_names
        self._text = ""  # received, not taken yet
        self._taken_text = streamed  # all text of the turn that was taken, as a thought or as the answer
        self._chunk_count = 0
        self._characters = 0
        self._held_since: float | None = None
        self._reasoning = ""
        self._tags = ThinkTags()
        self._calls: list[CallPiece] = []
        self._extras: JsonObject = {}
        self._finish_reason: str | None = None
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
        self._reasoning += delta.reasoning
        if delta.text:
            self._add_text(*self._tags.split(delta.text), delta.chunk_count, now)
        if delta.calls:
            self._calls += delta.calls
            self._characters += sum(len(piece.arguments) or _EMPTY_PIECE_CHARACTERS for piece in delta.calls)
        if delta.extras:
            self._extras = merge_fields(self._extras, delta.extras)
        self._finish_reason = self._finish_reason or delta.finish_reason
        self.usage = delta.usage or self.usage
        self.source = delta.source or self.source
        if delta.logprob_count:
            self._logprob_sum += delta.logprob_sum
            self._logprob_count += delta.logprob_count

    def _add_text(self, thought: str, text: str, chunk_count: int, now: float) -> None:
        self._reasoning += thought
        if text:
            self._text += text
            self._chunk_count += chunk_count
            if self._held_since is None:
                self._held_since = now

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
        self._add_text(*self._tags.finish(), 0, 0)
        failure = self._failure()
        if failure is not None and failure.failure != "truncated":
            return [], failure
        facts: list[ThoughtArrived | AnswerArrived] = []
        if self._reasoning.strip():
            facts.append(ThoughtArrived(repair(self._reasoning)))
        if failure is not None:
            return self._finish_truncated(facts), self.failed(failure.failure, failure.message)
        extras = repair_json(self._extras)
        if not self._calls:
            rest = self._take_answer(is_last=True)
            return facts, AnswerCompleted(self._streamed + rest, rest, self.usage, extras)
        facts.extend(self._take_text_beside_calls())
        calls = join_calls(self._calls, self._tool_names)
        return facts, ToolCallsCompleted(calls, self._taken_text, self.usage, self._confidence(), extras)

    def failed(self, failure: ModelFailure, message: str, retry_after_seconds: float | None = None) -> ModelFailed:
        """Return the fact that the turn failed, with what is known of it so far."""
        return ModelFailed(failure, message, self._streamed, retry_after_seconds, self.usage, self.source)

    def _finish_truncated(self, facts: list[ThoughtArrived | AnswerArrived]) -> list[ThoughtArrived | AnswerArrived]:
        """Return the facts of a turn that is not requested again, so that the user gets the text that there is."""
        if self._calls:
            return facts + self._take_text_beside_calls()
        rest = self._take_answer(is_last=True)
        self._streamed += rest
        return [*facts, AnswerArrived(rest)] if rest.strip() else facts

    def _take_text_beside_calls(self) -> list[ThoughtArrived | AnswerArrived]:
        """Take the rest of the text of a turn with tool calls: of an answer that has begun, or else a thought."""
        if not self._text:
            return []
        if not self._is_answering:
            return self._take_as_thought(is_last=True)
        answer = self._take_answer(is_last=True)
        self._streamed += answer
        return [AnswerArrived(answer)] if answer else []

    def _failure(self) -> ModelFailed | None:
        if self._finish_reason is None:
            return self.failed("interrupted", "the stream ended without a finish_reason")
        reason = repr(self._finish_reason[:_MAX_REASON_CHARACTERS])
        match turn_end(self._finish_reason):
            case TurnEnd.CAPPED:
                return self.failed("truncated", f"the model stopped at its token limit ({reason})")
            case TurnEnd.FILTERED:
                return self.failed("truncated", f"the model stopped at its content filter ({reason})")
            case TurnEnd.CUT:
                return self.failed("interrupted", f"the model stopped with {reason}")
            case TurnEnd.WHOLE:
                is_empty = not (self._calls or self._text.strip() or self._taken_text.strip() or self._streamed)
                return self.failed("interrupted", "the model answered nothing") if is_empty else None
            case never:
                assert_never(never)

    def _is_hold_over(self, now: float) -> bool:
        release_at = self.release_at
        return release_at is not None and (self._chunk_count >= MAX_HOLD_CHUNKS or now >= release_at)

    def _take_reasoning(self) -> str:
        """Take complete paragraphs of the reasoning, or all of it if it is long or if text or a call has begun."""
        end = len(self._reasoning)
        if not (self._text or self._calls or end >= _MAX_THOUGHT_CHARACTERS):
            end = self._reasoning.rfind("\n\n") + 2 if "\n\n" in self._reasoning else 0
        taken, kept = split_half_character(self._reasoning[:end])
        self._reasoning = kept + self._reasoning[end:]
        return repair(taken) if taken.strip() else ""

    def _take_as_thought(self, *, is_last: bool) -> list[ThoughtArrived | AnswerArrived]:
        taken, self._text = (self._text, "") if is_last else split_half_character(self._text)
        taken = repair(taken)
        self._taken_text += taken
        return [ThoughtArrived(taken, "planning")] if taken.strip() else []

    def _take_answer(self, *, is_last: bool) -> str:
        text = self._text
        if self._is_overlap_unchecked:
            if not is_last and _may_overlap(self._streamed, text):
                return ""
            text = _without_overlap(self._streamed, text)
            self._is_overlap_unchecked = False
        text, self._text = (text, "") if is_last else split_half_character(text)
        text = repair(text)
        self._taken_text += text
        return text

    def _confidence(self) -> Confidence:
        if not self._logprob_count or math.isnan(self._logprob_sum):
            return Confidence.UNKNOWN
        mean = math.exp(min(0.0, self._logprob_sum / self._logprob_count))
        return Confidence(value=round(mean, 4), source="logprobs")


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
