"""The fixture `written`: everything that is logged during a test, as the service writes it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app import logs

Written = Callable[[], str]
SECRETS = ["s3cret/of&the service", "s3cret", "it's\\quoted"]
"""What `written` masks."""


@pytest.fixture
def written(request: pytest.FixtureRequest) -> Iterator[Written]:
    """A function that returns the log of the test until now, at the level DEBUG, as JSON or in the given format."""
    buffer = io.StringIO()
    logs.configure("DEBUG", getattr(request, "param", "json"), secrets=SECRETS, output=buffer)
    yield buffer.getvalue
    logs.configure("INFO", "json", secrets=())


def entries(written: Written, event: str) -> list[dict[str, Any]]:
    """Return the lines of one event, from a log in JSON."""
    lines = [json.loads(line) for line in written().splitlines()]
    return [line for line in lines if line["event"].startswith(event)]
