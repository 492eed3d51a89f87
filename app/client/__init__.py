"""The Python client of the service. It uses HTTP only and knows nothing of the service's internals.

    async def main() -> None:
        async with AuraClient("http://127.0.0.1:9000", Credentials.from_token(token)) as aura:
            async for received in aura.run("메일을 보내주세요").events():
                match received.event:
                    case Content(content=text): print(text, end="")
                    case Hitl() as request: await aura.approve(request.request_id, request.arguments_digest)

The client restores broken connections by itself. No event is lost or repeated, and the prompt is executed once.
"""

from .client import AuraClient, Credentials, DecisionReply
from .events import (
    ArgumentWarning,
    Content,
    End,
    ErrorRaised,
    Event,
    Hitl,
    PlanStepDeclared,
    PlanStepUpdated,
    Start,
    Thought,
    TimelineStepUpdated,
    ToolExecution,
)
from .frames import ReceivedEvent
from .response_types import ApprovalDetails, RequestPage, RunDetails, RunPage, ServiceInfo, State, Timeline
from .responses import ApiError, ClientError, ConnectionLost, ServiceUnreachable, TokenUnreadable
from .stream import Interrupted, Item, Resumed, RunStream

__all__ = [
    "ApiError",
    "ApprovalDetails",
    "ArgumentWarning",
    "AuraClient",
    "ClientError",
    "ConnectionLost",
    "Content",
    "Credentials",
    "DecisionReply",
    "End",
    "ErrorRaised",
    "Event",
    "Hitl",
    "Interrupted",
    "Item",
    "PlanStepDeclared",
    "PlanStepUpdated",
    "ReceivedEvent",
    "RequestPage",
    "Resumed",
    "RunDetails",
    "RunPage",
    "RunStream",
    "ServiceInfo",
    "ServiceUnreachable",
    "Start",
    "State",
    "Thought",
    "Timeline",
    "TimelineStepUpdated",
    "TokenUnreadable",
    "ToolExecution",
]
