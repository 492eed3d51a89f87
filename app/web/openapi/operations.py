"""What a route says of itself, beside the route: `@operation(...)` under its `@routes.get(...)`.

A new route is in the OpenAPI document as soon as it has one; a test finds those that have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from app.errors import AuraError

_ATTRIBUTE = "described_operation"

Access = Literal["caller", "anybody", "either"]
"""Who may ask. `either`: a caller sees more than anybody does."""

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route. Authentication, the trace id, and the errors that go with them need not be said."""

    summary: str
    data: Any = None
    """The type of the envelope's `data`; None: the answer has none."""
    may_lack_data: bool = False
    status: int = 200
    also: Mapping[int, Any] = field(default_factory=dict)
    """Further answers that are no errors: status → type of `data`; None: no body."""
    errors: tuple[type[AuraError], ...] = ()
    query: type[BaseModel] | None = None
    headers: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    is_body_required: bool = True
    access: Access = "caller"
    is_user_required: bool = False
    """Whether `X-User-ID` is."""
    is_stream: bool = False
    """The answer is an event stream, and so are its errors."""
    media_types: tuple[str, ...] = ()
    """The answer is a document of one of these types; with `data` as well, or an envelope."""


@dataclass(frozen=True, slots=True)
class Route:
    """An operation where it is served: `path` with its parameters in braces."""

    method: str
    path: str
    parameters: tuple[str, ...]
    group: str
    operation: Operation


def operation(summary: str, **rest: Any) -> Callable[[View], View]:
    """Describe a route; `rest` are the fields of `Operation`."""
    described = Operation(summary=summary, **rest)

    def mark(view: View) -> View:
        setattr(view, _ATTRIBUTE, described)
        return view

    return mark


def operation_of(view: Callable[..., Any]) -> Operation | None:
    """What the view was described with."""
    found = getattr(view, _ATTRIBUTE, None)
    return found if isinstance(found, Operation) else None
