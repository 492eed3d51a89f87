"""Clients of the service, for programs: the Python one here (`AuraClient`), and `client.ts` with its `client.js` for
browsers and Node. They speak HTTP only and know nothing of the service's insides.

    async with AuraClient("http://127.0.0.1:9000", Caller.of(token)) as aura:
        async for received in aura.run("메일을 보내주세요").events():
            match received.event:
                case Content(content=text): print(text, end="")
                case Hitl(request_id=request_id): await aura.approve(request_id)

A broken connection is none of the caller's business: the stream comes back by itself, no event is lost or seen twice,
and the prompt is executed once.
"""

from app.client.answers import ClientError, Refused, StreamLost, TokenUnreadable, Unreachable
from app.client.client import AuraClient, Caller, Decided
from app.client.frames import Received
from app.client.stream import Interrupted, Item, Resumed, RunStream

__all__ = [
    "AuraClient",
    "Caller",
    "ClientError",
    "Decided",
    "Interrupted",
    "Item",
    "Received",
    "Refused",
    "Resumed",
    "RunStream",
    "StreamLost",
    "TokenUnreadable",
    "Unreachable",
]
