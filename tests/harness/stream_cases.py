"""The responses of model servers as data: reads `fixtures/model_streams/` (its format: fixtures/README.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from tests.harness.patterns import matches
from tests.harness.service import FIXTURES

FOLDER = FIXTURES / "model_streams"
_SHARED = FOLDER / "turns.json"
_CHUNK = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
_CHOICE = {"index": 0, "delta": {}, "finish_reason": None}

Piece = str | float | dict[str, Any]
Pattern = Any


class Turn(Struct, frozen=True, forbid_unknown_fields=True):
    """A response to one request: the pieces are texts, chunks, and pauses in seconds.

    With `until_close` the body has no length and ends with its connection.
    """

    pieces: list[Piece] = []
    end: Literal["ok", "cut", "rst", "hang"] = "ok"
    status: int = 200
    ctype: str = "text/event-stream"
    headers: dict[str, str] = {}
    until_close: bool = False
    when: dict[str, Pattern] = {}

    def answers(self, request: Any) -> bool:
        """Whether this response answers a request with this body."""
        return matches(self.when, request)

    def writes(self) -> Iterator[bytes | float]:
        """Yield the bytes of each write, and the pauses."""
        for piece in self.pieces:
            yield float(piece) if isinstance(piece, int | float) else _encoded(piece)

    @property
    def body(self) -> bytes:
        """All bytes of the response's body."""
        return b"".join(write for write in self.writes() if isinstance(write, bytes))


class Expectation(Struct, frozen=True, forbid_unknown_fields=True):
    """How the run ends. `None` stands for a value that is not compared."""

    status: str = "completed"
    answer: str | None = ""
    thoughts: Pattern = ""
    calls: list[tuple[str, dict[str, Any]]] = []
    refused: list[Pattern] = []
    approvals: list[dict[str, Any]] = []
    requests: int | None = 1
    error: str | None = None
    retryable: bool | None = None
    words: list[str] = []
    hides: list[str] = []
    usage: dict[str, int] | None = None
    waits: float = 0
    sent: Pattern = {}
    not_sent: Pattern = None


class Case(Struct, frozen=True, forbid_unknown_fields=True):
    """One case: the responses of a server to the requests of the last of some runs, and how that run ends.

    `turns` holds for each request the possible responses: the first one answers whose condition holds.
    """

    name: str
    right: str
    turns: list[list[Turn]]
    expect: Expectation
    seen: str = ""
    prompts: list[str] = field(default_factory=lambda: ["질문"])
    settings: dict[str, Any] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def responses(self) -> list[Turn]:
        """All responses that a request may get."""
        return [turn for turns in self.turns for turn in turns]


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    what: str
    cases: list[Case]


@cache
def load_cases() -> tuple[Case, ...]:
    """Return the cases of all files in the order of their names. Raises `ValueError` for an error in a file."""
    shared = json.loads(_SHARED.read_text(encoding="utf-8"))
    cases = [case for path in sorted(FOLDER.glob("*.json")) if path != _SHARED for case in _read(path, shared)]
    names = [case.name for case in cases]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two cases have the same name: {', '.join(sorted(twice))}")
    return tuple(cases)


def _read(path: Path, shared: dict[str, Any]) -> list[Case]:
    try:
        file = json.loads(path.read_text(encoding="utf-8"))
        for case in file["cases"]:
            case["turns"] = [_with_shared(turn, shared) for turn in case["turns"]]
        return msgspec.convert(file, _File).cases
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path.name}: {type(error).__name__}: {error}") from error


def _with_shared(turn: Any, shared: dict[str, Any]) -> list[Any]:
    """Return the possible responses of a turn, with the shared ones in place of their names."""
    turns = turn if isinstance(turn, list) else [turn]
    return [shared[each] if isinstance(each, str) else each for each in turns]


def _encoded(piece: str | dict[str, Any]) -> bytes:
    """Return the bytes of a text, or of an event with a chunk, whose only choice may stand for it."""
    if isinstance(piece, str):
        return piece.encode()
    is_choice = "delta" in piece or "finish_reason" in piece
    chunk = {**_CHUNK, "choices": [{**_CHOICE, **piece}]} if is_choice else piece
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
