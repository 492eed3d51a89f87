"""The names under which a reader gets the events (§2.2): Aura's own, or those of the platform's workspace page.

Events are stored under Aura's names alone. A frame is renamed when it is read, so ids, order and resuming are the same
for every reader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

EventNames = Literal["aura", "workspace"]
ErrorEvent = Literal["error", "aura-error"]

Fields = dict[str, msgspec.Raw]
"""The fields of a message, each as its JSON: what an approver sees keeps its spelling."""

WORKSPACE_NAMES: dict[str, str] = {
    "start": "stream_status",
    "thought": "thought_chain",
    "tool_execution": "action_execution",
    "hitl": "hitl_request",
    "end": "stream_status",
}
"""Event type → its name on the workspace page. Types that are missing here have the same name there."""
WORKSPACE_TOOL_STATUSES: dict[str, str] = {
    "executing": "executing",
    "completed": "completed",
    "failed": "failed",
    "rejected": "failed",
}
"""Status of a tool call → its status on the workspace page. A status that is missing here is not sent."""
STARTED = "started"

_ENVELOPE = frozenset({"type", "version", "timestamp", "sessionId", "data"})
_ERROR_LINE = b"event: error\n"
_decode = msgspec.json.Decoder(Fields).decode
_encode = msgspec.json.Encoder().encode


class Naming(NamedTuple):
    """The names that the reader of one stream wants.

    `error_event` is the name of the SSE event `error`: `EventSource` reports its own errors under that name. The `type`
    in the event's JSON stays.
    """

    names: EventNames = "aura"
    error_event: ErrorEvent = "error"

    def apply(self, body: bytes) -> bytes | None:
        """Return the body of a frame under these names, or None where the reader gets no such event."""
        if self.error_event != "error" and body.startswith(_ERROR_LINE):
            return b"event: %b\n" % self.error_event.encode() + body.removeprefix(_ERROR_LINE)
        return body if self.names == "aura" else to_workspace(body)


def to_workspace(body: bytes) -> bytes | None:
    """Return the body of a frame as the workspace page reads it; None for a tool call that is only pending.

    The page reads `data`, so an event that is renamed has its fields there in every shape. A `thought_chain` has its
    `content` there alone: other readers append the `content` beside an unknown `type` to the answer.
    """
    event_line, _, data_line = body.partition(b"\n")
    type = event_line.removeprefix(b"event: ").decode()
    if type not in WORKSPACE_NAMES:
        return body
    beside = _decode(data_line.removeprefix(b"data: "))
    under = _decode(beside["data"]) if "data" in beside else _without(beside, "type", "version")
    changed = _CHANGES[type](under)
    if changed is None:
        return None
    under |= changed
    if not beside.keys() <= _ENVELOPE:  # the fields are beside `type` too
        beside |= _without(changed, "type")
        if type == "thought":
            beside = _without(beside, "content")
    name = WORKSPACE_NAMES[type]
    message = {**beside, "type": _raw(name), "data": _raw(under)}
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(message))


def _start(_: Fields) -> Fields:
    return {"status": _raw(STARTED)}


def _thought(fields: Fields) -> Fields:
    return {"type": fields["thoughtType"]}


def _tool_execution(fields: Fields) -> Fields | None:
    status = WORKSPACE_TOOL_STATUSES.get(msgspec.json.decode(fields["status"], type=str))
    return None if status is None else {"status": _raw(status)}


def _hitl(fields: Fields) -> Fields:
    return {"id": fields["requestId"]}


def _end(_: Fields) -> Fields:
    return {}


_CHANGES: dict[str, Callable[[Fields], Fields | None]] = {
    "start": _start,
    "thought": _thought,
    "tool_execution": _tool_execution,
    "hitl": _hitl,
    "end": _end,
}
"""Event type → the fields that its renamed event has besides or instead of its own; None: it is not sent."""


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))


def _without(fields: Fields, *names: str) -> Fields:
    return {name: value for name, value in fields.items() if name not in names}
