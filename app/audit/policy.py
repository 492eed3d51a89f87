"""The policy of a process in its first entry: a digest of the settings that security depends on, and their names."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from app.ports.audit import PolicyLoaded

_RELEVANT = re.compile(
    r"secret|key|jwt|role|approv|reject|hitl|token|unsigned|allow|repositor|audience|audit|console|_per_|per_user"
    r"|max_|limit|retention|url$|host$|tls$|path$|content$|knowledge|mcp"
)


def load_policy(
    settings: Mapping[str, Any], key: bytes, *, version: str, approval_required: Sequence[str]
) -> PolicyLoaded:
    """Describe the settings by name. The digest is keyed, so that nobody can guess a short password."""
    relevant = {name.upper(): _plain(value) for name, value in settings.items() if _RELEVANT.search(name)}
    text = json.dumps([relevant, sorted(approval_required), version], sort_keys=True, default=str)
    digest = hmac.digest(key, text.encode("utf-8", "replace"), "sha256").hex()
    names, risky = tuple(sorted(relevant)), tuple(sorted(approval_required))
    return PolicyLoaded(version=version, digest=digest, names=names, approval_required=risky)


def _plain(value: Any) -> Any:
    """Return a value in a form that is the same in every process."""
    match value:
        case SecretStr():
            return value.get_secret_value()
        case frozenset() | set():
            return sorted(value)
        case tuple() | list():
            return [_plain(item) for item in value]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case _:
            return value
