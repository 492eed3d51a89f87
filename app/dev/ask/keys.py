"""What a person types: a key for an approval, with the seconds left beside it, and edited arguments from an editor."""

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

from statemachine.checkpoint import JsonObject
from statemachine.events import Hitl

Choice = Literal["yes", "no", "edit"]

_CHOICES: dict[str, Choice] = {"y": "yes", "n": "no", "e": "edit", "ㅛ": "yes", "ㅜ": "no", "ㄷ": "edit"}
"""The same keys under a Korean layout, too."""
_CLEAR_LINE = "\r\x1b[K"


class InvalidEdit(Exception):
    """What came out of the editor is no JSON object, or nothing did."""


async def read_choice(console: Console, request: Hitl) -> Choice | None:
    """The key that was pressed; None: the time is up. Cancel it to stop asking; the line is cleared either way."""
    with _read_keys() as typed:
        try:
            while (left := _seconds_left(request)) > 0:
                _write(console, f"{_CLEAR_LINE}approve? [y]es [n]o [e]dit  ({left:.0f} s left) ")
                try:
                    async with asyncio.timeout(min(left, 1)):
                        text = await typed.get()
                except TimeoutError:
                    continue
                for key in text.lower():
                    if key in _CHOICES:
                        return _CHOICES[key]
            return None
        finally:
            clear_line(console)


def clear_line(console: Console) -> None:
    """Take the question away."""
    _write(console, _CLEAR_LINE)


def _seconds_left(request: Hitl) -> float:
    """A clock that is behind the service's must not promise more than there was."""
    return min(request.expires_at - time.time(), request.timeout_seconds)


@contextmanager
def _read_keys() -> Iterator[asyncio.Queue[str]]:
    """Keys as they are pressed, without Enter and without echo; what was typed before is dropped."""
    descriptor, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    typed: asyncio.Queue[str] = asyncio.Queue()
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    saved = termios.tcgetattr(descriptor)

    def read() -> None:
        data = os.read(descriptor, 1024)
        if not data:  # the terminal is gone
            loop.remove_reader(descriptor)
        typed.put_nowait(decoder.decode(data))

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield typed
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)


def _write(console: Console, text: str) -> None:
    console.file.write(text)
    console.file.flush()


async def edit(arguments: JsonObject) -> JsonObject:
    """The arguments after a person changed them in `$EDITOR`. Raises `InvalidEdit`."""
    text = json.dumps(arguments, ensure_ascii=False, indent=2) + "\n"
    # Ctrl-C is the editor's as long as it is open; a handler of ours is not inherited by it.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        edited = await asyncio.to_thread(click.edit, text, extension=".json", require_save=False)
    except click.ClickException as error:
        raise InvalidEdit(error.format_message()) from error
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        value = json.loads(edited or "")
    except ValueError as error:
        raise InvalidEdit(f"that is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidEdit("that is not a JSON object")
    return value
