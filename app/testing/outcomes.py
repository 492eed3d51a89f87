"""What a test reads of a run: the request that waits for a person, the tool calls, and the error of a wrong guess."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

from app.client import ArgumentWarning, ErrorRaised, Hitl
from app.client.response_types import ToolCallRecord

JsonObject = dict[str, Any]


class UnexpectedOutcome(AssertionError):
    """The run, or the model, is not where the test expects it. The message names its state and the remedy."""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """The approval request for which a run waits: the `question` that a person reads, the tool and its `arguments`.

    `warnings` are what in the arguments may deceive the person. `outcome_unknown`: the call was interrupted, may have
    taken effect, and is repeated if the person agrees. `expires_at` is in Unix seconds.
    """

    request_id: str
    question: str
    tool: str
    arguments: JsonObject
    warnings: tuple[ArgumentWarning, ...]
    outcome_unknown: bool
    expires_at: int
    arguments_digest: str

    @classmethod
    def of(cls, event: Hitl) -> Self:
        return cls(
            request_id=event.request_id,
            question=event.message,
            tool=event.action_type,
            arguments=event.context,
            warnings=event.warnings,
            outcome_unknown=bool(event.outcome_unknown),
            expires_at=event.expires_at,
            arguments_digest=event.arguments_digest,
        )

    def __str__(self) -> str:
        return f"{call_text(self.tool, self.arguments)}: {self.question!r}"


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of a run. `status` is requested, started, completed, failed or rejected.

    `approved`: a person has approved these arguments. `outcome_unknown`: it was interrupted, and may have taken effect.
    """

    id: str
    name: str
    arguments: JsonObject
    status: str
    result: Any
    error: str | None
    approved: bool
    outcome_unknown: bool

    @classmethod
    def of(cls, record: ToolCallRecord) -> Self:
        return cls(
            id=record["toolCallId"],
            name=record["toolName"],
            arguments=record["toolArgs"],
            status=record["status"],
            result=record["result"],
            error=record["error"],
            approved=record["decision"] is not None,
            outcome_unknown=record["outcomeUnknown"],
        )


def call_text(name: str, arguments: JsonObject | str) -> str:
    """Return a call as a person writes it, such as `order_stock(item="볼트", count=3)`."""
    if isinstance(arguments, str):
        return f"{name}({arguments})"
    shown = (f"{field}={json.dumps(value, ensure_ascii=False)}" for field, value in arguments.items())
    return f"{name}({', '.join(shown)})"


def error_text(error: ErrorRaised | None) -> str:
    return "" if error is None else f"{error.error_type}: {error.message}"
