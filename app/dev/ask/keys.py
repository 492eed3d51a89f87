"""The input of a person: a key that decides an approval request, and arguments that are edited in an editor."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import click
from rich.console import Console

from app.text.hidden import escape_hidden
from statemachine import strict_json
from statemachine.checkpoint import JsonObject
from statemachine.events import Hitl

Choice = Literal["yes", "no", "edit"]

_CHOICES: dict[str, Choice] = {"y": "yes", "n": "no", "e": "edit", "ㅛ": "yes", "ㅜ": "no", "ㄷ": "edit"}
"""The keys, also as a Korean keyboard layout produces them."""
_MAX_DEPTH = 32  # of the edited arguments, as in the service
_CLEAR_LINE = "\r\x1b[K"


class InvalidEdit(Exception):
    """The edited text is not a JSON object, or the editor could not be run."""


async def read_choice(console: Console, request: Hitl) -> Choice | None:
    """Ask for a decision until a key is pressed; None at the deadline. The line is cleared also on cancellation."""
    with _read_keys() as pressed:
        try:
            while (left := _seconds_left(request)) > 0:
                _write(console, f"{_CLEAR_LINE}approve? [y]es [n]o [e]dit  ({left:.0f} s left) ")
                try:
                    async with asyncio.timeout(min(left, 1)):
                        text = await pressed.get()
                except TimeoutError:
                    continue
                for key in text.lower():
                    if key in _CHOICES:
                        return _CHOICES[key]
            return None
        finally:
            clear_line(console)


def clear_line(console: Console) -> None:
    """Erase the current line of the terminal."""
    _write(console, _CLEAR_LINE)


def _seconds_left(request: Hitl) -> float:
    """The time until the deadline (s), at most the timeout: the clock here may be behind the service's."""
    return min(request.expires_at - time.time(), request.timeout_seconds)


@contextmanager
def _read_keys() -> Iterator[asyncio.Queue[str]]:
    """A queue of keys as they are pressed, without Enter and without echo; earlier input is discarded."""
    descriptor, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    pressed: asyncio.Queue[str] = asyncio.Queue()
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    saved = termios.tcgetattr(descriptor)

    def read() -> None:
        data = os.read(descriptor, 1024)
        if not data:  # the terminal was closed
            loop.remove_reader(descriptor)
        pressed.put_nowait(decoder.decode(data))

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield pressed
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)


def _write(console: Console, text: str) -> None:
    console.file.write(text)
    console.file.flush()


async def edit(arguments: JsonObject) -> JsonObject:
    """Let a person edit the arguments in `$EDITOR`, and return them. Raises `InvalidEdit`."""
    text = escape_hidden(json.dumps(arguments, ensure_ascii=False, indent=2)) + "\n"
    # While the editor is open, Ctrl-C must reach only the editor; a Python handler is not inherited by it.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        edited = await asyncio.to_thread(click.edit, text, extension=".json", require_save=False)
    except click.ClickException as error:
        raise InvalidEdit(error.format_message()) from error
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        value = strict_json.parse(edited or "", max_depth=_MAX_DEPTH)
    except ValueError as error:
        raise InvalidEdit(f"that is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidEdit("that is not a JSON object")
    return value
