"""The Python client of the service: `AuraClient`, and `SyncAuraClient` for code without an event loop. It uses HTTP
only and knows nothing of the service's internals.

    async def main() -> None:
        async with AuraClient("http://127.0.0.1:9000", Credentials.from_token(token)) as aura:
            async for received in aura.run("메일을 보내주세요").events():
                match received.event:
                    case Content(content=text): print(text, end="")
                    case Hitl() as request: await aura.approve(request.request_id, request.arguments_digest)

The client restores broken connections by itself. No event is lost or repeated, and the prompt is executed once.

These modules are `app.client` in the service, where the client for JavaScript is beside them, and `aura_client` in the
distribution `aura-client`. So they import each other by relative names, and nothing else of the service.
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
from .sync_client import SyncAuraClient, SyncRunStream

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
    "SyncAuraClient",
    "SyncRunStream",
    "Thought",
    "Timeline",
    "TimelineStepUpdated",
    "TokenUnreadable",
    "ToolExecution",
]
