"""How a URL of the settings becomes the parameters of a connection to PostgreSQL."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.errors import ConfigurationError

CONNECT_SECONDS = 3
_LOST_AFTER_MS = 10_000
"""After this time without an acknowledgement a connection counts as lost."""


def conninfo_of(url: str, setting: str, application_name: str) -> str:
    """Return the connection string for a URL; what the URL says itself stays.

    `setting` is the variable that holds the URL. Raises `ConfigurationError`, which names it and not the password.
    """
    defaults: dict[str, str | int] = {
        "application_name": application_name,
        "client_encoding": "utf8",
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": _LOST_AFTER_MS,
    }
    try:
        given = conninfo_to_dict(url)
        return make_conninfo(url, **{name: value for name, value in defaults.items() if name not in given})
    except psycopg.Error:  # its message may contain the password
        raise ConfigurationError(
            f"{setting}: it is not a valid PostgreSQL URL: percent-encode special characters in user and"
            " password, and check the parameter names after the question mark"
        ) from None
