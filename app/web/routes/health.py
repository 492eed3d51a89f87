"""Liveness, readiness, and what this is (§1)."""

from __future__ import annotations

import importlib.metadata

from quart import Blueprint, Response

from app.errors import ServiceBusy, StorageUnavailable
from app.ports.decisions import DecisionBus
from app.ports.journal import Journal
from app.ports.model import Model
from app.ports.nodes import Nodes
from app.ports.responses import HealthStatus, ServiceInfo
from app.runs.service import RunService
from app.web.openapi.operations import operation
from app.web.responses import ResponseBuilder
from statemachine.states import State

VERSION = importlib.metadata.version("aura-platform")


def health_routes(
    responses: ResponseBuilder,
    runs: RunService,
    nodes: Nodes,
    journal: Journal,
    decisions: DecisionBus,
    model: Model,
) -> Blueprint:
    routes = Blueprint("health", __name__)

    @routes.get("/health")
    @routes.get("/aura/health")
    @operation("Liveness", data=HealthStatus, access="anybody")
    async def health() -> Response:
        return responses.success({"status": "UP"}, message="살아 있습니다.")

    @routes.get("/ready")
    @operation(
        "Readiness: Redis answers, and this replica is not shutting down",
        data=HealthStatus,
        access="anybody",
        errors=(ServiceBusy, StorageUnavailable),
    )
    async def ready() -> Response:
        if runs.is_draining:
            raise ServiceBusy("this replica is shutting down")
        await journal.ping()
        if not nodes.has_lease:
            raise StorageUnavailable("this node has no lease at the moment")
        hints = (
            {"hints": decisions.sender_hints} if decisions.sender_hints else {}
        )  # ready all the same: others' decisions do arrive
        return responses.success({"status": "UP", **hints}, message="준비되었습니다.")

    @routes.get("/aura/info")
    @operation("What this is", data=ServiceInfo, access="anybody")
    async def info() -> Response:
        about: ServiceInfo = {
            "name": "aura-platform",
            "version": VERSION,
            "model": model.name,
            "states": list(State),
        }
        return responses.success(about, message="Aura-Platform")

    return routes
