"""Structured logs: JSON for machines, lines for people. They hold no token, prompt or argument.

What a log line says may come from anybody: from a header, a model's server, a library that quotes either. So every
value is bounded, and no character in it can begin a line of its own or change a terminal.
"""

from __future__ import annotations

import logging
import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, Literal, TextIO
from urllib.parse import quote

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MAX_VALUE_CHARACTERS = 2000
MAX_TRACEBACK_CHARACTERS = 16_000
_MAX_ITEMS = 50
_MAX_DEPTH = 4
_MAX_BITS = 64
_CACHED_TEXTS, _CACHED_CHARACTERS = 2048, 128
"""The identity of a run is in each of its lines, so most values have been cleaned just before."""
_TRACEBACK = "exception"
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_TOKEN = re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*")
"""A signed token (JWT), whose holder acts as its user."""
_IN_URL = re.compile(
    r"(?<=://)[^/?#@\s]+(?=@)|(?<=[?&])[\w.-]*(?:key|token|secret|password|signature)[\w.-]*=[^&\s'\"]+", re.IGNORECASE
)
"""The user and the password of any URL, and parameters that are keys."""


def configure(
    level: str, format: Literal["json", "console"], secrets: Sequence[str], output: TextIO | None = None
) -> None:
    """Configure logging, once at the start of a process. The logs of libraries get the same format and output, which is
    standard error unless it is given.
    """
    output = output or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.format_exc_info,
        _Cleaner(secrets),
        # What comes after it is not from outside.
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    renderer = _renderer(format)
    structlog.configure(
        processors=[*shared, renderer],
        logger_factory=partial(_LineLogger, output),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for noisy in ("transitions", "httpx", "httpx2", "httpcore2", "hypercorn.access", "asyncio", "openai", "psycopg"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _LineLogger:
    """Writes the lines of this project's loggers, without the records of `logging`, which cost more than the rest of a
    line. Libraries still use those.
    """

    def __init__(self, file: TextIO, name: str = "") -> None:
        self.name = name
        self._file = file

    def msg(self, line: str) -> None:
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except (OSError, ValueError):
            pass  # the reader of the log is gone: as in `logging`, that does not stop what is logged

    debug = info = warning = error = critical = exception = msg


class _Cleaner:
    """Masks secrets and tokens, which exceptions of libraries may quote, and bounds and escapes every value."""

    def __init__(self, secrets: Sequence[str]) -> None:
        spellings = {spelling for secret in secrets if secret for spelling in _spellings(secret)}
        self._secrets = sorted(spellings, key=len, reverse=True)  # the longest first: one may be a part of another
        self._cached_text = lru_cache(maxsize=_CACHED_TEXTS)(self._text)

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {name: self._clean(value, name) for name, value in event.items()}

    def _clean(self, value: Any, name: str, depth: int = _MAX_DEPTH) -> Any:
        if type(value) is str and len(value) <= _CACHED_CHARACTERS and name != _TRACEBACK:
            return self._cached_text(value)
        if value is None or isinstance(value, bool | float) or name.startswith("_"):
            return value  # a name with `_` is structlog's own, and is removed before the line is written
        if isinstance(value, int) and value.bit_length() <= _MAX_BITS:
            return value
        if isinstance(value, dict) and depth:
            items = list(value.items())[:_MAX_ITEMS]
            return {self._text(str(key)): self._clean(item, name, depth - 1) for key, item in items}
        if isinstance(value, list | tuple | set | frozenset) and depth:
            return [self._clean(item, name, depth - 1) for item in list(value)[:_MAX_ITEMS]]
        # Masked before anything is cut: a part of a secret would not be recognised.
        text = self._masked(hex(value) if isinstance(value, int) else str(value))
        return _traceback(text) if name == _TRACEBACK else _line(text)

    def _text(self, text: str) -> str:
        return _line(self._masked(text))

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        if "eyJ" in text:
            text = _TOKEN.sub("***", text)
        return _IN_URL.sub("***", text) if "://" in text or "?" in text or "&" in text else text


def _line(text: str) -> str:
    """Return the text on one line, with every character that is more than a letter escaped, and not too long."""
    kept = text[:MAX_VALUE_CHARACTERS]
    line = kept if kept.isascii() and kept.isprintable() else "".join(map(_escaped, kept))
    return line if len(text) == len(kept) else f"{line}…[{len(text)} characters]"


def _traceback(text: str) -> str:
    """Return a stack trace: its lines are indented, so that none of them looks like a line of the log.

    Its end says what went wrong, so a long one is cut at the beginning.
    """
    kept = text if len(text) <= MAX_TRACEBACK_CHARACTERS else f"…{text[-MAX_TRACEBACK_CHARACTERS:]}"
    return "\n".join(f"  {_line(line)}" for line in kept.split("\n"))


def _spellings(secret: str) -> set[str]:
    """Return a secret as it is, as URLs have it, and as errors quote it."""
    return {secret, quote(secret, safe=""), repr(secret)[1:-1]}


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _REFUSED_CATEGORIES:
        return character
    return character.encode("unicode_escape").decode()


def _renderer(format: Literal["json", "console"]) -> Processor:
    if format == "json":
        return structlog.processors.JSONRenderer(_json)
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def _json(event: EventDict, **_: object) -> str:
    """Encode an event. JSON has the types of cleaned values; only a subclass of a number is none that msgspec knows."""
    return msgspec.json.encode(event, enc_hook=str).decode()
