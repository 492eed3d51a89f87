"""`get_current_time`, and the selection of tools by the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from app.errors import ConfigurationError
from app.tools.built_in import KNOWN_TOOL_NAMES, configured_tools
from app.tools.clock import CurrentTimeArguments, GetCurrentTime
from app.tools.mail import Encryption


@dataclass(frozen=True)
class Settings:
    smtp_host: str | None = None
    smtp_port: int = 587
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    smtp_from: str | None = None
    smtp_tls: Encryption = "starttls"
    github_token: SecretStr | None = None
    aura_github_repositories: dict[str, frozenset[str]] | None = None
    github_api_url: str = "https://api.github.com"


async def test_the_default_time_zone_is_seoul(clock: Any, context: Any) -> None:
    tool = GetCurrentTime(clock)
    assert await tool.run(CurrentTimeArguments(), context) == {
        "time": "2024-01-25T12:00:00+09:00",
        "timezone": "Asia/Seoul",
        "weekday": "Thursday",
        "unix": 1706151600,
    }
    utc = await tool.run(CurrentTimeArguments(timezone="UTC"), context)
    assert utc["time"] == "2024-01-25T03:00:00+00:00"


@pytest.mark.parametrize("name", ["Mars/Olympus", "Asia", "../../etc/passwd", "/etc/localtime", "", "\0", "a" * 65])
def test_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        CurrentTimeArguments(timezone=name)


def test_tool_without_its_service_is_not_offered(clock: Any) -> None:
    def names(settings: Settings) -> list[str]:
        return [tool.name for tool in configured_tools(settings, clock)]

    assert names(Settings()) == ["get_current_time"]
    assert names(Settings(smtp_host="mail.test")) == ["get_current_time"]
    assert names(Settings(smtp_host="mail.test", smtp_from="a@b.test")) == ["get_current_time", "send_email"]
    everything = Settings(smtp_host="mail.test", smtp_from="a@b.test", github_token=SecretStr("t"))
    assert set(names(everything)) == KNOWN_TOOL_NAMES - {"search_workspace"}, "that one needs a workspace"


@pytest.mark.parametrize("sender", ["nobody", "a@b@c", "Aura", "a@"])
def test_sender_without_a_valid_address_prevents_the_start(clock: Any, sender: str) -> None:
    with pytest.raises(ConfigurationError, match="SMTP_FROM"):
        configured_tools(Settings(smtp_host="mail.test", smtp_from=sender), clock)
