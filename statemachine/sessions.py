"""Session ids: `session_{userId}_{epoch seconds}_{4 hex}` (§5)."""

from __future__ import annotations

import re
from functools import lru_cache

_SESSION_ID = re.compile(r"session_([A-Za-z0-9.@_-]{1,64})_[0-9]{9,12}_[0-9a-f]{4}")
_UNSAFE = re.compile(r"[^A-Za-z0-9.@_-]")


@lru_cache(maxsize=1024)
def key_safe_user_id(user_id: str) -> str:
    """Return the user id with only characters that are safe in a Redis key.

    Two users whose safe ids are equal share the uniqueness of session ids, never data.
    """
    return _UNSAFE.sub("-", user_id)[:64] or "-"


def new_session_id(user_id: str, seconds: int, suffix: str) -> str:
    """Return a session id. `seconds` is the Unix time and `suffix` four random hex digits.

    The id may exist already; the creation of the run refuses it then.
    """
    return f"session_{key_safe_user_id(user_id)}_{seconds}_{suffix}"


def is_session_id(text: str) -> bool:
    return _SESSION_ID.fullmatch(text) is not None


@lru_cache(maxsize=1024)  # each key of each write contains it
def user_id_of(session_id: str) -> str:
    """Return the key-safe id of the session's user. Raises `ValueError` if the text is not a session id."""
    match = _SESSION_ID.fullmatch(session_id)
    if match is None:
        raise ValueError(f"{session_id!r} is not a session id")
    return match[1]
