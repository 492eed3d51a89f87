"""Clients of the service: the Python one here (`AuraClient`), and `client.js` for browsers and Node with its TypeScript
sources in `src/`. They use HTTP only and know nothing of the service's internals.

    async def main() -> None:
        async with AuraClient("http://127.0.0.1:9000", Credentials.from_token(token)) as aura:
            async for received in aura.run("메일을 보내주세요").events():
                match received.event:
                    case Content(content=text): print(text, end="")
                    case Hitl() as asked: await aura.approve(asked.request_id, asked.arguments_digest)

The client restores broken connections by itself. No event is lost or repeated, and the prompt is executed once.
"""

from app.client.client import AuraClient, Credentials, DecisionReply
from app.client.frames import ReceivedEvent
from app.client.responses import ApiError, ClientError, ConnectionLost, ServiceUnreachable, TokenUnreadable
from app.client.stream import Interrupted, Item, Resumed, RunStream

__all__ = [
    "ApiError",
    "AuraClient",
    "ClientError",
    "ConnectionLost",
    "Credentials",
    "DecisionReply",
    "Interrupted",
    "Item",
    "ReceivedEvent",
    "Resumed",
    "RunStream",
    "ServiceUnreachable",
    "TokenUnreadable",
]
