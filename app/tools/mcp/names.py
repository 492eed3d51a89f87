"""The names under which the tools of a server are offered: `server__tool`, at most 64 letters, digits, `_` and `-`."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

from app.ports.mcp_servers import SEPARATOR

MAX_CHARACTERS = 64
_DIGEST_CHARACTERS = 8
_OTHER = re.compile(r"[^a-zA-Z0-9_-]")


def offered_names(server: str, tools: Iterable[str]) -> dict[str, str]:
    """Return the offered name of each tool. It depends on the server's name and on the names of all of its tools.

    A name that cannot be kept as it is, and would be the same as another one, ends in a digest of the original.
    """
    plain = {tool: f"{server}{SEPARATOR}{_OTHER.sub('_', tool)}" for tool in sorted(set(tools))}
    uses = Counter(plain.values())
    names: dict[str, str] = {}
    for tool, name in plain.items():
        is_original = name == f"{server}{SEPARATOR}{tool}"
        is_kept = len(name) <= MAX_CHARACTERS and (is_original or uses[name] == 1)
        names[tool] = name if is_kept else _with_digest(name, tool)
    return names


def _with_digest(name: str, tool: str) -> str:
    digest = hashlib.sha256(tool.encode("utf-8", "replace")).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{name[: MAX_CHARACTERS - _DIGEST_CHARACTERS - 1]}_{digest}"
