"""A tool call: its status, the grant of the person who approved it, and the warnings about its arguments."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import field

from statemachine.masking import Path, mask_values
from statemachine.stored import JsonObject, StoredStruct

ConfidenceSource = Literal["logprobs", "model", "none"]


class Confidence(StoredStruct, frozen=True):
    """How sure the model is (0–1) and the source of that number; `none` means that the value is unknown (§2.2)."""

    UNKNOWN: ClassVar[Confidence]

    value: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    source: ConfidenceSource = "none"

    @property
    def if_known(self) -> tuple[float, ConfidenceSource] | tuple[None, None]:
        """The value and its source; `(None, None)` where it is unknown, which most events leave out (§2.2)."""
        return (None, None) if self.source == "none" else (self.value, self.source)


Confidence.UNKNOWN = Confidence()


class CallStatus(StrEnum):
    """The status of a tool call: requested, started, then one outcome. Each is committed before the next."""

    REQUESTED = "requested"
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"


Via = Literal["http", "redis"]
"""The way by which a decision came: Aura's own HTTP, where the caller has a token, or another service's writes."""


class Grant(StoredStruct, frozen=True, kw_only=True):
    """A person's approval of one call with exactly the arguments of `arguments_digest`. It is used at most once.

    `decider_told`: another service told who decided; else the name is from a token that Aura has verified.
    """

    request_id: str
    arguments_digest: str
    decided_by: str | None = None
    decided_at: float
    edited: bool = False
    via: Via | None = None
    decider_told: bool = False


class ArgumentWarning(msgspec.Struct, frozen=True):
    """What may deceive an approver in the arguments of a call. `code` is the kind, such as `invisible`; `field` is the
    path of the argument, such as `to[1]`; `message` is for people.

    It is a part of events too, so fields that a later version adds are ignored.
    """

    code: str
    field: str
    message: str


class ResolvedCall(StoredStruct, frozen=True, kw_only=True):
    """A tool call with the properties of its tool.

    `arguments` are passed to the tool; `secret_fields` are the paths of the secrets in them, and `warnings` are about
    what people see of them. `question` is the text that an approver reads; if it is empty, the core makes one from the
    title. An `outward` tool sends something to others, and the result of an `untrusted` one is text that others wrote
    (`statemachine/outside_text.py`). `definition` identifies the definition of a tool that may change while the
    service runs; it is empty for all others.
    """

    id: str
    name: str
    title: str = ""
    arguments: JsonObject
    secret_fields: list[Path] = []
    needs_approval: bool = False
    idempotent: bool = False
    question: str = ""
    warnings: tuple[ArgumentWarning, ...] = ()
    outward: bool = False
    untrusted: bool = False
    definition: str = ""

    def warnings_as_json(self) -> list[JsonObject]:
        return [msgspec.to_builtins(warning) for warning in self.warnings]

    @property
    def shown_arguments(self) -> JsonObject:
        """The arguments as events and people see them: the same with secrets masked."""
        return mask_values(self.arguments, self.secret_fields)


class ToolCall(ResolvedCall, frozen=True, kw_only=True):
    """One entry of the tool ledger. If an approver edited the arguments, `arguments` are the edited ones."""

    confidence: Confidence = Confidence.UNKNOWN
    turn: int = 0
    status: CallStatus = field(default_factory=lambda: CallStatus.REQUESTED)
    grant: Grant | None = None
    outcome_unknown: bool = False
    result: Any = None
    error: str | None = None
    started_at: float | None = None
    ended_at: float | None = None

    @classmethod
    def of(cls, resolved: ResolvedCall, *, id: str, confidence: Confidence, turn: int) -> ToolCall:
        """Make the ledger entry of a resolved call, under an id that is unique in the run."""
        shared = {name: getattr(resolved, name) for name in ResolvedCall.__struct_fields__}
        return cls(**shared | {"id": id}, confidence=confidence, turn=turn)
