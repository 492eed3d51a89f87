"""A person at the terminal of a command: what is shown in its order, keys, and editors that are scripts."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from tests.harness.process import Command
from tests.harness.waiting import eventually

_EDITOR = """\
#!{python} -S
import json, os, pathlib, signal, sys, time
file = pathlib.Path(sys.argv[1])
log = pathlib.Path(__file__ + ".json")
openings = json.loads(log.read_text()) if log.exists() else []
turn = len(openings)
text = file.read_text()
modes = [oct(path.stat().st_mode & 0o777) for path in (file, file.parent)]
log.write_text(json.dumps([*openings, {{"path": str(file), "text": text, "modes": modes}}]))
{script}
"""


class ScriptedEditor:
    """An editor that runs a Python script, which knows `file`, its `text`, and the number of the `turn` from 0 on."""

    def __init__(self, folder: Path, script: str) -> None:
        self._path = folder / "editor"
        self._path.write_text(_EDITOR.format(python=sys.executable, script=textwrap.dedent(script)))
        self._path.chmod(0o755)
        self.environment = {"EDITOR": str(self._path), "VISUAL": str(self._path)}

    @property
    def openings(self) -> list[dict[str, Any]]:
        """Of each start the `path` of the file, the `text` in it, and the `modes` of the file and its folder."""
        log = self._path.with_name("editor.json")
        found: list[dict[str, Any]] = json.loads(log.read_text() or "[]") if log.exists() else []
        return found

    @property
    def left_behind(self) -> list[str]:
        """The folders of the file that still exist."""
        folders = [Path(opening["path"]).parent for opening in self.openings]
        return [str(folder) for folder in folders if folder.exists()]


class Screen:
    """What a command shows in its terminal, read in its order."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._seen = 0

    async def wait_for(self, text: str) -> str:
        """Wait until `text` is shown after what was waited for before; returns what was shown since then."""
        command = self.command
        await eventually(lambda: text in command.output[self._seen :] or command.code is not None, 60)
        before, found, _ = command.output[self._seen :].partition(text)
        assert found, command.output
        self._seen += len(before) + len(found)
        return before + found

    async def press(self, keys: str, *, shown: str) -> str:
        """Type the keys, and wait until `shown` is shown."""
        self._seen = len(self.command.output)
        self.command.type(keys)
        return await self.wait_for(shown)

    @property
    def request_id(self) -> str:
        return "req-" + self.command.output.partition("req-")[2][:12]
