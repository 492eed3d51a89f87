"""Where Redis is: what `REDIS_URL` says (CONTRACT §5), read once for the settings and for the adapter."""

from __future__ import annotations

from typing import NamedTuple, Self
from urllib.parse import parse_qsl, urlencode

_SENTINEL = "+sentinel"
_PORT = 6379
_SENTINEL_PORT = 26379
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")


class Server(NamedTuple):
    """A host name or an IP address (IPv6 without brackets), and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int = _PORT) -> Self:
        """Read `host`, `host:port`, `[IPv6]` or `[IPv6]:port`. Raises `ValueError`."""
        if text.startswith("["):
            inner, closed, rest = text[1:].partition("]")
            host, port = (inner if closed else ""), rest.removeprefix(":")
            is_whole = bool(closed) and (not rest or rest.startswith(":"))
        else:
            host, colon, port = text.partition(":")
            is_whole = not colon or bool(port)
        if not host or not is_whole or (port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536)):
            raise ValueError
        return cls(host, int(port or default_port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RedisAddress(NamedTuple):
    """A standalone server, the seeds of a cluster (several servers), or the sentinels that watch a master."""

    text: str
    """The URL as it was given."""
    servers: tuple[Server, ...]
    """The servers or seeds, or the sentinels; none where the URL names a socket in the file system."""
    master: str | None
    """The name under which the sentinels know the master; None without sentinels."""
    scheme: str
    credentials: str
    """`user:password@` as in the URL, or empty."""
    database: int
    options: str
    """The query, whose options are those of the driver."""
    sentinel_credentials: tuple[str | None, str | None]
    """The user name and the password for the sentinels."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL. Raises `ValueError` with the cause, which never contains the password."""
        scheme, _, rest = text.partition("://")
        if scheme == "unix":
            return cls(text, (), None, scheme, "", 0, "", (None, None))
        if scheme not in ("redis", "rediss", "redis+sentinel", "rediss+sentinel"):
            raise ValueError("it must begin with one of redis://, rediss://, unix://, redis+sentinel://")
        is_sentinel = scheme.endswith(_SENTINEL)
        place, _, query = rest.partition("?")
        authority, _, path = place.partition("/")
        credentials, at, hosts = authority.rpartition("@")
        try:
            default_port = _SENTINEL_PORT if is_sentinel else _PORT
            servers = tuple(Server.parse(host, default_port) for host in hosts.split(","))
        except ValueError:
            raise ValueError("host and port cannot be read; special characters of a password are %-escaped") from None
        master, database = _split_path(path.strip("/"), is_sentinel=is_sentinel)
        options = dict(parse_qsl(query, keep_blank_values=True))
        user, password = (options.pop(name, None) for name in _SENTINEL_OPTIONS)
        return cls(
            text,
            servers,
            master,
            scheme.removesuffix(_SENTINEL),
            credentials + at,
            database,
            urlencode(options),
            (user, password),
        )

    @property
    def url_of_socket(self) -> str | None:
        """The URL of a socket in the file system, for the driver; None where the address names servers."""
        return None if self.servers else self.text

    def url_of(self, server: Server) -> str:
        """Return the URL of one of the servers, for the driver."""
        options = f"?{self.options}" if self.options else ""
        return f"{self.scheme}://{self.credentials}{server}/{self.database}{options}"


def _split_path(path: str, *, is_sentinel: bool) -> tuple[str | None, int]:
    """Return the master's name, where there are sentinels, and the number of the database."""
    master, _, database = path.partition("/") if is_sentinel else ("", "", path)
    if database and not (database.isascii() and database.isdecimal()):
        raise ValueError("after the host only the number of a database may follow, like /0")
    if is_sentinel and not master:
        raise ValueError("after the sentinels the name of the master must follow, like /mymaster")
    return (master if is_sentinel else None), int(database or 0)
