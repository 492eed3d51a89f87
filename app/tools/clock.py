"""`get_current_time`: the time in any IANA time zone, from the service's own clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.ports.clock import Clock
from app.ports.tools import ToolContext
from statemachine.stored import JsonObject

# Not `strftime("%A")`, which depends on the machine's locale.
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError for the name of a directory, such as `Asia`
        raise ValueError("unknown IANA time zone; use a name like Asia/Seoul or UTC") from None
    return name


class CurrentTimeArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    timezone: Annotated[str, AfterValidator(_known_zone)] = Field(
        default="Asia/Seoul", max_length=64, description="IANA time zone, e.g. Asia/Seoul, UTC, America/New_York"
    )


class GetCurrentTime:
    """Tell the current date and time, in Korea unless another time zone is given."""

    name: str = "get_current_time"
    title: str = "현재 시각 확인"
    arguments: type[BaseModel] = CurrentTimeArguments
    needs_approval: bool = False
    idempotent: bool = True
    timeout_seconds: float | None = 5

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def question(self, arguments: CurrentTimeArguments) -> str:  # noqa: ARG002 - the signature is the port's
        return "현재 시각을 확인하시겠습니까?"

    async def run(self, arguments: CurrentTimeArguments, context: ToolContext) -> JsonObject:  # noqa: ARG002
        moment = datetime.fromtimestamp(self._clock.now(), UTC).astimezone(ZoneInfo(arguments.timezone))
        return {
            "time": moment.isoformat(timespec="seconds"),
            "timezone": arguments.timezone,
            "weekday": _WEEKDAYS[moment.weekday()],
            "unix": int(moment.timestamp()),
        }
