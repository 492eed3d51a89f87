"""Arguments as text for a person's editor, and back. Only a file that was changed and left normally becomes an edit.

The file is readable by its owner alone, in a folder of its own, so that copies which an editor makes beside it are
removed with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import termios
from dataclasses import dataclass
from pathlib import Path

from app.dev.ask.keys import TerminalClosed
from app.text.hidden import escape_hidden
from app.tools.arguments import LIMIT_DEPTH
from statemachine import strict_json
from statemachine.stored import JsonObject

_HANG_UP_SECONDS = 2.0
_EDITOR_COMMAND = """\
editor=${VISUAL:-$EDITOR}
if [ -z "$editor" ]; then
  for editor in sensible-editor vim nano vi; do if command -v "$editor" > /dev/null; then break; fi; done
fi
eval "exec $editor \\"\\$1\\""
"""
"""As git and others do, by a shell: the value of the variables is a command with arguments."""


class InvalidEdit(Exception):
    """The edited text is not a JSON object. The message is the cause as one line."""


@dataclass(frozen=True, slots=True)
class Edited:
    """The text in the file after the editor has exited, and why it is no edit, where the editor did not exit normally.

    The text is kept in both cases: a person may have typed it.
    """

    text: str
    problem: str | None = None


def to_text(arguments: JsonObject) -> str:
    """The arguments as JSON for an editor. Characters that an editor may hide are written as escapes."""
    return escape_hidden(json.dumps(arguments, ensure_ascii=False, indent=2)) + "\n"


def to_arguments(text: str) -> JsonObject:
    """Parse an edited text by the rules of the service, which refuses a key that occurs twice. Raises `InvalidEdit`."""
    try:
        value = strict_json.parse(text, max_depth=LIMIT_DEPTH)
        json.dumps(value, ensure_ascii=False).encode()
    except strict_json.JsonInvalid as error:
        raise InvalidEdit(f"that is not JSON: {error}") from None
    except UnicodeEncodeError:
        raise InvalidEdit("that is not JSON: half of a character (a lone surrogate) cannot be sent") from None
    if not isinstance(value, dict):
        raise InvalidEdit("that is not a JSON object")
    return value


async def edit(text: str) -> Edited:
    """Open the text in `$VISUAL` or `$EDITOR`, and wait until that has exited. It exits where the caller is cancelled.

    While it is open, Ctrl-C reaches only the editor. Afterwards the terminal has the modes that it had before.
    """
    descriptor = sys.stdin.fileno()
    edited = Edited(text)
    try:
        modes = termios.tcgetattr(descriptor)
        before = signal.signal(signal.SIGINT, lambda *_: None)  # unlike SIG_IGN, the editor does not inherit a handler
        try:
            with tempfile.TemporaryDirectory(prefix="aura-edit-") as folder:
                path = Path(folder, "arguments.json")
                _write(path, text)
                problem = await _run_editor(path)
                edited = Edited(_read(path), problem)
        finally:
            signal.signal(signal.SIGINT, before)
            termios.tcsetattr(descriptor, termios.TCSADRAIN, modes)
    except termios.error as error:
        raise TerminalClosed from error
    except UnicodeDecodeError:
        return Edited(text, "the edited file is not UTF-8, its text could not be read")
    except OSError as error:
        return Edited(edited.text, f"the file of the editor: {error.strerror or error}")
    return edited


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text.encode())


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")


async def _run_editor(path: Path) -> str | None:
    """Return why the editor did not exit normally: it is missing, was killed, or has an exit code other than 0."""
    editor = await asyncio.create_subprocess_exec("sh", "-c", _EDITOR_COMMAND, "sh", path)
    try:
        code = await editor.wait()
    finally:
        if editor.returncode is None:
            await _hang_up(editor)
    if code == 0:
        return None
    cause = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"the editor did not exit normally ({cause})"


async def _hang_up(editor: asyncio.subprocess.Process) -> None:
    """Make the editor exit as the closing of its terminal does."""
    for number in (signal.SIGHUP, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            editor.send_signal(number)
            async with asyncio.timeout(_HANG_UP_SECONDS):
                await editor.wait()
                return
