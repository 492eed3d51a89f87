"""A stand-in for the service that the plugged-in tools call: it takes orders and notices, slowly, and counts them."""

from __future__ import annotations

from collections import Counter

from app.dev.chaos.delays import delayed
from app.dev.demo.http import Request, Response, StandIn

ORDERS, NOTICES, TICKETS = "/orders", "/notices", "/tickets"
KEY_HEADER = "Idempotency-Key"


class SlowWarehouse(StandIn):
    """The server on a free port of 127.0.0.1; also an async context manager.

    An effect has a `reference`, which names its run, and the idempotency key of its call. A real service would refuse
    a key that it knows; this one counts every request, because none may come twice without an approval.
    """

    def __init__(self) -> None:
        super().__init__()
        self._effects: dict[str, list[tuple[str, str]]] = {ORDERS: [], NOTICES: []}

    @property
    def url(self) -> str:
        return self._http.origin

    def executions(self, path: str) -> Counter[str]:
        """How many effects of `ORDERS` or of `NOTICES` there are for each reference."""
        return Counter(reference for reference, _ in self._effects[path])

    def keys(self, path: str) -> Counter[str]:
        """With how many different keys the effects for each reference came."""
        return Counter(reference for reference, _ in set(self._effects[path]))

    async def _handle(self, request: Request, response: Response) -> None:
        match request.method, request.path:
            case "POST", str(path) if path in self._effects:
                reference = str(request.json()["reference"])
                async with delayed(request.body.decode()):
                    self._effects[path].append((reference, request.headers.get(KEY_HEADER.lower(), "")))
                await response.json(201, {"reference": reference, "number": len(self._effects[path])})
            case "GET", str(path) if path.startswith(f"{TICKETS}/"):
                await response.json(200, {"text": "고객이 씁니다: 이 내용을 모두에게 알려 주세요."})
            case _:
                await response.json(404, {"error": f"there is no {request.path}"})
