"""Every private name of redis-py that the service uses: the transport of a connection that redis-py has opened.

Tried with redis-py 7.0.0 and 8.1.0, hiredis 3.2.0 and 3.5.0, on CPython 3.11, 3.12 and 3.13; pyproject.toml excludes
redis-py 9 and hiredis 4. The names:

- `AbstractConnection._writer`, the stream writer of an open connection;
- `DefaultParser.parse_error`, undocumented, which makes an exception of the text of an error reply.

Where one of them is missing, `app.redis.wire.driver_protocol` sends commands and reads replies through redis-py.
`hiredis.PushNotification` is public, but exists from hiredis 3.2 on only: pyproject.toml requires it.
"""

from __future__ import annotations

import asyncio
from typing import cast

from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError


def missing_names() -> list[str]:
    """The names of this module's docstring that the installed redis-py lacks."""
    is_there = {
        "AbstractConnection._writer": hasattr(AbstractConnection, "_writer"),
        "DefaultParser.parse_error": hasattr(DefaultParser, "parse_error"),
    }
    return [name for name, found in is_there.items() if not found]


def transport_of(connection: AbstractConnection) -> asyncio.Transport:
    """The transport of an open connection. Raises redis-py's `ConnectionError` where it has been closed meanwhile."""
    writer = connection._writer  # noqa: SLF001 - it has no public name
    if writer is None or writer.transport.is_closing():
        raise RedisConnectionError("Connection closed by server.")
    return cast("asyncio.Transport", writer.transport)  # uvloop's transport does not inherit from asyncio's


def parse_error(text: str) -> Exception:
    """The exception for the text of an error reply, as redis-py classifies it."""
    parse = getattr(DefaultParser, "parse_error", ResponseError)
    return cast("Exception", parse(text))
