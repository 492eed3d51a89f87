"""Validates the tool calls that the model requests, and runs them; tools are run nowhere else.

A call runs only if its status in the checkpoint is STARTED and, if its tool needs approval, an approver has granted
exactly these arguments.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import BaseModel

from app.errors import AuraError, ConfigurationError, FieldInvalid, OutcomeUnknown, ToolError, without_addresses
from app.ports.tools import CheckedArguments, CitedResult, Tool, ToolContext
from app.tools import arguments as args
from app.tools import plan
from app.tools.argument_warnings import find_warnings
from app.tools.arguments import ArgumentsInvalid
from app.tools.registered import RegisteredTool, ToolSet
from app.tools.results import SecretMask, answer_text, to_json, truncate
from statemachine.call import CallStatus, ToolCall
from statemachine.masking import MASK, find_masked
from statemachine.messages import RequestedCall, ToolFinished
from statemachine.stored import JsonObject, canonical_json, digest

_log = logging.getLogger(__name__)

_RESULT_LIMIT_MINIMUM_BYTES = 256
_ERROR_LIMIT_BYTES = 2048
_REFUSED_TEXT = "the arguments hold a secret of this service, such as a password or a key; leave it out"


class ApprovalMissing(AuraError):
    """A call that may not run was to be executed, which is a bug of the service. The tool was not run."""

    def __init__(self, call_id: str, cause: str) -> None:
        super().__init__(f"call {call_id} may not run: {cause}")


class ToolRegistry:
    """All tools of the process (`ports.tools.Toolbox`), shared by all runs."""

    def __init__(
        self,
        tools: Sequence[Tool],
        approval_required: frozenset[str] = frozenset(),
        default_timeout_seconds: float = 60,
        result_limit_bytes: int = 16 * 1024,
        secrets: Sequence[str] = (),
        known_names: Collection[str] = (),
    ) -> None:
        """`approval_required` may name the given tools and those in `known_names`, which need not be configured here;
        both may have patterns such as `crm__*`.

        Raises `ConfigurationError`.
        """
        if result_limit_bytes < _RESULT_LIMIT_MINIMUM_BYTES:
            raise ConfigurationError(f"the tool result limit must be at least {_RESULT_LIMIT_MINIMUM_BYTES} bytes")
        self._tools = ToolSet(approval_required)
        self._tools.add(tools)
        self._tools.check_required_names(known_names)
        self._default_timeout_seconds = default_timeout_seconds
        self._result_limit_bytes = result_limit_bytes
        self._mask = SecretMask(secrets)

    def schemas(self, allowed: tuple[str, ...] | None = None) -> list[JsonObject]:
        """Return the `tools` array of a chat completion request. It is shared: do not change it."""
        return self._tools.schemas(allowed)

    def select(self, allowed: tuple[str, ...] | None = None) -> list[RegisteredTool]:
        """Return the tools that the model is offered, with their marks. `allowed` are names or patterns; None: all."""
        return self._tools.select(allowed)

    def replace(self, source: str, tools: Sequence[Tool]) -> None:
        """Replace the tools of a source while the service runs. A call that was requested before and whose tool is
        another one now is not run.

        Raises `ConfigurationError` and changes nothing where a tool of another source has one of the names.
        """
        self._tools.replace(source, tools)

    def needs_approval(self, name: str) -> bool:
        """Whether a tool needs approval: because it declares so, or because the settings require it in addition."""
        registered = self._tools.find(name)
        return self._tools.is_approval_required(name) if registered is None else registered.needs_approval

    # --- calls that the model requests --------------------------------------------------------------------------------

    def resolve(
        self, call_id: str, name: str, raw_arguments: str, allowed: tuple[str, ...] | None = None
    ) -> RequestedCall:
        """Validates a call that the model requested. Never raises: a call that cannot run has a `refusal` text.

        `raw_arguments` over the size limit are replaced by `{}`, because every later request would contain them.
        """
        registered = self._tools.find(name, allowed)
        if registered is None and name != plan.NAME:
            return self._refuse_unknown(call_id, name, raw_arguments, allowed)
        try:
            given = args.parse(raw_arguments)
            if registered is None:
                return _plan_call(call_id, raw_arguments, given)
            return self._resolve_known(call_id, registered, raw_arguments, given)
        except ArgumentsInvalid as error:
            return self._refuse(
                call_id, name, raw_arguments, f"{name} was not run: {error}. Correct it and call it again."
            )

    def _resolve_known(
        self, call_id: str, registered: RegisteredTool, raw_arguments: str, given: JsonObject
    ) -> RequestedCall:
        tool = registered.tool
        checked = args.validate(tool.arguments, given)
        resolved = self._check(checked)
        may_wait = registered.needs_approval or registered.outward  # the core can require an approval of its own
        return RequestedCall(
            id=call_id,
            name=tool.name,
            arguments=resolved.arguments,
            raw_arguments=raw_arguments,
            secret_fields=list(resolved.secret_fields),
            warnings=resolved.warnings,
            title=tool.title,
            question=self._question(tool, checked) if may_wait else "",
            needs_approval=registered.needs_approval,
            idempotent=tool.idempotent,
            outward=registered.outward,
            untrusted=registered.untrusted,
            definition=registered.definition,
        )

    def _question(self, tool: Tool, checked: BaseModel) -> str:
        try:
            return self._mask.text(tool.question(checked))
        except Exception as error:  # noqa: BLE001 - a bug in the text must not end the run; the core has a default question
            _log.error("tool %s failed to build its question: %s", tool.name, type(error).__name__)
            return ""

    def _refuse_unknown(
        self, call_id: str, name: str, raw_arguments: str, allowed: tuple[str, ...] | None
    ) -> RequestedCall:
        cause = f"The tool {name[:64]!r} does not exist." if name else "The call names no tool."
        names = [tool.name for tool in self._tools.select(allowed)]
        reason = f"{cause} Available tools: {', '.join([*names, plan.NAME])}."
        return self._refuse(call_id, name, raw_arguments, reason)

    def _refuse(self, call_id: str, name: str, raw_arguments: str, reason: str) -> RequestedCall:
        # No arguments are shown: arguments that are not valid may contain a secret anywhere.
        registered = self._tools.find(name)
        return RequestedCall(
            id=call_id,
            name=name,
            arguments={},
            raw_arguments=raw_arguments if args.is_small_enough(raw_arguments) else "{}",
            title=registered.tool.title if registered else "",
            needs_approval=self.needs_approval(name),
            idempotent=registered.tool.idempotent if registered else False,
            refusal=truncate(self._mask.text(reason), _ERROR_LIMIT_BYTES),
            plan=() if name == plan.NAME else None,
        )

    def _check(self, checked: BaseModel) -> CheckedArguments:
        """Returns validated arguments, the paths of the secrets in them, and the warnings about them.

        Raises `ArgumentsInvalid` if a secret of the service is in them: people would see a mask, and the tool would
        send the secret; and if the tool cannot take them back once they were stored: nobody shall approve them in vain.
        """
        arguments, shown = args.dump(checked)
        try:
            args.validate(type(checked), arguments)
        except ArgumentsInvalid as error:
            raise ArgumentsInvalid(f"the tool's arguments cannot be stored as JSON and read again ({error})") from None
        if self._mask.finds_secret(arguments):
            raise ArgumentsInvalid(_REFUSED_TEXT)
        return CheckedArguments(arguments, tuple(find_masked(arguments, shown)), find_warnings(shown, checked))

    # --- arguments that an approver changes ---------------------------------------------------------------------------

    def validate_edit(self, name: str, edited: JsonObject, original: JsonObject) -> CheckedArguments:
        """Validates the arguments that an approver has edited, and computes the warnings about them.

        The approver saw masks instead of secrets, so a value that is unchanged from what was shown is replaced by the
        `original` one. Raises `FieldInvalid`, which names the field.
        """
        registered = self._tools.find(name)
        if registered is None:
            raise FieldInvalid(f"params: the tool {name!r} is not available")
        tool = registered.tool
        try:
            args.check_size(_json_text(edited))
            plain, shown = args.dump(args.validate(tool.arguments, original))
            merged = args.restore_unchanged(edited, shown, plain)
            checked = args.validate(tool.arguments, merged)
            result = self._check(checked)
        except ArgumentsInvalid as error:
            raise FieldInvalid(f"params: {error}") from error
        masked = args.find_masked_field(checked)
        if masked is not None:
            raise FieldInvalid(f"params: {masked}: {MASK} is a mask, not a value")
        return result

    # --- execution ----------------------------------------------------------------------------------------------------

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolFinished:
        """Runs one started call and returns its outcome. Raises `ApprovalMissing`, and runs nothing, if it may not run.

        A grant is valid for one execution: the core sets the status STARTED once for each grant and removes the grant
        if the outcome is unknown. The caller must pass each started call once. Cancelling it stops the tool.
        """
        self._check_permission(call)
        try:
            tool = self._find_unchanged(call)
            # No await between the check of the digest and this line, so that the arguments cannot change.
            checked = _validate_stored(tool, call.arguments)
            if self._mask.finds_secret(call.arguments):  # an earlier version has stored the call
                raise ToolError(f"{tool.name} was not run: {_REFUSED_TEXT}")
            output = await self._run(tool, checked, call.id, context)
            cited = output if isinstance(output, CitedResult) else CitedResult(output, ())
            result = self._mask.json(_json_result(cited.result))
            sources = tuple(self._mask.json(_json_result(source)) for source in cited.sources)
        except ToolError as error:
            _log.warning("tool %s failed in call %s: %s", call.name, call.id, error.log_cause)
            cause = self._mask.text(without_addresses(error.cause))  # a tool may quote what a library says
            message = truncate(self._mask.text(without_addresses(error.message)), _ERROR_LIMIT_BYTES)
            answer = self._answer(call, f"The tool failed: {cause}")
            return ToolFinished(
                call.id, answer=answer, error=message, outcome_unknown=isinstance(error, OutcomeUnknown)
            )
        return ToolFinished(call.id, answer=self._answer(call, answer_text(result)), result=result, sources=sources)

    def _find_unchanged(self, call: ToolCall) -> Tool:
        """Return the tool of a call. Raises `ToolError` where it is gone, or is another one than when it was called."""
        registered = self._tools.find(call.name)
        if registered is None:
            raise ToolError(f"the tool {call.name!r} is not available any more")
        if registered.definition != call.definition:
            raise ToolError(
                f"{call.name} was not run: the tool has changed since it was called; read its description, and call it"
                " again if it still fits"
            )
        return registered.tool

    def _check_permission(self, call: ToolCall) -> None:
        if call.status is not CallStatus.STARTED:
            raise ApprovalMissing(call.id, f"its status is {call.status.value}, not started")
        registered = self._tools.find(call.name)
        is_changed = registered is not None and registered.definition != call.definition  # then it is not run at all
        if not call.needs_approval and (is_changed or not self.needs_approval(call.name)):
            return
        if call.grant is None:
            raise ApprovalMissing(call.id, "it has no approval")
        if call.grant.arguments_digest != digest(call.arguments):
            raise ApprovalMissing(call.id, "the approval is for other arguments")

    async def _run(self, tool: Tool, checked: BaseModel, call_id: str, context: ToolContext) -> Any:
        """Returns the tool's own result. Raises `ToolError` for every error in it; a cancellation passes through."""
        seconds = self._default_timeout_seconds if tool.timeout_seconds is None else tool.timeout_seconds
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await tool.run(checked, context)
        except ToolError:
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _log_crash(tool, call_id, error) from error  # raised inside the tool: the run is not cancelled
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # also SystemExit, which would end the service, and groups of such errors
            if isinstance(error, TimeoutError) and limit.expired():
                doubt = "" if tool.idempotent else "; it may have taken effect all the same"
                raise ToolError(f"{tool.name} did not finish within {seconds:g} s{doubt}") from None
            raise _log_crash(tool, call_id, error) from error

    def _answer(self, call: ToolCall, text: str) -> str:
        if call.grant is None or not call.grant.edited:
            return truncate(text, self._result_limit_bytes)
        shown = truncate(canonical_json(self._mask.json(call.shown_arguments)), self._result_limit_bytes // 4)
        note = f"A person changed the arguments before approving. What ran: {call.name}({shown})\n"
        return note + truncate(text, self._result_limit_bytes - len(note.encode()))


def _log_crash(tool: Tool, call_id: str, error: BaseException) -> ToolError:
    """Logs an unexpected exception. Returns an error that names only its class: its message may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    place = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    kind = type(error).__name__
    _log.error("tool %s crashed in call %s: %s in %s", tool.name, call_id, kind, place)
    return ToolError(f"{tool.name} failed with an unexpected {kind}")


def _plan_call(call_id: str, raw_arguments: str, arguments: JsonObject) -> RequestedCall:
    try:
        steps = plan.plan_steps(args.validate(plan.UpdatePlanArguments, arguments))
    except ValueError as error:
        raise ArgumentsInvalid(str(error)) from error
    return RequestedCall(id=call_id, name=plan.NAME, arguments={}, raw_arguments=raw_arguments, plan=steps)


def _validate_stored(tool: Tool, arguments: JsonObject) -> BaseModel:
    try:
        return args.validate(tool.arguments, arguments)
    except ArgumentsInvalid as error:
        raise ToolError(f"{tool.name} was not run: {error}") from error


def _json_text(edited: JsonObject) -> str:
    try:
        return canonical_json(edited)
    except (ValueError, TypeError, RecursionError):
        raise ArgumentsInvalid("the arguments contain a value that JSON does not have") from None


def _json_result(result: Any) -> Any:
    try:
        return to_json(result)
    except Exception as error:  # a result may run code of the tool: a generator, a serializer
        raise ToolError("the tool finished, but its result is not JSON and cannot be shown") from error
