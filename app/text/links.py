"""Finds the hosts of links and mail addresses in a text, also behind a bracket, a quote or a letter."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

import regex

# What ends a host: blanks, brackets and quotes of every script, and the ASCII characters that no host has. A percent
# sign stays, because programs decode it.
_HOST = r"[^\s\x00-\x24\x26-\x2c\x2f\x3a-\x40\x5b-\x5e\x60\x7b-\x7f\p{Ps}\p{Pe}\p{Pi}\p{Pf}]"
_STARTS = r"(?:https?|ftp|wss?):"
# A link needs no space before it, and programs open it with one slash, many or none, also with backslashes. Its user
# and host end where programs end them, so that a quote or a comma before the `@` hides nothing; a next link is new.
_HOSTS = regex.compile(
    rf"(?:{_STARTS}[/\\]*+|[/\\]{{2,}}+)(?P<link>(?:(?!{_STARTS})[^\s/?#<])*+)"
    rf"|(?<=[^\s\p{{Ps}}\p{{Pi}},;:<>])@(?P<mail>{_HOST}++)"
    r"|(?<![a-z0-9-])(?P<bare>xn--[a-z0-9.-]++)",
    regex.IGNORECASE,
)
"""Linear in the length of the text: no part is tried twice."""
_LINK_HOST = regex.compile(rf"\[[0-9a-f:.]*+\]|{_HOST}*+", regex.IGNORECASE)
_NOT_OF_A_HOST = ".…。、"
"""Marks at the end of a sentence."""


def find_hosts(text: str) -> Iterator[tuple[str, bool]]:
    """Yields each host once, and whether a user name before it (`https://dwp.test@evil.test`) may pass for the host."""
    if "@" not in text and "/" not in text and ":" not in text and "xn--" not in text.lower():
        return
    hosts = (host for found in _HOSTS.finditer(text) for host in _hosts(found))
    yield from dict.fromkeys(host for host in hosts if host[0])


def _hosts(found: regex.Match[str]) -> Iterator[tuple[str, bool]]:
    authority = found["link"]
    if authority is None:
        yield _clean(found["mail"] or found["bare"]), False
        return
    user, _, rest = authority.rpartition("@")
    yield _link_host(rest), bool(user)
    if "\\" in user:  # which browsers take for a slash, so that they open what stands before it
        yield _link_host(user.partition("\\")[0].rpartition("@")[2]), True


def _link_host(text: str) -> str:
    found = _LINK_HOST.match(text)
    return _clean(found[0] if found is not None else "")


def _clean(host: str) -> str:
    return (unquote(host) if "%" in host else host).rstrip(_NOT_OF_A_HOST)
