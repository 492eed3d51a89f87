"""The names of the events that a stream's query asks for (§2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from pydantic import BaseModel, Field

from statemachine.event_names import ErrorEvent, EventNames, Naming


class NamingQuery(BaseModel):
    """The query that selects the names of the events."""

    events: EventNames | None = Field(
        default=None,
        description="The names of the events: Aura's own, or those of the platform's workspace page. Default: the"
        " setting `AURA_EVENT_NAMES`.",
    )
    error_event: ErrorEvent = Field(
        default="error",
        alias="errorEvent",
        description="The name of the SSE event for errors; `EventSource` reports its own errors as `error`.",
    )

    def naming(self, default: EventNames) -> Naming:
        """Return the names that this query asks for; `default` is what the service is set to."""
        return Naming(self.events or default, self.error_event)


def naming_of_refused(query: Mapping[str, str], default: EventNames) -> Naming:
    """Return the names for the frames that refuse a request: those it asks for, as far as they exist."""
    known = {"events": get_args(EventNames), "errorEvent": get_args(ErrorEvent)}
    asked = {name: query[name] for name, choices in known.items() if query.get(name) in choices}
    return NamingQuery.model_validate(asked).naming(default)
