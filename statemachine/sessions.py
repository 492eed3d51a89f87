"""Session ids: `session_{userId}_{epoch seconds}_{4 hex}` (§5)."""

from __future__ import annotations

import re
from functools import lru_cache

_SESSION_ID = re.compile(r"session_([A-Za-z0-9.@_-]{1,64})_[0-9]{9,12}_[0-9a-f]{4}")
_UNSAFE = re.compile(r"[^A-Za-z0-9.@_-]")


@lru_cache(maxsize=1024)
def key_safe_user_id(user_id: str) -> str:
    """A user id made safe for keys; two that come to look alike share a counter of ids, never data."""
    return _UNSAFE.sub("-", user_id)[:64] or "-"


def new_session_id(user_id: str, seconds: int, draw: str) -> str:
    """`draw` is four hex digits of the caller's; a taken id is refused when the run is created."""
    return f"session_{key_safe_user_id(user_id)}_{seconds}_{draw}"


def is_session_id(text: str) -> bool:
    return _SESSION_ID.fullmatch(text) is not None


@lru_cache(maxsize=1024)  # every key of every write is made of it
def user_id_of(session_id: str) -> str:
    """The safe form of the user a session belongs to. Raises `ValueError` where it is no session id."""
    match = _SESSION_ID.fullmatch(session_id)
    if match is None:
        raise ValueError(f"{session_id!r} is no session id")
    return match[1]
