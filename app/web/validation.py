"""What comes in: JSON bodies, queries, headers, checked field by field. Bad input gets an error that names the field
(§1.1, §1.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, cast, overload

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from quart import Request

from app.errors import FieldInvalid, RequestMalformed
from app.runs.queries import MOST_PER_PAGE
from app.web.diagrams import DiagramFormat
from app.web.requests import IncomingRequest
from statemachine import strict_json
from statemachine.checkpoint import JsonObject
from statemachine.frames import compact_json
from statemachine.states import State

CONTEXT_LIMIT_BYTES = 256 * 1024
PROMPT_LIMIT_CHARACTERS = 32_000
_REASON_CHARACTERS = 2000
_DEPTH_LIMIT = 64  # a checkpoint cannot be written with what is nested much deeper

T = TypeVar("T", bound=BaseModel)


class StreamBody(BaseModel):
    """`POST /aura/test/stream`. Unknown keys are no error."""

    model_config = ConfigDict(extra="ignore")

    prompt: Annotated[str, Field(max_length=PROMPT_LIMIT_CHARACTERS, strict=True, json_schema_extra={"pattern": r"\S"})]
    context: Annotated[
        JsonObject,
        Field(description=f"the screen's; at most {CONTEXT_LIMIT_BYTES} bytes as JSON"),
        WithJsonSchema({"type": ["object", "null"]}),
    ] = Field(default_factory=dict)
    thread_id: Annotated[str, Field(max_length=200)] | None = None

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("it must not be empty")
        return prompt

    @field_validator("thread_id")
    @classmethod
    def _empty_is_absent(cls, thread_id: str | None) -> str | None:
        return thread_id or None

    @field_validator("context", mode="before")
    @classmethod
    def _small_enough(cls, context: Any) -> Any:
        if context is None:
            return {}
        try:
            size = len(compact_json(context).encode())
        except UnicodeEncodeError:
            raise ValueError("it holds half a character (a lone surrogate)") from None
        if size > CONTEXT_LIMIT_BYTES:
            raise ValueError(f"it has {size} bytes as JSON, at most {CONTEXT_LIMIT_BYTES} are allowed")
        return context


class DecisionBody(BaseModel):
    """`POST /aura/hitl/approve|reject/{requestId}`."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    user_id: Annotated[
        str | None, Field(coerce_numbers_to_str=True), WithJsonSchema({"type": ["string", "number", "null"]})
    ] = Field(default=None, alias="userId", description="the token's sub")
    reason: Annotated[str, Field(max_length=_REASON_CHARACTERS)] | None = None
    params: JsonObject | None = Field(default=None, description="with approve: arguments instead of the tool's")
    skip: StrictBool = Field(default=False, description="with reject: go on without this call")


def _digits(value: Any) -> Any:
    """Only what everybody calls a number: pydantic would take 1_0 and 1.0, too."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("a number is required")
    return value


Count = Annotated[int, BeforeValidator(_digits)]


class PageQuery(BaseModel):
    """Where a page of a list begins, and how long it is."""

    offset: Count = Field(default=0, ge=0, le=1_000_000)
    limit: Count = Field(default=20, ge=1, le=MOST_PER_PAGE)


class RunQuery(PageQuery):
    """`GET /aura/runs`."""

    state: State | None = None
    scope: Literal["own", "all"] = Field(default="all", description="all that the caller may see, or only his own")


class RunSelector(BaseModel):
    """Which run is meant."""

    session_id: str | None = Field(default=None, alias="sessionId")


class TimelineQuery(BaseModel):
    """`GET /aura/runs/{sessionId}/timeline`."""

    format: Literal["json", "trace"] = "json"


class DiagramQuery(RunSelector):
    """`GET /aura/fsm/diagram`."""

    format: DiagramFormat = "mermaid"


class ResumeHeaders(BaseModel):
    """Where a stream goes on (§3)."""

    last_event_id: str | None = Field(
        default=None, alias="Last-Event-ID", description="the events after it; never starts a run"
    )
    session_id: str | None = Field(default=None, alias="X-Session-ID", description="as ?sessionId=")


_NOTED_CHARACTERS = 200
HeaderValue = Annotated[str, Field(max_length=_NOTED_CHARACTERS)]
TruncatedHeaderValue = Annotated[str, AfterValidator(lambda text: text[:_NOTED_CHARACTERS])]
"""Whatever it is, it is no error (§1.2)."""


class StartHeaders(ResumeHeaders):
    """What is kept on a run (§1.2), and the key under which a repeated POST is the same run (§3)."""

    idempotency_key: HeaderValue | None = Field(
        default=None, alias="Idempotency-Key", description="a second POST with it attaches to the run of the first"
    )
    agent_id: HeaderValue | None = Field(
        default=None, alias="X-Agent-ID", description="groups runs without a thread_id"
    )
    source: TruncatedHeaderValue | None = Field(
        default=None, alias="X-DWP-Source", description="AURA, FRONTEND, INTERNAL, BATCH"
    )
    caller_type: TruncatedHeaderValue | None = Field(
        default=None, alias="X-DWP-Caller-Type", description="USER, AGENT, SYSTEM"
    )


class OneTimeCodeBody(BaseModel):
    """`POST /aura/console/token`: what a one-time link holds."""

    model_config = ConfigDict(extra="ignore")

    code: Annotated[str, Field(min_length=1, max_length=200, strict=True)]


@overload
async def read(incoming: Request, model: type[T]) -> T: ...
@overload
async def read(incoming: Request, model: type[T], *, may_be_empty: bool) -> T | None: ...
async def read(incoming: Request, model: type[T], *, may_be_empty: bool = False) -> T | None:
    """The body as `model`; None for an empty body where that is allowed.

    Raises `RequestMalformed` (not JSON, wrong media type) or `FieldInvalid`.
    """
    raw = await cast("IncomingRequest", incoming).whole_body()
    if not raw.strip() and may_be_empty:
        return None
    media_type = incoming.mimetype
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise RequestMalformed(f"Content-Type: application/json is required, not {media_type[:80] or 'none'}")
    value = _parse(raw)
    if not isinstance(value, dict):
        raise FieldInvalid(f"body: a JSON object is required, not {type(value).__name__}")
    return checked(model, value)


def checked(model: type[T], values: Mapping[str, Any]) -> T:
    """Raises `FieldInvalid`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise FieldInvalid(f"{field}: {first['msg'].removeprefix('Value error, ')}") from None


def read_query(incoming: Request, model: type[T]) -> T:
    """An empty value is an absent one; of repeated ones the first counts. Raises `FieldInvalid`."""
    return checked(model, {name: value for name, value in incoming.args.items() if value})


def read_headers(incoming: Request, model: type[T]) -> T:
    """An empty value is an absent one. Raises `FieldInvalid`."""
    names = [str(field.alias) for field in model.model_fields.values()]
    return checked(model, {name: value for name in names if (value := incoming.headers.get(name))})


def _parse(raw: str | bytes) -> Any:
    try:
        return strict_json.parse(raw, max_depth=_DEPTH_LIMIT)
    except strict_json.JsonInvalid as error:
        raise RequestMalformed(f"the body is not valid JSON: {error}") from None
