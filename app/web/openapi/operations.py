"""The description of a route, written beside it: `@operation(...)` under its `@routes.get(...)`.

A new route appears in the OpenAPI document as soon as it has one. A test fails for routes without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from app.errors import AuraError

_ATTRIBUTE = "described_operation"

Access = Literal["authenticated", "public", "optional"]
"""Who may call an operation. `optional`: without a token the response shows less."""

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The description of one route. Errors of authentication and of reading the request are added automatically."""

    summary: str
    data: Any = None
    """The type of the envelope's `data`; None: the response has no `data`."""
    may_lack_data: bool = False
    has_agent_metadata: bool = False
    """Whether the envelope has `agentMetadata` (§1.4)."""
    status: int = 200
    further_responses: Mapping[int, Any] = field(default_factory=dict)
    """Further responses that are not errors: status → type of `data`; None: no body."""
    errors: tuple[type[AuraError], ...] = ()
    query: type[BaseModel] | None = None
    headers: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    is_body_required: bool = True
    access: Access = "authenticated"
    is_user_required: bool = False
    """Whether the header `X-User-ID` is required."""
    is_stream: bool = False
    """Whether the response, also an error, is an event stream."""
    media_types: tuple[str, ...] = ()
    """The response is a document of one of these types; where `data` is set, it may also be an envelope."""


@dataclass(frozen=True, slots=True)
class Route:
    """An operation with the method and path that serve it. Parameters in `path` are in braces."""

    method: str
    path: str
    parameters: tuple[str, ...]
    group: str
    operation: Operation


def operation(summary: str, **fields: Any) -> Callable[[View], View]:
    """Return a decorator that describes a route; `fields` are those of `Operation`."""
    described = Operation(summary=summary, **fields)

    def describe(view: View) -> View:
        setattr(view, _ATTRIBUTE, described)
        return view

    return describe


def operation_of(view: Callable[..., Any]) -> Operation | None:
    """Return the description of a view; None where it has no `@operation`."""
    found = getattr(view, _ATTRIBUTE, None)
    return found if isinstance(found, Operation) else None
