"""Tools: what a tool of one's own needs is here; the registry and the built-in tools are in the modules beside.

from app.tools import ToolContext, tool

@tool(needs_approval=True, question="재고를 {count}개 주문하시겠습니까?")
async def order_stock(item: str, count: Annotated[int, Field(gt=0)], context: ToolContext) -> Order: ...
"""

from app.errors import OutcomeUnknown, ToolError
from app.ports.tools import CitedResult, ToolContext
from app.tools.definitions import resource, tool

__all__ = ["CitedResult", "OutcomeUnknown", "ToolContext", "ToolError", "resource", "tool"]
