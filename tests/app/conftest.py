"""Fixtures of the service's tests, and plain log lines: structlog's default draws every variable of a traceback."""

from app import logs
from tests.harness.asked import asked
from tests.harness.asking import mail, mailing

__all__ = ["asked", "mail", "mailing"]

logs.configure("INFO", "json", secrets=())
