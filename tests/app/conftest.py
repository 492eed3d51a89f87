"""Fixtures of the service's tests, and plain log lines: structlog's default draws every variable of a traceback."""

import pytest

from app import logs
from tests.harness.approvals import waiting_run
from tests.harness.clients import mail, mailing, start_ask
from tests.harness.logged import written

__all__ = ["mail", "mailing", "start_ask", "waiting_run", "written"]


@pytest.fixture(autouse=True)
def _plain_logs() -> None:
    """Before each test: a command that ran in the one before has set them up for itself."""
    logs.configure("INFO", "json", secrets=())
