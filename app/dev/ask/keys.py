"""The key with which a person decides an approval request. A key counts only where it is pressed alone.

What reaches a terminal while a question is open may also be a paste, words that were meant for another window, or a
sequence of a special key, some of which end in `y`. None of these decides.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from rich.console import Console

from app.client.events import Hitl

Choice = Literal["yes", "no", "edit", "discard"]

_KEYS: dict[str, Choice] = {
    "y": "yes",
    "n": "no",
    "e": "edit",
    "d": "discard",
    "ㅛ": "yes",
    "ㅜ": "no",
    "ㄷ": "edit",
    "ㅇ": "discard",
}
"""The keys, also as a Korean keyboard layout produces them."""
_LABELS: dict[Choice, str] = {"yes": "[y]es", "no": "[n]o", "edit": "[e]dit", "discard": "[d]iscard the edit"}
_CLEAR_LINE = "\r\x1b[K"
_MARK_PASTES, _DO_NOT_MARK_PASTES = "\x1b[?2004h", "\x1b[?2004l"
_PASTE_START, _PASTE_END = "\x1b[200~", "\x1b[201~"

_ALONE_SECONDS = 0.3
"""A key is alone if nothing else comes for so long before it and after it."""
_OPENING_SECONDS = 0.5
"""Nothing may come for so long before a new question accepts a key: it might be meant for what was there before."""


class TerminalClosed(Exception):
    """The terminal has no more input, so nobody can decide here."""


async def read_choice(console: Console, request: Hitl, question: str, choices: Sequence[Choice]) -> Choice | None:
    """Ask until the key of a choice is pressed alone; None at the deadline. Raises `TerminalClosed`.

    The line is cleared also on cancellation.
    """
    labels = " ".join(_LABELS[choice] for choice in choices)
    with _read_keys(lambda: _seconds_left(request)) as keys:
        try:
            _write(console, f"{_MARK_PASTES}{_CLEAR_LINE}{question} ")
            await keys.wait_for_silence()
            while (left := _seconds_left(request)) > 0:
                _write(console, f"{_CLEAR_LINE}{question} {labels}  ({left:.0f} s left) ")
                key = await keys.next(min(left, 1))
                if key is None:
                    continue
                if (choice := _KEYS.get(key)) in choices:
                    return choice
                _write(console, f"{_CLEAR_LINE}  nothing was decided: press one of these keys alone\n")
            return None
        finally:
            with contextlib.suppress(OSError):  # the terminal was closed
                _write(console, f"{_DO_NOT_MARK_PASTES}{_CLEAR_LINE}")


def only_key(reads: Sequence[str]) -> str:
    """The key that these reads consist of, in lower case, or empty text where they consist of anything else.

    Enter after it does not matter, unless it came in the same write: then it is a pasted line.
    """
    if len(reads) == 2 and reads[1] in ("\r", "\n"):
        reads = reads[:1]
    return reads[0].lower() if len(reads) == 1 and len(reads[0]) == 1 else ""


def clear_line(console: Console) -> None:
    """Erase the current line of the terminal."""
    _write(console, _CLEAR_LINE)


def _seconds_left(request: Hitl) -> float:
    """The time until the deadline (s), at most the timeout: the clock here may be behind the service's."""
    return min(request.expires_at - time.time(), request.timeout_seconds)


def _write(console: Console, text: str) -> None:
    console.file.write(text)
    console.file.flush()


class _Keys:
    """The keys that are pressed alone, of everything that arrives. What the terminal marks as a paste is dropped."""

    def __init__(self, seconds_left: Callable[[], float]) -> None:
        self._seconds_left = seconds_left
        self._reads: asyncio.Queue[str | None] = asyncio.Queue()
        self._is_pasting = False
        self._tail = ""  # what may be the beginning of a mark, of which the rest has not arrived

    def put(self, text: str | None) -> None:
        """Take what was read from the terminal at once; None where there is no more input."""
        self._reads.put_nowait(text)

    async def wait_for_silence(self) -> None:
        """Drop all input until none has come for a while. Raises `TerminalClosed`."""
        while self._seconds_left() > 0 and await self._read(_OPENING_SECONDS):
            pass

    async def next(self, timeout_seconds: float) -> str | None:
        """The next key, or empty text for input that is not one key alone; None where nothing came in time.

        Raises `TerminalClosed`.
        """
        was_pasting = self._is_pasting
        read = await self._read(timeout_seconds)
        reads: list[str] = []
        while read and self._seconds_left() > 0:
            reads = [*reads, read][:3]  # of endless input, enough to see that it is not one key
            was_pasting |= self._is_pasting
            read = await self._read(_ALONE_SECONDS)
        if not reads:
            return None
        return "" if was_pasting or read else only_key(reads)

    async def _read(self, timeout_seconds: float) -> str:
        try:
            async with asyncio.timeout(timeout_seconds):
                text = await self._reads.get()
        except TimeoutError:
            return ""
        if text is None:
            raise TerminalClosed
        self._tail += text
        start, end = self._tail.rfind(_PASTE_START), self._tail.rfind(_PASTE_END)
        if start != end:
            self._is_pasting = start > end
        self._tail = self._tail[1 - len(_PASTE_START) :]
        return text


@contextmanager
def _read_keys(seconds_left: Callable[[], float]) -> Iterator[_Keys]:
    """The keys as they are pressed, without Enter and without echo; earlier input is dropped."""
    descriptor, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    keys = _Keys(seconds_left)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # damaged input is longer than one key

    def read() -> None:
        try:
            data = os.read(descriptor, 1024)
        except OSError:
            data = b""
        if not data:
            loop.remove_reader(descriptor)
            keys.put(None)
        elif text := decoder.decode(data):
            keys.put(text)

    try:
        saved = termios.tcgetattr(descriptor)
        tty.setcbreak(descriptor)
    except termios.error as error:
        raise TerminalClosed from error
    loop.add_reader(descriptor, read)
    loop.add_signal_handler(signal.SIGCONT, tty.setcbreak, descriptor)  # after Ctrl-Z the shell has set its own modes
    try:
        yield keys
    finally:
        loop.remove_signal_handler(signal.SIGCONT)
        loop.remove_reader(descriptor)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)
