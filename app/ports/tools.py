"""The tools that the model may call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel

from statemachine.call import ArgumentWarning, ToolCall
from statemachine.masking import Path
from statemachine.messages import RequestedCall, ToolFinished
from statemachine.stored import JsonObject


@dataclass(frozen=True, slots=True)
class ToolContext:
    """The run and the user that a tool runs for. `idempotency_key` is the same in each attempt of one call.

    `email` is the address in the user's token, None if it has none.
    """

    session_id: str
    tenant_id: str
    user_id: str
    idempotency_key: str
    email: str | None = None


@dataclass(frozen=True, slots=True)
class CitedResult:
    """A tool's result with its sources: small JSON objects, published as the `sources` of a thought (§2.2)."""

    result: Any
    sources: tuple[JsonObject, ...]


class CheckedArguments(NamedTuple):
    """The validated arguments of a call, defaults included, the paths of the secrets in them, and warnings."""

    arguments: JsonObject
    secret_fields: tuple[Path, ...]
    warnings: tuple[ArgumentWarning, ...]


class Tool(Protocol):
    """One tool. `arguments` is the pydantic model of its arguments, whose JSON schema the language model reads.

    The language model also reads the first paragraph of the class docstring. Arguments of type `SecretStr` are masked
    in events. `timeout_seconds` is None for the registry's default.

    A tool may have more attributes, each with a default:

    - `outward` (False): it sends something to others. Once a run has read text that others wrote, such a tool needs
      an approval, whatever `needs_approval` says.
    - `untrusted` (False): its result is text that others wrote, such as mails or web pages.
    - `description` (the first paragraph of the class docstring), `source` ("built in"): where the tool is from, for
      operators. `approval_reason`: why it needs an approval, for operators.
    """

    name: str
    title: str
    arguments: type[BaseModel]
    needs_approval: bool
    idempotent: bool
    timeout_seconds: float | None

    def question(self, arguments: Any) -> str:
        """Returns the question that the approver is asked before the call, e.g. `이메일을 발송하시겠습니까?`."""
        ...

    async def run(self, arguments: Any, context: ToolContext) -> Any:
        """Runs one call and returns its result: a value that can be written as JSON, or a `CitedResult`.

        Raises `ToolError`, whose message the language model reads, and `OutcomeUnknown` where the call may have taken
        effect although it failed: then a person decides whether it is repeated, unless the tool is idempotent.
        """
        ...


class Toolbox(Protocol):
    """All tools of the process. Calls are validated and run here and nowhere else."""

    def schemas(self, allowed: tuple[str, ...] | None = None) -> list[JsonObject]:
        """Returns the `tools` array of a chat completion request.

        `allowed` are names, or patterns such as `crm__*`, of the tools that the run may use; None: all.
        """
        ...

    def resolve(
        self, call_id: str, name: str, raw_arguments: str, allowed: tuple[str, ...] | None = None
    ) -> RequestedCall:
        """Validates a call that the language model requested. Never raises: a call that cannot run has a `refusal`.

        A tool that is not `allowed` does not exist for the run.
        """
        ...

    def validate_edit(self, name: str, arguments: JsonObject, original: JsonObject) -> CheckedArguments:
        """Validates the arguments that an approver sent instead of the `original` ones.

        Raises `FieldInvalid`, which names the field.
        """
        ...

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolFinished:
        """Runs one started call and returns its outcome, which may be an error.

        Raises an `AuraError` and runs nothing if the call is not started, or if it needs an approval and has none for
        exactly these arguments. Cancelling it stops the tool.
        """
        ...
