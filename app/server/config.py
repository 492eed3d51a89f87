"""Hypercorn's configuration from `hypercorn.toml`, and the listening socket that it names."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from hypercorn.config import Config

from app.errors import ConfigurationError

_APP_FOLDER = Path(__file__).parents[1]


def load_config(bind: str | None = None) -> Config:
    """Read `hypercorn.toml`. `bind` (`HOST:PORT`, `fd://N` or `unix:PATH`) overrides its address."""
    candidates = (_APP_FOLDER.parent / "hypercorn.toml", _APP_FOLDER / "hypercorn.toml")  # a checkout, or a wheel
    config = Config.from_toml(next(path for path in candidates if path.is_file()))
    config.errorlog = logging.getLogger("hypercorn.error")  # by default Hypercorn adds a handler of its own
    if bind is not None:
        config.bind = [bind]
    return config


def bind_socket(config: Config) -> socket.socket:
    """Open the listening socket on the first address of `config`.

    Raises `ConfigurationError` where the address is malformed or cannot be bound.
    """
    bind = config.bind[0]
    host, _, port = bind.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=config.backlog)
    except (OSError, ValueError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        cause = os.strerror(number) if number is not None and number > 0 else str(error)
        raise ConfigurationError(f"--bind {bind}: {cause}") from None
