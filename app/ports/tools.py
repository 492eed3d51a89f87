"""The tools that the model may call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from statemachine.checkpoint import JsonObject, ToolCall
from statemachine.messages import RequestedCall, ToolFinished


@dataclass(frozen=True, slots=True)
class ToolContext:
    """For whom a tool runs. `idempotency_key` is the same each time the same call is tried."""

    session_id: str
    tenant_id: str
    user_id: str
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class CitedResult:
    """A tool's result together with what it rests on: small JSON objects, shown as `sources` of a thought (§2.2)."""

    result: Any
    sources: tuple[JsonObject, ...]


class Tool(Protocol):
    """One thing the model may ask for. `arguments` is the pydantic model of its arguments, its schema is shown.

    The class docstring's first paragraph is what the model reads. `SecretStr` arguments are kept out of events.
    """

    name: str
    title: str
    arguments: type[BaseModel]
    needs_approval: bool
    idempotent: bool
    timeout_seconds: float | None

    def question(self, arguments: Any) -> str:
        """What the person is asked before it runs, e.g. `이메일을 발송하시겠습니까?`."""
        ...

    async def run(self, arguments: Any, context: ToolContext) -> Any:
        """Do it; a JSON-ready result, or one that is `CitedResult`. Raises `ToolError`, whose words the model reads."""
        ...


class Toolbox(Protocol):
    """All tools, behind one choke point."""

    def schemas(self) -> list[JsonObject]:
        """What the model is offered: the `tools` of a chat completion."""
        ...

    def resolve(self, call_id: str, name: str, raw_arguments: str) -> RequestedCall:
        """What the model asked for, checked; a call that cannot be run says why."""
        ...

    def validate_edit(self, name: str, arguments: JsonObject, original: JsonObject) -> tuple[JsonObject, JsonObject]:
        """An approver's edit: the arguments, and as they may be shown. Raises `FieldInvalid`."""
        ...

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolFinished:
        """Run one started call; a risky one only with the grant for exactly these arguments."""
        ...
