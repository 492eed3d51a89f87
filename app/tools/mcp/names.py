"""The names under which the tools of a server are offered: `server__tool`, at most 64 letters, digits, `_` and `-`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

SEPARATOR = "__"
MAX_CHARACTERS = 64
_DIGEST_CHARACTERS = 8
_OTHER = re.compile(r"[^a-zA-Z0-9_-]")


def offered_names(server: str, tools: Iterable[str]) -> dict[str, str]:
    """Return the offered name of each tool. It depends on the server's name and on the names of all of its tools.

    A name that cannot be kept as it is, and would be the same as another one, ends in a digest of the original.
    """
    originals = sorted(set(tools))
    plain = {tool: f"{server}{SEPARATOR}{_OTHER.sub('_', tool)}" for tool in originals}
    kept = {name for tool, name in plain.items() if name == f"{server}{SEPARATOR}{tool}"}
    names: dict[str, str] = {}
    for tool, name in plain.items():
        is_original = name == f"{server}{SEPARATOR}{tool}"
        others = [other for other, same in plain.items() if same == name and other != tool]
        if len(name) <= MAX_CHARACTERS and (is_original or (name not in kept and not others)):
            names[tool] = name
        else:
            names[tool] = _with_digest(name, tool)
    return names


def _with_digest(name: str, tool: str) -> str:
    digest = hashlib.sha256(tool.encode("utf-8", "replace")).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{name[: MAX_CHARACTERS - _DIGEST_CHARACTERS - 1]}_{digest}"
