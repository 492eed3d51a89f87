"""Errors of the Redis driver and error replies of a server, translated to `StorageUnavailable`.

Clients read what kind of failure it is. The driver's text about it is for the log: it names the server's address.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

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

_MAX_DETAIL_CHARACTERS = 300


def unavailable(error: BaseException) -> StorageUnavailable:
    """Return the error that clients get for one of the driver: its kind in words, and its text for the log."""
    text = str(error).splitlines()[0] if str(error) else "no answer in time"
    return StorageUnavailable(_kind(error), detail=f"{type(error).__name__}: {text}"[:_MAX_DETAIL_CHARACTERS])


def _kind(error: BaseException) -> str:
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return "Redis does not allow it to this service"
    if isinstance(error, ResponseError):
        return "Redis refused a command"
    if "timeout" in type(error).__name__.lower():  # of asyncio, the system and the driver
        return "Redis did not answer in time"
    return "Redis cannot be reached"


def translate_reply(reply: Any) -> Any:
    """Return a reply as it is, but a transient error reply as `StorageUnavailable`.

    A `ResponseError` that every repetition of the command would get is returned as it is.
    """
    if isinstance(reply, ResponseError) and not _is_transient(reply):
        return reply
    if isinstance(reply, DRIVER_ERRORS):
        return unavailable(reply)
    return reply


def raise_error_reply(reply: Any) -> None:
    """Raise `StorageUnavailable` where a reply is an error."""
    if isinstance(reply, Exception):
        raise reply if isinstance(reply, StorageUnavailable) else unavailable(reply) from reply


def is_wrong_type(reply: Any) -> bool:
    """Return whether a reply is the refusal of a command because the key holds another type of value."""
    return isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)


def is_refusal(error: StorageUnavailable) -> bool:
    """Return whether Redis refuses the command each time, as what is stored there has another type or form."""
    cause = error.__cause__
    return isinstance(cause, ResponseError) and not _is_transient(cause)


def is_forbidden(error: BaseException) -> bool:
    """Return whether an error is the refusal of a command, a key or a channel by the access rights of the user."""
    if isinstance(error, StorageUnavailable):
        return error.detail.startswith(NoPermissionError.__name__)
    return isinstance(error, NoPermissionError)


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
