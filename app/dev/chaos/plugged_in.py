"""Tools that the nodes of an experiment load as they load those of other packages: by `AURA_TOOLS`.

They call the warehouse (`warehouse`) and know nothing of the service but `app.tools`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx2
from pydantic import Field

from app.dev.chaos import warehouse as paths
from app.settings import environment_of_process
from app.tools import OutcomeUnknown, ToolContext, ToolError, resource, tool

URL_VARIABLE = "CHAOS_WAREHOUSE_URL"
_TIMEOUT_SECONDS = 45.0
"""It is longer than a node is ever suspended: a call that has its answer by then is not given up."""


class Warehouse:
    """A client of the warehouse."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def get(self, path: str) -> dict[str, Any]:
        return await self._request("GET", path)

    async def post(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Raises `ToolError`, and `OutcomeUnknown` where the request was sent and its answer is missing."""
        return await self._request("POST", path, json=body, headers={paths.KEY_HEADER: key})

    async def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
            raise ToolError("the warehouse cannot be reached; nothing was sent") from None
        except httpx2.TransportError as error:
            raise OutcomeUnknown("the answer of the warehouse was lost", detail=type(error).__name__) from error
        if response.is_error:
            raise ToolError(f"the warehouse refuses the request with HTTP status {response.status_code}")
        answer: dict[str, Any] = response.json()
        return answer


@resource
async def warehouse() -> AsyncIterator[Warehouse]:
    url = environment_of_process()[URL_VARIABLE]
    async with httpx2.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=False) as http:
        yield Warehouse(http)


@tool(needs_approval=True, title="재고 주문", question="재고를 {count}개 주문하시겠습니까?")
async def order_stock(
    reference: str, item: str, count: Annotated[int, Field(gt=0)], context: ToolContext, warehouse: Warehouse
) -> dict[str, Any]:
    """Order items for the stock.

    Args:
        reference: What the order is for.
        item: The name of the item.
        count: How many.
    """
    body = {"reference": reference, "item": item, "count": count}
    return await warehouse.post(paths.ORDERS, body, context.idempotency_key)


@tool(untrusted=True, idempotent=True, title="문의 읽기")
async def read_ticket(reference: str, warehouse: Warehouse) -> dict[str, Any]:
    """Read what a customer has written."""
    return await warehouse.get(f"{paths.TICKETS}/{reference}")


@tool(outward=True, title="공지", question="공지하시겠습니까?")
async def post_notice(reference: str, text: str, context: ToolContext, warehouse: Warehouse) -> dict[str, Any]:
    """Send a notice to everybody."""
    return await warehouse.post(paths.NOTICES, {"reference": reference, "text": text}, context.idempotency_key)
