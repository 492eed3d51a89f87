"""The tools the model may ask for, and the one choke point that runs them.

Nothing runs unless the ledger says STARTED and, for a risky tool, a person granted exactly these arguments.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import BaseModel

from app.errors import AuraError, ConfigurationError, FieldInvalid, ToolError
from app.ports.tools import CitedResult, Tool, ToolContext
from app.tools import arguments as args
from app.tools import plan
from app.tools.arguments import ArgumentsInvalid
from app.tools.results import Scrubber, answer_text, cut, jsonable
from statemachine.checkpoint import CallStatus, JsonObject, ToolCall, canonical_json, digest
from statemachine.messages import RequestedCall, ToolFinished

_log = logging.getLogger(__name__)

_RESULT_LIMIT_MINIMUM_BYTES = 256
_ERROR_LIMIT_BYTES = 2048


class ApprovalMissing(AuraError):
    """A call came to the choke point that may not run; a fault of the service, nothing was done."""

    def __init__(self, call_id: str, cause: str) -> None:
        super().__init__(f"call {call_id} may not run: {cause}")


class ToolRegistry:
    """All tools of the process. Stateless after construction, shared by every run."""

    def __init__(
        self,
        tools: Sequence[Tool],
        approval_required: frozenset[str] = frozenset(),
        default_timeout_seconds: float = 60,
        result_limit_bytes: int = 16 * 1024,
        secrets: Sequence[str] = (),
        known_names: Collection[str] = (),
    ) -> None:
        """`known_names` are tools that exist but may not be configured here: `approval_required` may name them."""
        if result_limit_bytes < _RESULT_LIMIT_MINIMUM_BYTES:
            raise ConfigurationError(f"a tool result limit below {_RESULT_LIMIT_MINIMUM_BYTES} bytes is of no use")
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self._tools or tool.name == plan.NAME:
                raise ConfigurationError(f"two tools have the name {tool.name!r}; rename one")
            self._tools[tool.name] = tool
        _check_names(approval_required, {*self._tools, *known_names})
        self._approval_required = approval_required
        self._default_timeout_seconds = default_timeout_seconds
        self._result_limit_bytes = result_limit_bytes
        self._scrubber = Scrubber(secrets)
        self._schemas = [
            *(_schema(tool.name, _first_paragraph(tool), tool.arguments) for tool in self._tools.values()),
            _schema(plan.NAME, plan.DESCRIPTION, plan.UpdatePlanArguments),
        ]

    def schemas(self) -> list[JsonObject]:
        """The `tools` array of a chat completion request; always the same object, not to be changed."""
        return self._schemas

    def needs_approval(self, name: str) -> bool:
        """Settings can add the need, never take away what a tool declares."""
        tool = self._tools.get(name)
        return name in self._approval_required or (tool is not None and tool.needs_approval)

    # --- what the model asks for --------------------------------------------------------------------------------------

    def resolve(self, call_id: str, name: str, raw_arguments: str) -> RequestedCall:
        """What a model's call means here. Never raises: what cannot be run says so in `refusal`, for the model.

        `raw_arguments` over the size limit are not kept (`{}`): they would be in every later request.
        """
        try:
            given = args.parse(raw_arguments)
            if name == plan.NAME:
                return _plan_call(call_id, raw_arguments, given)
            return self._resolved(call_id, name, raw_arguments, given)
        except ArgumentsInvalid as error:
            if name != plan.NAME and name not in self._tools:
                return self._unknown(call_id, name, raw_arguments)
            return self._refused(
                call_id, name, raw_arguments, f"{name} was not run: {error}. Correct it and call it again."
            )

    def _resolved(self, call_id: str, name: str, raw_arguments: str, given: JsonObject) -> RequestedCall:
        tool = self._tools.get(name)
        if tool is None:
            return self._unknown(call_id, name, raw_arguments)
        checked = args.validate(tool.arguments, given)
        needs_approval = self.needs_approval(name)
        arguments, shown = self._dumped(checked)
        return RequestedCall(
            id=call_id,
            name=name,
            arguments=arguments,
            raw_arguments=raw_arguments,
            shown_arguments=shown,
            title=tool.title,
            question=self._question(tool, checked) if needs_approval else "",
            needs_approval=needs_approval,
            idempotent=tool.idempotent,
        )

    def _question(self, tool: Tool, checked: BaseModel) -> str:
        try:
            return self._scrubber.text(tool.question(checked))
        except Exception as error:  # noqa: BLE001 - a broken wording must not lose the run; the core has its own
            _log.error("tool %s has no question: %s", tool.name, type(error).__name__)
            return ""

    def _unknown(self, call_id: str, name: str, raw_arguments: str) -> RequestedCall:
        words = f"There is no tool {name[:64]!r}. Available tools: {', '.join([*self._tools, plan.NAME])}."
        return self._refused(call_id, name, raw_arguments, words)

    def _refused(self, call_id: str, name: str, raw_arguments: str, words: str) -> RequestedCall:
        # No arguments are shown: what did not validate may hold a secret anywhere.
        tool = self._tools.get(name)
        return RequestedCall(
            id=call_id,
            name=name,
            arguments={},
            raw_arguments=raw_arguments if args.is_small_enough(raw_arguments) else "{}",
            title=tool.title if tool else "",
            needs_approval=self.needs_approval(name),
            idempotent=tool.idempotent if tool else False,
            refusal=cut(self._scrubber.text(words), _ERROR_LIMIT_BYTES),
            plan=() if name == plan.NAME else None,
        )

    def _dumped(self, checked: BaseModel) -> tuple[JsonObject, JsonObject]:
        """The arguments as they run, and as they are shown."""
        arguments, shown = args.dump(checked)
        return arguments, self._scrubber.json(shown)

    # --- what a person changes ----------------------------------------------------------------------------------------

    def validate_edit(self, name: str, edited: JsonObject, original: JsonObject) -> tuple[JsonObject, JsonObject]:
        """An approver's arguments instead of the `original` ones: `(arguments, shown_arguments)`.

        An approver never saw the secrets: a value that still is as it was shown keeps the original's.
        Raises `FieldInvalid`, which names the field.
        """
        tool = self._tools.get(name)
        if tool is None:
            raise FieldInvalid(f"params: the tool {name!r} is not available")
        try:
            args.check_size(_text_of(edited))
            before = args.validate(tool.arguments, original)
            real, shown = self._dumped(before)
            merged = args.restore_unchanged(edited, shown, real)
            checked = args.validate(tool.arguments, merged)
            taken = self._dumped(checked)
        except ArgumentsInvalid as error:
            raise FieldInvalid(f"params: {error}") from error
        masked = args.find_masked_field(checked)
        if masked is not None:
            raise FieldInvalid(f"params: {masked}: {args.MASK} is a mask, not a value")
        return taken

    # --- the choke point ----------------------------------------------------------------------------------------------

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolFinished:
        """Run one started call to its outcome. Raises `ApprovalMissing` where it may not run; nothing is done then.

        A grant is for one use: the ledger goes to STARTED once for each grant and loses the grant where the outcome is
        unknown. The caller hands in each started call once; cancelling it stops the tool.
        """
        self._check_permission(call)
        try:
            tool = self._tools.get(call.name)
            if tool is None:
                raise ToolError(f"the tool {call.name!r} is not available any more")
            # Checked in the same instant as the grant: no await lies between the digest and these arguments.
            checked = _checked(tool, call.arguments)
            given = await self._run(tool, checked, call.id, context)
            cited = given if isinstance(given, CitedResult) else CitedResult(given, ())
            result = self._scrubber.json(_safe(cited.result))
            sources = tuple(self._scrubber.json(_safe(source)) for source in cited.sources)
        except ToolError as error:
            cause = self._scrubber.text(error.cause)
            told = cut(self._scrubber.text(error.message), _ERROR_LIMIT_BYTES)
            return ToolFinished(call.id, answer=self._answer(call, f"The tool failed: {cause}"), error=told)
        return ToolFinished(call.id, answer=self._answer(call, answer_text(result)), result=result, sources=sources)

    def _check_permission(self, call: ToolCall) -> None:
        if call.status is not CallStatus.STARTED:
            raise ApprovalMissing(call.id, f"the ledger says {call.status.value}, not started")
        if not (call.needs_approval or self.needs_approval(call.name)):
            return
        if call.grant is None:
            raise ApprovalMissing(call.id, "nobody approved it")
        if call.grant.arguments_digest != digest(call.arguments):
            raise ApprovalMissing(call.id, "the approval is for other arguments")

    async def _run(self, tool: Tool, checked: BaseModel, call_id: str, context: ToolContext) -> Any:
        """The tool's own result. Everything that goes wrong inside becomes a `ToolError`; a cancellation passes."""
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
            raise self._broke(tool, call_id, error) from error  # something inside gave up, nobody stopped the run
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                doubt = "" if tool.idempotent else "; it may have taken effect all the same"
                raise ToolError(f"{tool.name} did not finish within {seconds:g} s{doubt}") from None
            raise self._broke(tool, call_id, error) from error

    def _broke(self, tool: Tool, call_id: str, error: BaseException) -> ToolError:
        # The message of an exception may hold an argument or a secret: only its class and place are told.
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        place = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
        kind = type(error).__name__
        _log.error("tool %s broke in call %s: %s in %s", tool.name, call_id, kind, place)
        return ToolError(f"{tool.name} broke with an unexpected {kind}")

    def _answer(self, call: ToolCall, text: str) -> str:
        if call.grant is None or not call.grant.edited:
            return cut(text, self._result_limit_bytes)
        shown = cut(canonical_json(self._scrubber.json(call.shown_arguments)), self._result_limit_bytes // 4)
        note = f"A person changed the arguments before approving. What ran: {call.name}({shown})\n"
        return note + cut(text, self._result_limit_bytes - len(note.encode()))


def _check_names(approval_required: frozenset[str], known: set[str]) -> None:
    for name in sorted(approval_required - known):
        raise ConfigurationError(
            f"AURA_APPROVAL_REQUIRED names {name!r}, which is no tool; tools are {', '.join(sorted(known))}"
        )


def _schema(name: str, description: str, model: type[BaseModel]) -> JsonObject:
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": args.json_schema(model)},
    }


def _first_paragraph(tool: Tool) -> str:
    return " ".join(inspect.cleandoc(type(tool).__doc__ or tool.title).split("\n\n")[0].split())


def _plan_call(call_id: str, raw_arguments: str, given: JsonObject) -> RequestedCall:
    try:
        steps = plan.plan_steps(args.validate(plan.UpdatePlanArguments, given))
    except ValueError as error:
        raise ArgumentsInvalid(str(error)) from error
    return RequestedCall(id=call_id, name=plan.NAME, arguments={}, raw_arguments=raw_arguments, plan=steps)


def _checked(tool: Tool, arguments: JsonObject) -> BaseModel:
    try:
        return args.validate(tool.arguments, arguments)
    except ArgumentsInvalid as error:
        raise ToolError(f"{tool.name} was not run: {error}") from error


def _text_of(edited: JsonObject) -> str:
    try:
        return canonical_json(edited)
    except (ValueError, TypeError, RecursionError):
        raise ArgumentsInvalid("the arguments contain a value that JSON does not have") from None


def _safe(result: Any) -> Any:
    try:
        return jsonable(result)
    except ValueError as error:
        raise ToolError("it ran to its end, but its result is no JSON and cannot be shown") from error
