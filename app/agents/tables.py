"""The tables and keys of a file of agents, and the values that each key may have.

The bounds of the limits are those of the settings. What concerns several tables is checked in `app/agents/file.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from app.settings.prompt_file import MAX_PROMPT_BYTES
from app.settings.text_files import did_you_mean
from app.settings.types import parse_options
from statemachine.stored import JsonObject

_AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOOL_PATTERN = re.compile(r"[A-Za-z0-9_.*-]{1,128}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _tool_pattern(pattern: str) -> str:
    if not _TOOL_PATTERN.fullmatch(pattern):
        raise ValueError("the name of a tool is required, in which * stands for any characters, such as crm__*")
    return pattern


def _language(tag: str) -> str:
    if not _LANGUAGE.fullmatch(tag):
        raise ValueError("a BCP 47 tag is required, such as ko or en-GB")
    return tag


def _agent_name(name: str) -> str:
    if not _AGENT_NAME.fullmatch(name):
        raise ValueError("the name of an agent has letters, digits and the characters . _ - only, at most 64")
    return name


def _prompt(text: str) -> str:
    text = text.strip()
    if not text:
        raise ValueError("it is empty; write the instructions into it, or leave the key out")
    if len(text.encode()) > MAX_PROMPT_BYTES:
        raise ValueError(f"it has more than {MAX_PROMPT_BYTES} bytes; shorten it: each request to the model has it")
    return text


def _options(options: JsonObject) -> JsonObject:
    if "model" in options:
        raise ValueError("model cannot be an option: write it as the key model of the agent")
    try:
        parsed: JsonObject = parse_options(json.dumps(options))
    except TypeError:
        raise ValueError("a date or a time has no place in a request; write it as a text in quotes") from None
    return parsed


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
AgentName = Annotated[str, AfterValidator(_agent_name)]


class LimitsTable(BaseModel):
    """`[agents.NAME.limits]`: the keys are fields of `Limits`. An absent key leaves the limit of the settings."""

    model_config = _STRICT

    turns: int | None = Field(default=None, ge=1, le=100)
    run_seconds: float | None = Field(default=None, gt=0)
    approval_seconds: float | None = Field(default=None, gt=0, le=1700)
    tokens: int | None = Field(default=None, ge=0)
    calls_per_turn: int | None = Field(default=None, ge=1, le=127)
    open_approvals: int | None = Field(default=None, ge=1, le=100)
    on_reject: Literal["stop", "replan"] | None = None

    @property
    def given(self) -> JsonObject:
        """The limits that the table has."""
        return self.model_dump(exclude_none=True)


class AgentTable(BaseModel):
    """`[agents.NAME]`."""

    model_config = _STRICT

    description: Annotated[str, Field(max_length=500)] = ""
    prompt: Annotated[str, AfterValidator(_prompt)] | None = Field(default=None, repr=False)
    prompt_file: Text | None = None
    model: Text | None = None
    options: Annotated[dict[str, Any], AfterValidator(_options)] = {}
    tools: list[Annotated[str, AfterValidator(_tool_pattern)]] | None = None
    language: Annotated[str, AfterValidator(_language)] | None = None
    apps: list[Text] = []
    tenants: Annotated[list[Text], Field(min_length=1)] | None = None
    limits: LimitsTable = LimitsTable()


class TenantTable(BaseModel):
    """`[tenants.TENANT]`."""

    model_config = _STRICT

    default: str | None = None


class AgentsTable(BaseModel):
    """The whole file."""

    model_config = _STRICT

    default: str | None = None
    agents: dict[AgentName, AgentTable] = {}
    tenants: dict[str, TenantTable] = {}


_TABLES: dict[tuple[str, ...], type[BaseModel]] = {
    (): AgentsTable,
    ("agents", "*"): AgentTable,
    ("agents", "*", "limits"): LimitsTable,
    ("tenants", "*"): TenantTable,
}


def problems_of(error: ValidationError) -> Iterator[str]:
    """Yield each problem of a file as one line: the path of its key, the cause and the remedy, without its value."""
    for found in error.errors(include_url=False, include_input=False):
        place = tuple(str(part) for part in found["loc"] if part != "[key]")
        yield f"{'.'.join(place) or 'the file'}: {_cause(found['type'], found['msg'], place)}"


def _cause(kind: str, message: str, place: tuple[str, ...]) -> str:
    if kind != "extra_forbidden":
        return message.removeprefix("Value error, ")
    *table, key = place
    wanted = tuple("*" if index == 1 else part for index, part in enumerate(table))
    known = list(_TABLES[wanted].model_fields)
    near = did_you_mean(key, known)
    return f"there is no such key{near or '; possible are ' + ', '.join(known)}"
