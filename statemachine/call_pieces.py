"""Joins the pieces of a turn's tool calls to whole calls.

OpenAI numbers the calls of a turn: pieces with the same index are one call, and only the first of them has an id and a
name. Other servers give every call the index 0, no index or no id, repeat a call, send its text so far with each piece,
or encode its arguments twice. All pieces are joined when the turn has ended, because a later piece can tell how an
earlier one was meant.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct, field

from statemachine.provider_fields import merge_fields
from statemachine.stored import JsonObject
from statemachine.surrogates import repair, repair_json

_EMPTY_ARGUMENTS = "{}"
_MAX_ENCODINGS = 3
"""How often a server may have encoded arguments as JSON text."""


NO_PLACE = -1


class CallPiece(Struct, frozen=True):
    """One piece of a tool call as a server sent it.

    `index` is the number that the server gave to the call (`is_numbered`), else the place of the piece in its list, or
    `NO_PLACE` if the piece came alone. `extras` are fields that only the provider understands.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    is_numbered: bool = True
    extras: JsonObject = {}


class RawCall(Struct, frozen=True):
    """A whole tool call as the model wrote it. `arguments` is its JSON text, `{}` if it has none.

    The text is checked later: it may be no JSON. `name` is empty if the server sent none.
    """

    id: str = ""
    name: str = ""
    arguments: str = _EMPTY_ARGUMENTS
    extras: JsonObject = {}


def join_calls(pieces: Iterable[CallPiece], tool_names: frozenset[str]) -> tuple[RawCall, ...]:
    """Return the calls in the order in which they began.

    A new id, or a new name after complete arguments, at a used index begins a new call. `tool_names` are the tools that
    were offered: they tell a name that is sent in pieces from a second call.
    """
    turn = _OpenTurn()
    for piece in pieces:
        call = turn.continued_by(piece)
        if call is None or _begins_another(call, piece, tool_names):
            turn.begin(_OpenCall(piece.index, piece.id, piece.name, [piece.arguments], piece.extras))
        else:
            call.add(piece, tool_names)
            turn.note_id(call)
    return turn.finished()


class _OpenCall(Struct, eq=False):
    """A call of which further pieces may come."""

    index: int
    id: str
    name: str
    pieces: list[str] = field(default_factory=list)
    extras: JsonObject = {}
    place: int = 0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def is_complete(self) -> bool:
        """Whether the arguments so far are one whole JSON object."""
        return self._may_be_complete and _is_object(self.text)

    @property
    def _may_be_complete(self) -> bool:
        """Whether the arguments end as an object does: parsing them after each piece would take long."""
        last = next((piece.rstrip() for piece in reversed(self.pieces) if piece.strip()), "")
        return last.endswith("}")

    def add(self, piece: CallPiece, tool_names: frozenset[str]) -> None:
        if piece.name and piece.name != self.name:
            self.name = self.name + piece.name if self.is_begun_by(piece.name, tool_names) else self.name or piece.name
        self.id = self.id or piece.id
        self.pieces.append(piece.arguments)
        self.extras = merge_fields(self.extras, piece.extras)

    def is_begun_by(self, rest: str, tool_names: frozenset[str]) -> bool:
        """Whether the name so far and `rest` are pieces of one name."""
        is_possible = bool(self.name) and self.name not in tool_names and not self.text
        return is_possible and any(name.startswith(self.name + rest) for name in tool_names)

    def finished(self) -> RawCall:
        return RawCall(
            id=repair(self.id),
            name=repair(self.name).strip(),
            arguments=repair(_joined_arguments(self.pieces)),
            extras=repair_json(self.extras),
        )


class _OpenTurn:
    """The calls of a turn so far, found by their index and by their id: a turn may have thousands of pieces."""

    def __init__(self) -> None:
        self._calls: list[_OpenCall] = []
        self._by_index: dict[int, _OpenCall] = {}
        self._by_id: dict[str, _OpenCall] = {}

    def begin(self, call: _OpenCall) -> None:
        call.place = len(self._calls)
        self._calls.append(call)
        self._by_index[call.index] = call
        self.note_id(call)

    def note_id(self, call: _OpenCall) -> None:
        """Remember the call under the id that it has by now; of several calls with an id, the latest."""
        known = self._by_id.get(call.id)
        if call.id and (known is None or known.place <= call.place):
            self._by_id[call.id] = call

    def continued_by(self, piece: CallPiece) -> _OpenCall | None:
        """Return the call that the piece may continue, the latest one that fits it."""
        if not piece.is_numbered:
            same_id = self._by_id.get(piece.id)
            if same_id is not None or piece.index == NO_PLACE:
                return same_id or (self._calls[-1] if self._calls else None)
        return self._by_index.get(piece.index)

    def finished(self) -> tuple[RawCall, ...]:
        """Return the whole calls, without those that only repeat the name of another, as some servers' last piece."""
        named = Counter((call.index, call.name) for call in self._calls)
        return tuple(
            call.finished() for call in self._calls if call.id or call.text.strip() or named[call.index, call.name] == 1
        )


def _begins_another(call: _OpenCall, piece: CallPiece, tool_names: frozenset[str]) -> bool:
    """Return whether the piece begins another call at the index of `call`."""
    if piece.id and call.id and piece.id != call.id:
        # Some servers give every piece of a call an id of its own; a piece that begins a call has a name.
        return bool(piece.name) or bool(piece.arguments.strip() and call.is_complete)
    if not (piece.name and call.name):
        return False
    if piece.name != call.name:
        return call.is_complete or not (call.text or call.is_begun_by(piece.name, tool_names))
    if not call.is_complete or _are_same_arguments(piece.arguments, call.text):
        return False
    return bool(piece.arguments.strip()) or not piece.id


def _are_same_arguments(text: str, other: str) -> bool:
    """Return whether both texts are the same JSON object, which may be encoded several times in the first one."""
    decoded = _decode_arguments(text)
    return decoded is not None and _parse(decoded) == _parse(other)


def _joined_arguments(pieces: list[str]) -> str:
    """Return the arguments text: normally the joined pieces, else the reading of them that is a JSON object."""
    text = "".join(pieces)
    readings = [text]
    sent = [piece for piece in pieces if piece.strip()]
    if len(sent) > 1:
        readings.append(sent[-1])  # each piece has the text so far, or the whole call came again
        readings.append("".join(sent[1:]))  # the first piece was a placeholder such as `{}`
    for reading in readings:
        decoded = _decode_arguments(reading)
        if decoded is not None:
            return decoded
    return text


def _decode_arguments(text: str) -> str | None:
    """Return the JSON text of the object in `text`, which may be encoded several times; None if there is no object."""
    for _ in range(_MAX_ENCODINGS):
        if not text.strip():
            return _EMPTY_ARGUMENTS
        value = _parse(text)
        match value:
            case dict():
                return text
            case str():
                text = value
            case None if text.strip() == "null":
                return _EMPTY_ARGUMENTS
            case _:
                return None
    return None


def _is_object(text: str) -> bool:
    return isinstance(_parse(text), dict)


def _parse(text: str) -> Any:
    """Return the JSON value of the text, None if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
