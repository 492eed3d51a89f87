"""What comes in: JSON bodies, checked field by field. Bad input gets an error that names the field (§1.1, §1.4)."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, NoReturn, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from quart import Request

from app.errors import FieldInvalid, RequestMalformed
from statemachine.checkpoint import JsonObject
from statemachine.frames import compact_json

CONTEXT_LIMIT_BYTES = 256 * 1024
PROMPT_LIMIT_CHARACTERS = 32_000
_REASON_CHARACTERS = 2000
_DEPTH_LIMIT = 64  # a checkpoint cannot be written with what is nested much deeper
_TOO_DEEP = f"the JSON is nested in more than {_DEPTH_LIMIT} levels"

T = TypeVar("T", bound=BaseModel)


class StreamBody(BaseModel):
    """`POST /aura/test/stream`. Unknown keys are no error."""

    model_config = ConfigDict(extra="ignore")

    prompt: Annotated[str, Field(max_length=PROMPT_LIMIT_CHARACTERS, strict=True)]
    context: JsonObject = Field(default_factory=dict)
    thread_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("it must not be empty")
        return prompt

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

    user_id: str | None = Field(default=None, alias="userId", coerce_numbers_to_str=True)
    reason: Annotated[str, Field(max_length=_REASON_CHARACTERS)] | None = None
    params: JsonObject | None = None
    skip: bool = False


@overload
async def read(incoming: Request, model: type[T]) -> T: ...
@overload
async def read(incoming: Request, model: type[T], *, may_be_empty: bool) -> T | None: ...
async def read(incoming: Request, model: type[T], *, may_be_empty: bool = False) -> T | None:
    """The body as `model`; None for an empty body where that is allowed.

    Raises `RequestMalformed` (not JSON, wrong media type) or `FieldInvalid`.
    """
    raw = await incoming.get_data()
    if not raw.strip() and may_be_empty:
        return None
    media_type = incoming.mimetype
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise RequestMalformed(f"Content-Type: application/json is required, not {media_type[:80] or 'none'}")
    value = _parse(raw)
    if not isinstance(value, dict):
        raise FieldInvalid(f"body: a JSON object is required, not {type(value).__name__}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise FieldInvalid(f"{field}: {first['msg'].removeprefix('Value error, ')}") from None


def _parse(raw: str | bytes) -> Any:
    try:
        value = json.loads(raw, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise RequestMalformed(_TOO_DEEP) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise RequestMalformed(f"the body is not JSON: {error}"[:200]) from None
    if _is_too_deep(value):
        raise RequestMalformed(_TOO_DEEP)
    return value


def _is_too_deep(value: Any) -> bool:
    """Goes down a level at a time, so that it needs no recursion of its own."""
    level = [value]
    for _ in range(_DEPTH_LIMIT + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is beyond any number")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
