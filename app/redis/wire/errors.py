"""Errors of the Redis driver and error replies of a server, translated to `StorageUnavailable`."""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoPermissionError, ReadOnlyError, RedisError, ResponseError

from app.errors import StorageUnavailable

DRIVER_ERRORS = (RedisError, OSError, RuntimeError)
"""What the driver raises when it cannot connect; uvloop raises `RuntimeError` for a write to a closed transport."""

_TRANSIENT_CODES = (
    "OOM",
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "NOREPLICAS",
    "MISCONF",
)
"""Error codes after which the same command can succeed later, on this server or on its successor."""


def cause_text(error: BaseException) -> str:
    """Return what went wrong, in one line without the address: an address may contain a password."""
    return f"Redis: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer in time'}"[:200]


def translate_reply(reply: Any) -> Any:
    """Return a reply as it is, but a transient error reply as `StorageUnavailable`.

    A `ResponseError` that every repetition of the command would get is returned as it is.
    """
    if isinstance(reply, ResponseError) and not _is_transient(reply):
        return reply
    if isinstance(reply, DRIVER_ERRORS):
        return StorageUnavailable(cause_text(reply))
    return reply


def raise_error_reply(reply: Any) -> None:
    """Raise `StorageUnavailable` where a reply is an error."""
    if isinstance(reply, Exception):
        raise reply if isinstance(reply, StorageUnavailable) else StorageUnavailable(cause_text(reply)) from reply


def is_forbidden(error: BaseException) -> bool:
    """Return whether an error is the refusal of a command, a key or a channel by the access rights of the user."""
    return isinstance(error, NoPermissionError) or "NoPermissionError" in str(error)


def is_read_only(reply: Any) -> bool:
    """Return whether a reply is the refusal of a write by a server that was demoted to a replica."""
    return isinstance(reply, ReadOnlyError) or (isinstance(reply, ResponseError) and " -READONLY " in str(reply))


def _is_transient(error: ResponseError) -> bool:
    """Return whether the same command can succeed later.

    redis-py removes the code from the text of some errors and gives them a class of their own. Redis 6 wraps the error
    of a command inside a script: `ERR Error running script (call to f_…): @user_script:5: -OOM command not allowed …`.
    """
    text = str(error)
    if type(error) is not ResponseError or text.startswith(_TRANSIENT_CODES):
        return True
    return any(f" -{code} " in text for code in _TRANSIENT_CODES)
