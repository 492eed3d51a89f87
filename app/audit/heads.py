"""The heads of chains in the log: the lines `audit.head`, as JSON or with something before the JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from app.audit.chain import Head
from app.audit.verification import KnownHead
from app.ports.audit import ChainName

_EVENT = "audit.head"
_MAX_LINE_CHARACTERS = 10_000


def parse_heads(lines: Iterable[str], source: str) -> Iterator[KnownHead]:
    """Yield the head of each line that has one. A line may begin with what a collector of logs has added."""
    for line in lines:
        if _EVENT in line and len(line) <= _MAX_LINE_CHARACTERS:
            head = _parse(line[line.find("{") :], source)
            if head is not None:
                yield head


def _parse(text: str, source: str) -> KnownHead | None:
    try:
        logged: Any = json.loads(text)
        if logged["event"] != _EVENT:
            return None
        digest = bytes.fromhex(logged["hash"])
        head = Head(int(logged["sequence"]), int(logged["atMillis"]), digest)
        return KnownHead(ChainName(str(logged["tenantId"]), str(logged["chain"])), head, source)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
