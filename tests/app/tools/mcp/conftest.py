"""Fixtures of the tests of MCP."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.tools.mcp import connection, stdio


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost servers are connected again, changed lists are read again, and programs that do not end are killed, without
    the pauses of the service."""
    monkeypatch.setattr(connection, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(connection, "_LIST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(connection, "_LIST_PAUSE_FACTOR", 0.0)
    monkeypatch.setattr(stdio, "_EXIT_SECONDS", 0.2)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The file into which the writing tools of `mcp_raw` write."""
    return tmp_path / "record"
