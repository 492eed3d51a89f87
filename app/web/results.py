"""Completes the last `content` frame of a stream with the whole answer (§2.2), which is not stored a second time."""

from __future__ import annotations

from app.ports.journal import RunReader
from app.retry import retry_until_available
from statemachine.frames import RESULT_LIMIT_BYTES
from statemachine.results import answer_text, is_last_content, with_result


class AnswerReader:
    """Reads the answer of one run as its frames pass by; a reader that began later reads the log for it."""

    __slots__ = ("_answer", "_is_whole", "_journal", "_session_id")

    def __init__(self, journal: RunReader, session_id: str, *, from_start: bool) -> None:
        self._journal = journal
        self._session_id = session_id
        self._answer: str | None = "" if from_start else None  # None: not known
        self._is_whole = False

    def complete(self, body: bytes) -> bytes | None:
        """Return a frame body as it is sent. None: `fetch` must be called first."""
        if self._answer is not None and not self._is_whole:
            self._answer = _extended(self._answer, body)
        if not is_last_content(body):
            return body
        return None if self._answer is None else with_result(body, self._answer)

    async def fetch(self) -> None:
        """Read the whole answer from the log, as soon as storage is available."""
        self._answer = await retry_until_available(self._read)
        self._is_whole = True

    async def _read(self) -> str:
        answer = ""
        async for body in self._journal.read_bodies(self._session_id):
            answer = _extended(answer, body)
        return answer


def _extended(answer: str, body: bytes) -> str:
    """Return the answer with the next piece, unless it is too long for a result already: nothing more is kept then."""
    return answer if len(answer) > RESULT_LIMIT_BYTES else answer + answer_text(body)
