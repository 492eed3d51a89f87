"""Builds the conversation that a run starts with: system prompt, context of the screen, history, prompt (§4).

The context is data from a web page. Each value is cut, stays in one line, and cannot close the tags around the block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from statemachine.checkpoint import Checkpoint
from statemachine.instructions import CONTEXT_WARNING, INSTRUCTIONS
from statemachine.outside_text import joined
from statemachine.shortening import shorten, size_in_bytes
from statemachine.stored import JsonObject, canonical_json

_MAX_VALUE_CHARACTERS = 500
_MAX_LIST_ITEMS = 100
_MAX_METADATA_ITEMS = 50
_MAX_CONTEXT_CHARACTERS = 8000
"""All values together: a context of 256 KiB must fill neither the model's memory nor the checkpoint."""
_CONTEXT_KEYS = ("activeApp", "selectedItemIds", "url", "path", "pathname", "title", "itemId", "metadata")
_CONTEXT_TAG = re.compile(r"<\s*/?\s*screen_context", re.IGNORECASE)
_SPACES = re.compile(r"[\s\x00-\x1f\x7f\u0085\u2028\u2029]+")


class History(Struct, frozen=True):
    """What a run gets of the earlier runs (turns) of its thread.

    `omitted_turns` counts the runs that were left out because they did not fit. `is_shortened`: the newest run is in
    `messages`, but did not fit as a whole. `outside_text` names what those in `messages` have read from outside.
    """

    messages: tuple[JsonObject, ...] = ()
    omitted_turns: int = 0
    is_shortened: bool = False
    outside_text: tuple[str, ...] = ()


NO_HISTORY = History()


def conversation(
    prompt: str, context: JsonObject, history: History = NO_HISTORY, instructions: str = INSTRUCTIONS
) -> list[JsonObject]:
    """Return the chat messages in OpenAI's format: system prompt, history of the thread, user's prompt."""
    return [
        {"role": "system", "content": system_prompt(context, history, instructions)},
        *history.messages,
        {"role": "user", "content": prompt},
    ]


def system_prompt(context: JsonObject, history: History = NO_HISTORY, instructions: str = INSTRUCTIONS) -> str:
    """Return the instructions, then a block of the context if there is any, then what the history lacks.

    What never changes comes first: a server can keep the beginning of a request in its cache. All is in one message,
    because some servers refuse a second system message.
    """
    lines = list(_context_lines(context))
    block = "\n".join([CONTEXT_WARNING, "<screen_context>", *lines, "</screen_context>"]) if lines else ""
    return "\n\n".join(part for part in (instructions, block, _history_note(history)) if part)


def _context_lines(context: JsonObject) -> Iterable[str]:
    """Yield the context lines of §4 in their order, without those whose value is empty."""
    labelled_values = (
        ("현재 사용자가 보고 있는 화면", context.get("activeApp")),
        ("선택된 항목 ID", context.get("selectedItemIds")),
        ("현재 URL", context.get("url")),
        ("경로", context.get("path") or context.get("pathname")),
        ("페이지 제목", context.get("title")),
        ("항목 ID", context.get("itemId")),
        ("추가 정보", context.get("metadata")),
    )
    free = _MAX_CONTEXT_CHARACTERS
    for label, value in labelled_values:
        text = _cut(_format_value(value), free)
        free -= len(text)
        if text:
            yield f"{label}: {text}"


def used_context(context: JsonObject) -> JsonObject:
    """Return the part of a context that the model gets. Where it is long, its values are cut texts."""
    used = {key: context[key] for key in _CONTEXT_KEYS if key in context}
    if len(canonical_json(used)) <= _MAX_CONTEXT_CHARACTERS:
        return used
    cut, free = {}, _MAX_CONTEXT_CHARACTERS
    for key, value in used.items():
        cut[key] = _cut(_format_value(value), free)
        free -= len(cut[key])
    return cut


def _format_value(value: object) -> str:
    match value:
        case None:
            return ""
        case dict():
            pairs = list(value.items())[:_MAX_METADATA_ITEMS]
            return ", ".join(f"{_single_line(str(key))}: {_format_scalar(item)}" for key, item in pairs)
        case list():
            return ", ".join(_format_scalar(item) for item in value[:_MAX_LIST_ITEMS])
        case _:
            return _format_scalar(value)


def _format_scalar(value: object) -> str:
    return _single_line(value if isinstance(value, str) else canonical_json(value))


def _single_line(text: str) -> str:
    """Return the text in one line, cut, and without tags that would open or close the context block."""
    return _cut(_CONTEXT_TAG.sub("(screen_context", _SPACES.sub(" ", text).strip()), _MAX_VALUE_CHARACTERS)


def _cut(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else text[: max(0, max_characters)] + "…"


# --- the thread's earlier runs ----------------------------------------------------------------------------------------

_BYTES_PER_TOKEN = 3
"""A cautious estimate for English and Korean, because the tokenizer of the model is not available."""


def history(runs: Sequence[Checkpoint], max_tokens: int, *, not_loaded: int = 0) -> History:
    """Return the history of a thread's ended runs, which are in the order of time, in about `max_tokens`.

    The newest run is always in it, shortened in its middle where it must be; the ones before it as many as fit, whole.
    With 0 tokens all are left out. `not_loaded` counts further runs, older than those.
    """
    kept: list[list[JsonObject]] = []
    outside_text: tuple[str, ...] = ()
    is_shortened = False
    free_bytes = max_tokens * _BYTES_PER_TOKEN
    for run in reversed(runs if max_tokens else ()):
        messages = _messages_of(run)
        if size_in_bytes(messages) > free_bytes:
            if kept:
                break
            messages, is_shortened = shorten(messages, free_bytes), True
        free_bytes -= size_in_bytes(messages)
        kept.insert(0, messages)
        outside_text = joined(run.outside_text, outside_text)
    omitted_turns = not_loaded + len(runs) - len(kept)
    return History(
        tuple(message for messages in kept for message in messages), omitted_turns, is_shortened, outside_text
    )


def without_history(checkpoint: Checkpoint) -> tuple[list[JsonObject], int]:
    """Return the conversation of a run without the earlier runs, and the number of runs that it lacks then."""
    first, *others = checkpoint.messages
    count = checkpoint.history_messages
    before = History((), checkpoint.omitted_turns, checkpoint.is_history_shortened)
    after = History((), checkpoint.omitted_turns + sum(message["role"] == "user" for message in others[:count]))
    content = first["content"].removesuffix(f"\n\n{_history_note(before)}")
    return [{**first, "content": f"{content}\n\n{_history_note(after)}"}, *others[count:]], after.omitted_turns


def _messages_of(run: Checkpoint) -> list[JsonObject]:
    """Return the messages of an ended run, from its prompt to its answer or to a note that it has none."""
    start = next(i for i in reversed(range(len(run.messages))) if run.messages[i]["role"] == "user")
    messages = run.messages[start:]
    if run.ending is None:
        return messages
    note = f"(This request ended without an answer: {run.ending.message})"
    last = messages[-1]
    if last["role"] == "assistant" and not last.get("tool_calls"):  # strict servers refuse two of these in a row
        content = "\n\n".join(text for text in (last["content"], note) if text)
        return [*messages[:-1], {**last, "content": content}]
    return [*messages, {"role": "assistant", "content": note}]


def _history_note(history: History) -> str:
    """Return the line that tells the model what it does not see of the thread; empty if it sees all."""
    facts = []
    if history.omitted_turns:
        facts.append(f"the first {history.omitted_turns} earlier turn(s) of this conversation are left out")
    if history.is_shortened:
        facts.append("the newest earlier turn is shortened")
    if not facts:
        return ""
    return f"To save space, {' and '.join(facts)}. If the user refers to a part that you do not see, say so."


# --- an interrupted answer --------------------------------------------------------------------------------------------

CONTINUE_INSTRUCTION = (
    "Your previous answer was cut off by a technical fault. Continue it from exactly where it stops: do not repeat"
    " anything of it, do not apologise, do not comment."
)


def with_continuation(messages: Iterable[JsonObject], streamed: str) -> list[JsonObject]:
    """Return the conversation with a request to continue from the exact text that clients have received already."""
    return [
        *messages,
        {"role": "assistant", "content": streamed},
        {"role": "user", "content": CONTINUE_INSTRUCTION},
    ]
