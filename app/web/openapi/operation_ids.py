"""The `operationId` of each route: the names of the functions in generated clients. They never change.

A test fails for a route without one.
"""

from __future__ import annotations

OPERATION_IDS: dict[str, str] = {
    "POST /aura/test/stream": "startRun",
    "GET /aura/test/stream": "attachToRun",
    "GET /aura/approvals": "listApprovals",
    "GET /aura/approvals/{requestId}": "getApproval",
    "POST /aura/approvals/{requestId}/approve": "approve",
    "POST /aura/approvals/{requestId}/reject": "reject",
    "GET /aura/hitl/pending": "listPlatformRequests",
    "GET /aura/hitl/requests/{requestId}": "getPlatformRequest",
    "GET /aura/hitl/signals/{sessionId}": "getPlatformSignal",
    "POST /aura/hitl/approve/{requestId}": "approveForPlatform",
    "POST /aura/hitl/reject/{requestId}": "rejectForPlatform",
    "GET /aura/runs": "listRuns",
    "GET /aura/runs/{sessionId}": "getRun",
    "DELETE /aura/runs/{sessionId}": "deleteRun",
    "POST /aura/runs/{sessionId}/cancel": "cancelRun",
    "GET /aura/runs/{sessionId}/timeline": "getTimeline",
    "GET /aura/audit": "listAuditEntries",
    "GET /aura/fsm/diagram": "getDiagram",
    "GET /aura/info": "getInfo",
    "GET /health": "getHealth",
    "GET /aura/health": "getAuraHealth",
    "GET /ready": "getReadiness",
    "GET /openapi.json": "getOpenApi",
    "GET /aura/events.schema.json": "getEventsSchema",
    "GET /aura/client.js": "getClientJs",
    "GET /aura/client.d.ts": "getClientTypes",
    "GET /aura/client.ts": "getClientTs",
    "GET /aura/console": "getConsole",
    "GET /aura/console/{name}": "getConsoleFile",
    "GET /aura/console/vendor/{name}": "getConsoleLibrary",
    "POST /aura/console/token": "exchangeConsoleCode",
}
