"""Why a request to another server failed, in words without its address."""

from __future__ import annotations

import socket
import ssl

import aiohttp
import httpx2

_KINDS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((aiohttp.ClientConnectorDNSError, socket.gaierror), "its name cannot be resolved (DNS)"),
    ((ssl.SSLCertVerificationError,), "its certificate is not trusted (TLS)"),
    ((ssl.SSLError, aiohttp.ClientSSLError), "no encrypted connection can be made (TLS)"),
    ((ConnectionRefusedError,), "it refuses the connection"),
    ((httpx2.ConnectTimeout,), "it does not accept the connection in time"),
    ((httpx2.TimeoutException,), "it does not respond in time"),
    ((httpx2.ConnectError,), "no connection can be made"),
    ((httpx2.UnsupportedProtocol,), "its address cannot be used"),
    ((httpx2.RemoteProtocolError,), "its response is not valid HTTP"),
)
"""The first kind that the error or one of its causes has is the one that counts."""


def describe_failure(error: httpx2.HTTPError) -> str:
    """Return the kind of the failure: DNS, refused, certificate, timeout or a broken connection.

    The text contains no address and can be shown to users; `str(error)` has the details for the log.
    """
    causes = _causes(error)
    kinds = (text for types, text in _KINDS if any(isinstance(cause, types) for cause in causes))
    return next(kinds, "the connection broke")


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error and its causes. aiohttp keeps the system's error as `os_error` and a certificate's apart."""
    found: list[BaseException] = []
    following: list[BaseException | None] = [error]
    while following:
        cause = following.pop()
        if cause is None or cause in found:
            continue
        found.append(cause)
        following += [cause.__cause__, cause.__context__]
        following += [getattr(cause, "os_error", None), getattr(cause, "certificate_error", None)]
    return found
