"""One model turn as it arrives: tells thoughts from answer, gathers what comes while a write is under way.

`feed` takes deltas from the model, `take` gives the facts that are ready, `finish` says how the turn ended. Times are
Unix seconds and only ever compared.
"""

from __future__ import annotations

import math

from msgspec import Struct

from statemachine.checkpoint import Confidence, Usage
from statemachine.messages import AnswerArrived, ModelFailed, ThoughtArrived

HOLD_SECONDS = 0.25
HOLD_DELTAS = 64
"""Text that may yet turn out to precede a tool call is held back no longer than this."""

_THOUGHT_CHARACTERS = 600
_MOST_CHARACTERS = 1_000_000
_LEAST_OVERLAP = 12
_MOST_OVERLAP = 2000


class CallDelta(Struct, frozen=True):
    """A piece of a tool call; id and name come only with the first piece of an index."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class ModelDelta(Struct, frozen=True):
    """What the model's stream added, in words of no provider; `pieces` are the chunks that `text` came in."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    logprob_sum: float = 0.0
    logprob_count: int = 0
    pieces: int = 1


class RawCall(Struct):
    """A tool call as the model spelled it."""

    id: str = ""
    name: str = ""
    arguments: str = ""


class AnswerCompleted(Struct, frozen=True):
    """The turn was an answer: `text` whole, of which `rest` has not been taken."""

    text: str
    rest: str
    usage: Usage | None


class ToolCallsCompleted(Struct, frozen=True):
    """The turn asked for tools; `text` is what it said besides."""

    calls: tuple[RawCall, ...]
    text: str
    usage: Usage | None
    confidence: Confidence


class Turn:
    """The buffer between the model's stream and the run's steps."""

    def __init__(self, *, streamed: str = "", may_call: bool = True) -> None:
        self._streamed = streamed  # clients have this much of the answer
        self._overlap_open = bool(streamed)
        self._answering = bool(streamed) or not may_call
        self._text = ""  # arrived, not taken
        self._said = streamed  # all text of the turn that was taken, as thought or as answer
        self._deltas = 0
        self._characters = 0
        self._held_since: float | None = None
        self._reasoning = ""
        self._calls: dict[int, RawCall] = {}
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._logprob_sum, self._logprob_count = 0.0, 0

    @property
    def streamed(self) -> str:
        """The answer text of this turn that clients have."""
        return self._streamed

    @property
    def release_at(self) -> float | None:
        """When text that is held back must go (Unix s); None where none is held."""
        # Many models send a line break before a tool call: blank text alone begins no answer.
        held = self._text.strip() and not self._answering and not self._calls
        return self._held_since + HOLD_SECONDS if held and self._held_since is not None else None

    @property
    def is_urgent(self) -> bool:
        """A tool call has begun, or the end has come: what follows should not wait for more text."""
        return bool(self._calls) or self._finish_reason is not None

    def feed(self, delta: ModelDelta, now: float) -> None:
        self._characters += len(delta.text) + len(delta.reasoning)
        if delta.reasoning:
            self._reasoning += delta.reasoning
        if delta.text:
            self._text += delta.text
            self._deltas += delta.pieces
            if self._held_since is None:
                self._held_since = now
        for piece in delta.calls:
            call = self._calls.setdefault(piece.index, RawCall())
            call.id = call.id or piece.id
            call.name = call.name or piece.name
            call.arguments += piece.arguments
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
        """A turn that never ends must not fill the memory."""
        return self._characters > _MOST_CHARACTERS

    def take(self, now: float) -> list[ThoughtArrived | AnswerArrived]:
        """The facts that are ready, adjacent text gathered into one; empty while everything is held back."""
        facts: list[ThoughtArrived | AnswerArrived] = []
        reasoning = self._take_reasoning()
        if reasoning:
            facts.append(ThoughtArrived(reasoning))
        if self._text:
            if self._calls and not self._answering:
                facts.extend(self._take_as_thought(is_last=False))
            elif self._answering or self._hold_is_over(now):
                self._answering = True
                answer = self._take_answer(is_last=False)
                if answer:
                    self._streamed += answer
                    facts.append(AnswerArrived(answer))
        return facts

    def finish(self) -> tuple[list[ThoughtArrived | AnswerArrived], AnswerCompleted | ToolCallsCompleted | ModelFailed]:
        """What had not been taken, and how the turn ended. A cut or capped turn is never passed off as whole."""
        failure = self._failure()
        if failure:
            return [], failure
        facts: list[ThoughtArrived | AnswerArrived] = []
        if self._reasoning.strip():
            facts.append(ThoughtArrived(_repaired(self._reasoning)))
        if not self._calls:
            rest = self._take_answer(is_last=True)
            return facts, AnswerCompleted(self._streamed + rest, rest, self._usage)
        if self._text and self._answering:
            answer = self._take_answer(is_last=True)
            self._streamed += answer
            facts.extend([AnswerArrived(answer)] if answer else [])
        elif self._text:
            facts.extend(self._take_as_thought(is_last=True))
        calls = tuple(_whole_call(self._calls[index]) for index in sorted(self._calls))
        return facts, ToolCallsCompleted(calls, self._said, self._usage, self._confidence())

    def _failure(self) -> ModelFailed | None:
        match self._finish_reason:
            case None:
                return ModelFailed("interrupted", "the stream ended without a finish_reason", self._streamed)
            case "length" | "content_filter":
                cause = "its token limit" if self._finish_reason == "length" else "its content filter"
                return ModelFailed("truncated", f"the model stopped at {cause}", self._streamed)
            case "error" | "abort" | "cancelled":  # how vLLM, SGLang and routers before other models say it broke
                return ModelFailed("interrupted", f"the model stopped with {self._finish_reason!r}", self._streamed)
            case _:
                silent = not (self._calls or self._text.strip() or self._said.strip() or self._streamed)
                return ModelFailed("interrupted", "the model answered nothing", self._streamed) if silent else None

    def _hold_is_over(self, now: float) -> bool:
        release_at = self.release_at
        return release_at is not None and (self._deltas >= HOLD_DELTAS or now >= release_at)

    def _take_reasoning(self) -> str:
        """Whole paragraphs while it flows, everything once something else has begun."""
        cut = len(self._reasoning)
        if not (self._text or self._calls or cut >= _THOUGHT_CHARACTERS):
            cut = self._reasoning.rfind("\n\n") + 2 if "\n\n" in self._reasoning else 0
        taken, kept = _whole(self._reasoning[:cut])
        self._reasoning = kept + self._reasoning[cut:]
        return _repaired(taken) if taken.strip() else ""

    def _take_as_thought(self, *, is_last: bool) -> list[ThoughtArrived | AnswerArrived]:
        taken, self._text = (self._text, "") if is_last else _whole(self._text)
        taken = _repaired(taken)
        self._said += taken
        return [ThoughtArrived(taken, "planning")] if taken.strip() else []

    def _take_answer(self, *, is_last: bool) -> str:
        text = self._text
        if self._overlap_open:
            if not is_last and _may_repeat(self._streamed, text):
                return ""
            text = _without_overlap(self._streamed, text)
            self._overlap_open = False
        text, self._text = (text, "") if is_last else _whole(text)
        text = _repaired(text)
        self._said += text
        return text

    def _confidence(self) -> Confidence:
        if not self._logprob_count or math.isnan(self._logprob_sum):
            return Confidence.UNKNOWN
        mean = math.exp(min(0.0, self._logprob_sum / self._logprob_count))
        return Confidence(value=round(mean, 4), source="logprobs")


def _whole(text: str) -> tuple[str, str]:
    """The text, and apart from it the first half of a character whose other half is on its way."""
    return (text[:-1], text[-1]) if text and "\ud800" <= text[-1] <= "\udbff" else (text, "")


def _whole_call(call: RawCall) -> RawCall:
    return RawCall(_repaired(call.id), _repaired(call.name), _repaired(call.arguments))


def _repaired(text: str) -> str:
    """Halves of characters that servers send apart are joined; a half without its other becomes U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _may_repeat(streamed: str, text: str) -> bool:
    """Whether `text` could yet grow into a repetition of what was said, up to its end: too little to tell."""
    return streamed.startswith(text) or text in streamed[-_MOST_OVERLAP:]


def _without_overlap(streamed: str, text: str) -> str:
    """What `text` adds to `streamed` where the model said its end, or all of it, again.

    Text that stands somewhere in the middle of it is new all the same: rows of a table are often alike.
    """
    if text.startswith(streamed):
        return text[len(streamed) :]
    tail = streamed[-_MOST_OVERLAP:]
    for length in range(min(len(tail), len(text)), _LEAST_OVERLAP - 1, -1):
        if tail.endswith(text[:length]):
            return text[length:]
    return text
