"""Tools of a shop, whose stock outlives a crash of the service as a database does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from app.tools import OutcomeUnknown, ToolContext, ToolError, resource, tool


@dataclass
class Order:
    item: str
    count: int
    key: str


@dataclass
class Stock:
    orders: list[Order] = field(default_factory=list)
    opened: int = 0
    closed: int = 0

    async def order(self, item: str, count: int, key: str) -> Order:
        self.orders.append(Order(item, count, key))
        return self.orders[-1]


STOCK = Stock()


@resource
async def stock() -> AsyncIterator[Stock]:
    STOCK.opened += 1
    yield STOCK
    STOCK.closed += 1


@tool(needs_approval=True, question="재고를 {count}개 주문하시겠습니까?")
async def order_stock(item: str, count: int, context: ToolContext, stock: Stock) -> Order:
    """Order items for the stock."""
    if item == "금":
        raise ToolError("the catalogue has no gold")
    return await stock.order(item, count, context.idempotency_key)


@tool(idempotent=True)
async def reserve(item: str, context: ToolContext, stock: Stock) -> Order:
    """Reserve an item, once for each key."""
    return await stock.order(item, 1, context.idempotency_key)


@tool()
async def send_parcel(to: str) -> str:
    """Send a parcel."""
    raise OutcomeUnknown(f"the carrier did not answer for {to}")
