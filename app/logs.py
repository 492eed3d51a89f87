"""Structured logs: JSON for machines, lines for people. They hold no token, prompt or argument."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


def configure(level: str, format: Literal["json", "console"], secrets: Sequence[str]) -> None:
    """Configure logging, once at the start of a process. The logs of libraries get the same format."""

    def scrub(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """Mask secrets, which exceptions of libraries may quote."""
        for secret in secrets:
            for name, value in event.items():
                if isinstance(value, str):
                    event[name] = value.replace(secret, "***")
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
        scrub,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(format)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for noisy in ("transitions", "httpx", "httpx2", "hypercorn.access", "asyncio", "openai", "psycopg"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _renderer(format: Literal["json", "console"]) -> Processor:
    if format == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
