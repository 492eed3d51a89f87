"""A client that openapi-python-client generates: it starts a run and approves what the run asks for."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from aura_platform_client import AuthenticatedClient
from aura_platform_client.api.approvals import approve, get_approval
from aura_platform_client.api.runs import list_approvals, list_runs
from aura_platform_client.api.stream import start_run
from aura_platform_client.models import (
    ApiError,
    ApproveBody,
    DecisionResultResponse,
    PendingRequest,
    RequestPageResponse,
    RunPageResponse,
    StreamBody,
)


async def main() -> None:
    client = AuthenticatedClient(base_url=os.environ["SERVICE_URL"], token=os.environ["TOKEN"])
    who: dict[str, Any] = {
        "client": client,
        "x_tenant_id": os.environ["TENANT"],
        "x_user_id": os.environ["USER"],
    }
    unknown = await get_approval.asyncio("req-none", **who)
    assert isinstance(unknown, ApiError)
    print(unknown.error_code)
    running = asyncio.create_task(start_run.asyncio_detailed(body=StreamBody(prompt="메모"), **who))
    asked = await first_request(who)
    decided = await approve.asyncio(asked.request_id, body=ApproveBody(arguments_digest=asked.arguments_digest), **who)
    assert isinstance(decided, DecisionResultResponse), decided
    print(decided.data.status)
    stream = await running
    assert isinstance(stream.parsed, str)
    assert stream.parsed.endswith("data: [DONE]\n\n")
    runs = await list_runs.asyncio(**who)
    assert isinstance(runs, RunPageResponse)
    print({"done": "completed"}.get(runs.data.runs[0].state))


async def first_request(who: dict[str, Any]) -> PendingRequest:
    while True:
        page = await list_approvals.asyncio(**who)
        assert isinstance(page, RequestPageResponse), page
        if page.data.requests:
            return page.data.requests[0]
        await asyncio.sleep(0.05)


asyncio.run(main())
