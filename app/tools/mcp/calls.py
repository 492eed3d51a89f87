"""One call of a tool of an MCP server: its rounds, its time, and what is known when it fails."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from mcp import MCPError
from mcp_types import (
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    ElicitRequest,
    ElicitResult,
    InputRequiredResult,
    InputResponses,
)
from pydantic import TypeAdapter, ValidationError

from app.errors import OutcomeUnknown, ToolError
from app.tools.mcp import texts
from app.tools.mcp.link import CallTimedOut, Link
from app.tools.mcp.request_states import CallIdentity, RequestStates
from statemachine.stored import JsonObject

MAX_DECLINED_ROUNDS = 1
"""How often a server that requests input gets a refusal, before the call is given up."""
_CONNECTION_CLOSED, _REQUEST_TIMEOUT, _PARSE_ERROR, _HEADER_MISMATCH = -32000, -32001, -32700, -32020
_RESULT: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(CallToolResult | InputRequiredResult)


@dataclass(frozen=True, slots=True)
class Call:
    """A call that may be sent. `server_tool` is the server's own name of the tool."""

    identity: CallIdentity
    server_tool: str
    arguments: JsonObject
    idempotent: bool
    timeout_seconds: float


class SessionEnded(Exception):
    """The server has refused the call because it does not know the session of the connection any more."""


async def run_call(link: Link, call: Call, states: RequestStates) -> CallToolResult:
    """Send the call and return its result.

    Raises `SessionEnded`; `OutcomeUnknown` if the call was sent and it is not known whether it ran, unless repeating it
    has no effect; and `ToolError` in every other case.
    """
    deadline = asyncio.get_running_loop().time() + call.timeout_seconds
    responses: InputResponses | None = None
    sealed: str | None = None
    for _ in range(MAX_DECLINED_ROUNDS + 1):
        state = None if sealed is None else states.open(sealed, call.identity)
        answered = await _send(link, call, responses, state, deadline)
        if isinstance(answered, CallToolResult):
            return answered
        responses = _declined(answered)
        sealed = None if answered.request_state is None else states.seal(answered.request_state, call.identity)
    raise ToolError(
        f"{_named(call)} requests input from a person, which this service refuses for now, and did not go on without it"
    )


def _declined(answered: InputRequiredResult) -> InputResponses:
    """Return a refusal for each request for input. Raises `ToolError` for what the server must not request."""
    requests = answered.input_requests or {}
    if not all(isinstance(request, ElicitRequest) for request in requests.values()):
        raise ToolError("the MCP server requests a model or a list of folders, which this service does not offer")
    return {key: ElicitResult(action="decline") for key in requests}


async def _send(
    link: Link, call: Call, responses: InputResponses | None, state: str | None, deadline: float
) -> CallToolResult | InputRequiredResult:
    # Not `session.call_tool`: it checks results against the server's own schema, at a cost that has no bound.
    params = CallToolRequestParams(
        name=call.server_tool, arguments=call.arguments, input_responses=responses, request_state=state
    )
    request = link.client.session.send_request(CallToolRequest(params=params), _RESULT)
    try:
        return await link.send(request, max(0.0, deadline - asyncio.get_running_loop().time()))
    except CallTimedOut:
        link.check()
        raise _unknown(call, f"did not answer within {call.timeout_seconds:g} s") from None
    except MCPError as error:
        raise _failure(link, call, error) from error
    except ValidationError:
        raise _unknown(call, "sent an answer that is not one of the protocol") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise _unknown(call, "was lost during the call", type(error).__name__) from error


def _failure(link: Link, call: Call, error: MCPError) -> Exception:
    """Return what an error means: of the transport, of the SDK, or of the server, whose codes may be the same."""
    known = None if link.transport is None else link.transport.failure_of(error.data)
    if known is not None:
        status = known["status"]
        if not known["was_sent"]:
            return ToolError(f"{_named(call)} cannot be reached; nothing was sent", detail=error.message)
        if status is not None and 400 <= status < 500:
            return ToolError(f"{_named(call)} refuses the call with HTTP status {status}; it did not run")
        return _unknown(call, "was lost during the call", error.message)
    if not link.is_modern and error.message in ("Session terminated", "Session not found"):
        return SessionEnded()
    if error.code in (_CONNECTION_CLOSED, _REQUEST_TIMEOUT) or link.lost.is_set():
        return _unknown(call, "was lost during the call", texts.error(link.cause or error.message))
    if error.code == _PARSE_ERROR:
        return _unknown(call, "sent an answer that is not one of the protocol, or is too large", error.message)
    if error.code == _HEADER_MISMATCH:
        return ToolError(f"{_named(call)} has changed the tool; it did not run. Call it again")
    return ToolError(f"{_named(call)} answers with an error ({error.code}): {texts.error(error.message)}")


def _unknown(call: Call, what: str, detail: str = "") -> ToolError:
    """Return the error of a call that was sent and of which no result is known."""
    if call.idempotent:
        return ToolError(f"{_named(call)} {what}; the call can be repeated", detail=detail)
    return OutcomeUnknown(f"{_named(call)} {what}; the call may have taken effect all the same", detail=detail)


def _named(call: Call) -> str:
    return f"the MCP server {call.identity.server!r}"


def not_connected(server: str, cause: Any) -> ToolError:
    """Return the error of a call for which there is no connection."""
    return ToolError(f"the MCP server {server!r} is not connected; nothing was sent", detail=str(cause))
