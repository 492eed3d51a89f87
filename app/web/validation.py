"""Validates requests: JSON bodies, query parameters and headers. An error names the invalid field (§1.1, §1.4)."""

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
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from quart import Request

from app.errors import FieldInvalid, RequestMalformed
from app.runs.queries import MAX_PER_PAGE
from app.web.diagrams import DiagramFormat
from app.web.identifiers import Identifier, printable
from app.web.naming import NamingQuery
from app.web.requests import IncomingRequest
from statemachine import strict_json
from statemachine.frames import compact_json
from statemachine.states import State
from statemachine.stored import JsonObject

CONTEXT_LIMIT_BYTES = 256 * 1024
PROMPT_LIMIT_CHARACTERS = 32_000
URL_LIMIT_BYTES = 8 * 1024
SAME_URL_SECONDS = 60
"""For how long the URL of a GET that has started a run attaches to it: `EventSource` comes back with the same URL."""
_REASON_LIMIT_CHARACTERS = 2000
_DIGEST_CHARACTERS = 64
_AGENT_LIMIT_CHARACTERS = 64
_AGENT = (
    "The name of the agent that runs the prompt. Without it, `context.activeApp` or a default of the service decides."
)
_DEPTH_LIMIT = 64  # a checkpoint cannot be written with what is nested much deeper

T = TypeVar("T", bound=BaseModel)


class StreamBody(BaseModel):
    """The body of `POST /aura/test/stream`. Unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore")

    prompt: Annotated[str, Field(max_length=PROMPT_LIMIT_CHARACTERS, strict=True, json_schema_extra={"pattern": r"\S"})]
    context: Annotated[
        JsonObject,
        Field(description=f"The context of the user's screen, with at most {CONTEXT_LIMIT_BYTES} bytes as JSON."),
        WithJsonSchema({"type": ["object", "null"]}),
    ] = Field(default_factory=dict)
    thread_id: Annotated[Identifier, Field(max_length=200)] | None = None
    same_thread_id: Annotated[Identifier, Field(max_length=200)] | None = Field(
        default=None, alias="threadId", description="The same as `thread_id`."
    )
    agent: Annotated[str, Field(max_length=_AGENT_LIMIT_CHARACTERS, strict=True)] | None = Field(
        default=None, description=_AGENT
    )

    @property
    def thread(self) -> str | None:
        """The thread, under whichever of its two names it was sent."""
        return self.thread_id or self.same_thread_id

    @field_validator("prompt")
    @classmethod
    def _reject_blank(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("the prompt must contain text")
        return prompt

    @field_validator("same_thread_id")
    @classmethod
    def _reject_another_thread(cls, thread_id: str | None, fields: ValidationInfo) -> str | None:
        first = fields.data.get("thread_id")
        if thread_id and first and thread_id != first:
            raise ValueError("it is sent again as thread_id, with another value")
        return thread_id

    @field_validator("thread_id", "same_thread_id", "agent")
    @classmethod
    def _treat_empty_as_absent(cls, name: str | None) -> str | None:
        return name or None

    @field_validator("context", mode="before")
    @classmethod
    def _check_size(cls, context: Any) -> Any:
        if context is None:
            return {}
        try:
            size = len(compact_json(context).encode())
        except UnicodeEncodeError:
            raise ValueError("it contains a lone surrogate, which is not valid Unicode text") from None
        if size > CONTEXT_LIMIT_BYTES:
            raise ValueError(f"it has {size} bytes as JSON, at most {CONTEXT_LIMIT_BYTES} are allowed")
        return context


_Digest = Annotated[str, Field(max_length=_DIGEST_CHARACTERS)]
_DIGEST = "The request's `argumentsDigest` that the person saw. A different one is refused."
_PARAMS = "Arguments that replace those of the tool call."
_SKIP = "Continue the run without this call."


class _DecisionFields(BaseModel):
    """The fields of every decision."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    user_id: Annotated[
        str | None, Field(coerce_numbers_to_str=True), WithJsonSchema({"type": ["string", "number", "null"]})
    ] = Field(default=None, alias="userId", description="The token's `sub`.")
    reason: Annotated[str, Field(max_length=_REASON_LIMIT_CHARACTERS)] | None = None
    arguments_digest: _Digest | None = Field(default=None, alias="argumentsDigest", description=_DIGEST)


class ApproveBody(_DecisionFields):
    """The body of `POST /aura/approvals/{requestId}/approve`."""

    arguments_digest: _Digest = Field(alias="argumentsDigest", description=_DIGEST)
    params: JsonObject | None = Field(default=None, description=_PARAMS)


class RejectBody(_DecisionFields):
    """The body of `POST /aura/approvals/{requestId}/reject`."""

    skip: StrictBool = Field(default=False, description=_SKIP)


class PlatformApproveBody(_DecisionFields):
    """The body of `POST /aura/hitl/approve/{requestId}`."""

    params: JsonObject | None = Field(default=None, description=_PARAMS)


class PlatformRejectBody(RejectBody):
    """The body of `POST /aura/hitl/reject/{requestId}`."""


def _require_digits(value: Any) -> Any:
    """Reject text that is not only ASCII digits, as pydantic accepts `1_0` and `1.0`."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("it must be a whole number in digits")
    return value


Count = Annotated[int, BeforeValidator(_require_digits)]


class PageQuery(BaseModel):
    """The query of a list: the offset of the first entry, and the maximum number of entries."""

    offset: Count = Field(default=0, ge=0, le=1_000_000)
    limit: Count = Field(default=20, ge=1, le=MAX_PER_PAGE)


class RunQuery(PageQuery):
    """The query of `GET /aura/runs`."""

    state: State | None = None
    scope: Literal["own", "all"] = Field(
        default="all", description="`all` runs that the caller may see, or only its `own`."
    )


class AuditQuery(BaseModel):
    """The query of `GET /aura/audit`."""

    limit: Count = Field(default=20, ge=1, le=MAX_PER_PAGE)
    cursor: (
        Annotated[
            str,
            Field(
                pattern=r"^[0-9]{1,18}-[0-9]{1,18}-[A-Za-z0-9.-]{1,80}$",
                description="The `nextCursor` of the page before.",
            ),
        ]
        | None
    ) = None
    kind: Annotated[str, Field(max_length=40, description="Only entries of this kind.")] | None = None
    session_id: Annotated[str, Field(max_length=200, description="Only entries of this run.")] | None = Field(
        default=None, alias="sessionId"
    )


class RunSelector(BaseModel):
    """The query that selects a run."""

    session_id: Identifier | None = Field(default=None, alias="sessionId")


class StreamQuery(RunSelector, NamingQuery):
    """The query of `/aura/test/stream`."""


class StartQuery(StreamQuery):
    """The query of `GET /aura/test/stream`: it selects a run, or starts one where it has a prompt."""

    prompt: str | None = Field(
        default=None,
        description="Start a run with this prompt, unless the request has a `sessionId` or `Last-Event-ID`. The same"
        f" URL again within {SAME_URL_SECONDS} s attaches to that run.",
    )
    message: str | None = Field(default=None, description="An older name of `prompt`.")
    context: str | None = Field(default=None, description="The context of the user's screen, as JSON.")
    thread_id: str | None = None
    same_thread_id: str | None = Field(default=None, alias="threadId", description="The same as `thread_id`.")
    agent: str | None = Field(default=None, description=_AGENT)

    @property
    def body(self) -> StreamBody | None:
        """The body that a POST would have, or None without a prompt. Raises `FieldInvalid`, `RequestMalformed`."""
        if not self.prompt and not self.message:
            return None
        if self.prompt and self.message and self.prompt != self.message:
            raise FieldInvalid("message: it is sent again as prompt, with another value")
        fields: JsonObject = {"prompt": self.prompt or self.message}
        if self.context:
            fields["context"] = _parse_json(self.context, "the query parameter context")
        fields |= {"thread_id": self.thread_id, "threadId": self.same_thread_id, "agent": self.agent}
        return validate(StreamBody, fields)


class TimelineQuery(BaseModel):
    """The query of `GET /aura/runs/{sessionId}/timeline`."""

    format: Literal["json", "trace"] = "json"


class DiagramQuery(RunSelector):
    """The query of `GET /aura/fsm/diagram`."""

    format: DiagramFormat = "mermaid"


class ResumeHeaders(BaseModel):
    """The headers from which the position of a resumed stream is found (§3)."""

    last_event_id: str | None = Field(
        default=None,
        alias="Last-Event-ID",
        description="Send only the events after this one. A request with it never starts a run.",
    )
    session_id: Identifier | None = Field(
        default=None, alias="X-Session-ID", description="The same as the query parameter `sessionId`."
    )


_HEADER_LIMIT_CHARACTERS = 200
HeaderValue = Annotated[Identifier, Field(max_length=_HEADER_LIMIT_CHARACTERS)]
TruncatedHeaderValue = Annotated[str, AfterValidator(lambda text: printable(text)[:_HEADER_LIMIT_CHARACTERS])]
"""A header whose unknown or long values are not an error (§1.2); it is truncated, and loses what no log can show."""


class StartHeaders(ResumeHeaders):
    """The headers that are stored with a run (§1.2), and the idempotency key (§3)."""

    idempotency_key: HeaderValue | None = Field(
        default=None,
        alias="Idempotency-Key",
        description="A second POST with the same key attaches to the run of the first.",
    )
    agent_id: HeaderValue | None = Field(
        default=None,
        alias="X-Agent-ID",
        description="The browser's agent session. It groups runs that have no `thread_id`.",
    )
    source: TruncatedHeaderValue | None = Field(
        default=None, alias="X-DWP-Source", description="The calling system: AURA, FRONTEND, INTERNAL or BATCH."
    )
    caller_type: TruncatedHeaderValue | None = Field(
        default=None, alias="X-DWP-Caller-Type", description="The kind of caller: USER, AGENT or SYSTEM."
    )


class OneTimeCodeBody(BaseModel):
    """The body of `POST /aura/console/token`: the code of a one-time link."""

    model_config = ConfigDict(extra="ignore")

    code: Annotated[str, Field(min_length=1, max_length=200, strict=True)]


@overload
async def read(incoming: Request, model: type[T]) -> T: ...
@overload
async def read(incoming: Request, model: type[T], *, may_be_empty: bool) -> T | None: ...
async def read(incoming: Request, model: type[T], *, may_be_empty: bool = False) -> T | None:
    """Return the request body as `model`, or None where `may_be_empty` is set and the body is empty.

    Raises `RequestMalformed` (not JSON, wrong media type) or `FieldInvalid`.
    """
    raw = await cast("IncomingRequest", incoming).read_body()
    if not raw.strip() and may_be_empty:
        return None
    media_type = incoming.mimetype
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise RequestMalformed(f"Content-Type: send application/json instead of {media_type[:80] or 'no media type'}")
    value = _parse_json(raw)
    if not isinstance(value, dict):
        raise FieldInvalid(f"body: send a JSON object instead of {type(value).__name__}")
    _check_names(model, value)
    return validate(model, value)


def _check_names(model: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Raises `FieldInvalid` where a field comes under two names with different values: only one of them would count."""
    for name, field in model.model_fields.items():
        first = values.get(name)
        if field.alias is not None and {name, field.alias} <= values.keys() and values[field.alias] != first:
            raise FieldInvalid(f"{field.alias}: it is sent again as {name}, with another value")


def validate(model: type[T], values: Mapping[str, Any]) -> T:
    """Return the values as `model`. Raises `FieldInvalid`, which names the first invalid field."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise FieldInvalid(f"{field}: {first['msg'].removeprefix('Value error, ')}") from None


def read_query(incoming: Request, model: type[T]) -> T:
    """Return the query as `model`. Empty values count as absent; of repeated ones the first counts.

    Raises `FieldInvalid`.
    """
    return validate(model, {name: value for name, value in incoming.args.items() if value})


def read_headers(incoming: Request, model: type[T]) -> T:
    """Return the headers of a request as `model`. Empty values count as absent, other headers are ignored.

    Raises `FieldInvalid`, which names the header.
    """
    names = [str(field.alias) for field in model.model_fields.values()]
    return validate(model, {name: value for name in names if (value := incoming.headers.get(name))})


def _parse_json(raw: str | bytes, what: str = "the body") -> Any:
    try:
        return strict_json.parse(raw, max_depth=_DEPTH_LIMIT)
    except strict_json.JsonInvalid as error:
        raise RequestMalformed(f"{what} is not valid JSON: {error}") from None
